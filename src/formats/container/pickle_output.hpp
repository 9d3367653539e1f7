#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.hpp"

namespace reshard::formats {

/// A pickle of protocol 2 that grows opcode by opcode: what stands for plain values, and any other
/// opcode by its byte.
class PickleOutput {
 public:
  /// An opcode with its argument, byte by byte.
  void op(std::string_view bytes) { bytes_ += bytes; }
  void op(char byte) { bytes_ += byte; }

  void boolean(bool value) { op(value ? '\x88' : '\x89'); }

  void natural(std::uint64_t number) {
    if (number <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return integer(static_cast<std::int64_t>(number));
    }
    op("\x8a\x09");
    little_endian(number, 8);
    op('\0');
  }

  void integer(std::int64_t number) {
    const auto bits = static_cast<std::uint64_t>(number);
    if (number >= 0 && number <= 0xff) {
      op('K');
      little_endian(bits, 1);
    } else if (number >= 0 && number <= 0xffff) {
      op('M');
      little_endian(bits, 2);
    } else if (number == static_cast<std::int32_t>(number)) {
      op('J');
      little_endian(bits, 4);
    } else {
      op("\x8a\x08");
      little_endian(bits, 8);
    }
  }

  void real(double number) {
    op('G');
    const auto bits = std::bit_cast<std::uint64_t>(number);
    for (int shift = 56; shift >= 0; shift -= 8) op(static_cast<char>(bits >> shift));
  }

  void text(std::string_view utf8) {
    constexpr std::uint64_t longest = 0xffffffff;
    if (utf8.size() > longest) throw Error(Kind::input, "a text above 4 GiB cannot be written");
    op('X');
    little_endian(utf8.size(), 4);
    op(utf8);
  }

  void global(std::string_view module, std::string_view name) {
    op('c');
    op(module);
    op('\n');
    op(name);
    op('\n');
  }

  void little_endian(std::uint64_t number, int width) {
    for (int i = 0; i < width; ++i) op(static_cast<char>(number >> (8 * i)));
  }

  /// All of it, with the protocol before and STOP behind.
  std::string take() { return "\x80\x02" + std::exchange(bytes_, {}) + '.'; }

 private:
  std::string bytes_;
};

}  // namespace reshard::formats
