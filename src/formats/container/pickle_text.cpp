#include "formats/container/pickle_text.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace reshard::formats {
namespace {

constexpr std::size_t max_digits = 308;

unsigned char byte_at(std::string_view text, std::size_t i) {
  return static_cast<unsigned char>(text[i]);
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// The number of exactly `count` hex digits at the begin of text, if they are there.
std::optional<std::uint32_t> hex_number(std::string_view text, std::size_t count) {
  if (text.size() < count) return std::nullopt;
  std::uint32_t value = 0;
  for (const char c : text.substr(0, count)) {
    if (hex_digit(c) < 0) return std::nullopt;
    value = value << 4 | static_cast<std::uint32_t>(hex_digit(c));
  }
  return value;
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3f)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | code >> 6);
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0 | code >> 12);
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xf0 | code >> 18);
    tail(12), tail(6), tail(0);
  }
}

/// Two's complement: bits inverted, plus one.
void negate(std::string& little_endian) {
  unsigned carry = 1;
  for (char& c : little_endian) {
    carry += static_cast<unsigned char>(~static_cast<unsigned char>(c));
    c = static_cast<char>(carry);
    carry >>= 8;
  }
}

}  // namespace

std::optional<std::int64_t> small_integer(std::string_view little_endian) {
  if (little_endian.size() > 8) return std::nullopt;
  const bool negative = !little_endian.empty() && (little_endian.back() & 0x80) != 0;
  std::uint64_t value = negative ? ~std::uint64_t{0} : 0;
  std::memcpy(&value, little_endian.data(), little_endian.size());
  return static_cast<std::int64_t>(value);
}

std::string_view shortest(std::string_view little_endian) {
  const auto is_redundant = [&] {
    const unsigned char last = byte_at(little_endian, little_endian.size() - 1);
    const bool high = (byte_at(little_endian, little_endian.size() - 2) & 0x80) != 0;
    return (last == 0 && !high) || (last == 0xff && high);
  };
  while (little_endian.size() > 1 && is_redundant()) little_endian.remove_suffix(1);
  return little_endian;
}

std::string decimal_of(std::string_view little_endian) {
  std::string magnitude(little_endian);
  const bool negative = !magnitude.empty() && (magnitude.back() & 0x80) != 0;
  if (negative) negate(magnitude);
  std::string digits;
  while (!magnitude.empty()) {
    unsigned remainder = 0;
    for (std::size_t i = magnitude.size(); i-- > 0;) {
      remainder = remainder << 8 | byte_at(magnitude, i);
      magnitude[i] = static_cast<char>(remainder / 10);
      remainder %= 10;
    }
    digits += static_cast<char>('0' + remainder);
    while (!magnitude.empty() && magnitude.back() == 0) magnitude.pop_back();
  }
  if (digits.empty()) digits += '0';
  if (negative) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string integer_bytes(std::string_view decimal) {
  const bool negative = decimal.starts_with('-');
  const std::string_view digits = decimal.substr(negative ? 1 : 0);
  const bool numeric =
      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (digits.empty() || !numeric || digits.size() > max_digits) {
    throw Error(Kind::input, "not an integer, or one of too many digits: \"" +
                                 std::string(decimal.substr(0, 40)) + "\"");
  }
  std::string bytes;
  for (const char digit : digits) {
    unsigned carry = static_cast<unsigned>(digit - '0');
    for (char& c : bytes) {
      carry += static_cast<unsigned char>(c) * 10u;
      c = static_cast<char>(carry);
      carry >>= 8;
    }
    if (carry != 0) bytes += static_cast<char>(carry);
  }
  bytes += '\0';
  if (negative) negate(bytes);
  bytes.resize(shortest(bytes).size());
  return bytes;
}

double real_of_text(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) {
    throw Error(Kind::input, "not a number: \"" + std::string(text.substr(0, 40)) + "\"");
  }
  return value;
}

std::string unescape_string(std::string_view literal) {
  if (literal.size() < 2 || literal.front() != literal.back() ||
      (literal.front() != '\'' && literal.front() != '"')) {
    throw Error(Kind::input, "a string without its quotes");
  }
  literal = literal.substr(1, literal.size() - 2);
  constexpr std::string_view names = "\\'\"abfnrtv", values = "\\'\"\a\b\f\n\r\t\v";
  std::string out;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      out += literal[i];
      continue;
    }
    const char escape = literal[++i];
    const auto code = escape == 'x' ? hex_number(literal.substr(i + 1), 2) : std::nullopt;
    if (code) {
      out += static_cast<char>(*code);
      i += 2;
    } else if (const std::size_t at = names.find(escape); at != std::string_view::npos) {
      out += values[at];
    } else {
      out += '\\';
      out += escape;
    }
  }
  return out;
}

std::string unescape_unicode(std::string_view escaped) {
  std::string out;
  for (std::size_t i = 0; i < escaped.size(); ++i) {
    if (escaped[i] == '\\' && i + 1 < escaped.size()) {
      const std::size_t digits = escaped[i + 1] == 'u' ? 4 : escaped[i + 1] == 'U' ? 8 : 0;
      const auto code = digits > 0 ? hex_number(escaped.substr(i + 2), digits) : std::nullopt;
      if (code && *code <= 0x10ffff) {
        append_utf8(out, *code);
        i += 1 + digits;
        continue;
      }
    }
    append_utf8(out, byte_at(escaped, i));
  }
  return out;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t size = utf8_character(text);
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

std::string latin1_to_utf8(std::string_view latin1) {
  std::string out;
  for (std::size_t i = 0; i < latin1.size(); ++i) append_utf8(out, byte_at(latin1, i));
  return out;
}

std::optional<std::string> utf8_to_latin1(std::string_view utf8) {
  std::string out;
  for (std::size_t i = 0; i < utf8.size(); ++i) {
    const unsigned char lead = byte_at(utf8, i);
    if (lead < 0x80) {
      out += utf8[i];
    } else if ((lead == 0xc2 || lead == 0xc3) && i + 1 < utf8.size() &&
               (byte_at(utf8, i + 1) & 0xc0) == 0x80) {
      out += static_cast<char>((lead & 3) << 6 | (byte_at(utf8, ++i) & 0x3f));
    } else {
      return std::nullopt;
    }
  }
  return out;
}

std::string hex_of(std::string_view bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    hex += digits[byte_at(bytes, i) >> 4];
    hex += digits[byte_at(bytes, i) & 15];
  }
  return hex;
}

std::string bytes_of_hex(std::string_view hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    const auto byte = hex_number(hex.substr(i), 2);
    if (!byte) throw Error(Kind::input, "not hex digits in pairs");
    bytes += static_cast<char>(*byte);
  }
  return bytes;
}

}  // namespace reshard::formats
