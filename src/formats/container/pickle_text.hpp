#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace reshard::formats {

/// A two's complement little-endian integer without bytes that only repeat its sign.
std::string_view shortest(std::string_view little_endian);
/// The value of a two's complement little-endian integer of at most 8 bytes.
std::optional<std::int64_t> small_integer(std::string_view little_endian);
/// Decimal digits of a two's complement little-endian integer.
std::string decimal_of(std::string_view little_endian);
/// The shortest two's complement little-endian bytes of "-123.."; Error(input) when it is no
/// decimal number or has more than 308 digits.
std::string integer_bytes(std::string_view decimal);
/// Python's text of a float; Error(input) when it is none.
double real_of_text(std::string_view text);

/// Protocol 0's str: a quoted Python literal of bytes. Error(input) when the quotes do not match.
std::string unescape_string(std::string_view literal);
/// Protocol 0's unicode: Latin-1 with \uXXXX and \UXXXXXXXX; UTF-8 is returned.
std::string unescape_unicode(std::string_view escaped);

/// Whether JSON may hold the text: UTF-8 without surrogates and overlong forms.
bool is_utf8(std::string_view text);
/// UTF-8 of Latin-1 text.
std::string latin1_to_utf8(std::string_view latin1);
/// Latin-1 of UTF-8 text, if no character is beyond it.
std::optional<std::string> utf8_to_latin1(std::string_view utf8);

std::string hex_of(std::string_view bytes);
/// Error(input) for an odd number of digits or something else than digits.
std::string bytes_of_hex(std::string_view hex);

}  // namespace reshard::formats
