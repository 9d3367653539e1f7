#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "core/error.hpp"
#include "formats/container/pickle_machine.hpp"

namespace reshard::formats {

/// A pickle's bytes, read front to back; PickleTruncated when they end before what is asked for.
class PickleInput {
 public:
  explicit PickleInput(std::span<const std::byte> bytes)
      : text_(reinterpret_cast<const char*>(bytes.data()), bytes.size()) {}

  std::uint64_t position() const { return position_; }

  std::string_view take(std::uint64_t count) {
    if (count > text_.size() - position_) throw PickleTruncated{};
    const std::string_view taken = text_.substr(position_, count);
    position_ += count;
    return taken;
  }

  /// A little-endian unsigned integer of `width` bytes.
  std::uint64_t number(std::size_t width) {
    std::uint64_t value = 0;
    std::memcpy(&value, take(width).data(), width);
    return value;
  }

  std::int32_t int32() { return static_cast<std::int32_t>(number(4)); }

  /// A length of 4 signed bytes.
  std::uint64_t length32() {
    const std::int32_t length = int32();
    if (length < 0) throw Error(Kind::input, "negative length " + std::to_string(length));
    return static_cast<std::uint64_t>(length);
  }

  double big_endian_double() {
    std::uint64_t value = 0;
    for (const char c : take(8)) value = value << 8 | static_cast<unsigned char>(c);
    return std::bit_cast<double>(value);
  }

  std::string_view line() {
    const std::size_t end = text_.find('\n', position_);
    if (end == std::string_view::npos) throw PickleTruncated{};
    const std::string_view taken = take(end - position_);
    take(1);
    return taken;
  }

 private:
  std::string_view text_;
  std::uint64_t position_ = 0;
};

}  // namespace reshard::formats
