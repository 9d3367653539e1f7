#include "core/printable.hpp"

#include <cstdint>
#include <cstdio>

namespace reshard {
namespace {

unsigned char byte_at(std::string_view text, std::size_t i) {
  return static_cast<unsigned char>(text[i]);
}

std::uint32_t code_of(std::string_view character) {
  if (character.size() == 1) return byte_at(character, 0);
  std::uint32_t code = byte_at(character, 0) & (0x7fU >> character.size());
  for (const char c : character.substr(1))
    code = code << 6 | (static_cast<unsigned char>(c) & 0x3f);
  return code;
}

/// Control characters of ASCII and Latin-1, marks of direction, separators of lines.
bool is_obeyed(std::uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x61c || code == 0x200e ||
         code == 0x200f || (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

std::string spelled(std::uint32_t code) {
  if (code == '\n') return "\\n";
  if (code == '\t') return "\\t";
  if (code == '\r') return "\\r";
  char text[16];
  std::snprintf(text, sizeof text, code < 0x80 ? "\\x%02x" : "\\u{%x}", code);
  return text;
}

/// The text with its middle left out, cut between characters.
std::string shortened(const std::string& text, std::size_t most) {
  constexpr std::string_view gap = " [...] ";
  if (text.size() <= most) return text;
  const auto is_inside = [&](std::size_t at) { return (byte_at(text, at) & 0xc0) == 0x80; };
  const std::size_t kept = most - gap.size();
  std::size_t begin = kept / 3 * 2, end = text.size() - kept / 3;
  while (is_inside(begin)) --begin;
  while (end < text.size() && is_inside(end)) ++end;
  return text.substr(0, begin) + std::string(gap) + text.substr(end);
}

}  // namespace

std::size_t utf8_character(std::string_view text) {
  const unsigned char lead = byte_at(text, 0);
  if (lead < 0x80) return 1;
  const std::size_t size = lead < 0xc2   ? 0
                           : lead < 0xe0 ? 2
                           : lead < 0xf0 ? 3
                           : lead < 0xf5 ? 4
                                         : 0;
  if (size == 0 || size > text.size()) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte_at(text, i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = byte_at(text, 1);
  // Overlong forms, surrogates and what lies beyond Unicode.
  const bool wrong = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
                     (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f);
  return wrong ? 0 : size;
}

std::string printable(std::string_view text, std::size_t most) {
  // A begin and an end are enough of what will be shortened.
  constexpr std::size_t enough = 1 << 16;
  std::string cut;
  if (text.size() > 2 * enough && most < enough) {
    cut = std::string(text.substr(0, enough)) + std::string(text.substr(text.size() - enough));
    text = cut;
  }
  std::string line;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t size = utf8_character(text.substr(i));
    const std::string_view character = text.substr(i, size);
    if (size == 0) {
      char byte[8];
      std::snprintf(byte, sizeof byte, "\\x%02x", byte_at(text, i));
      line += byte;
    } else if (is_obeyed(code_of(character))) {
      line += spelled(code_of(character));
    } else {
      line += character;
    }
    i += size == 0 ? 1 : size;
  }
  return shortened(line, most);
}

}  // namespace reshard
