#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace reshard {

/// Bytes of the UTF-8 character at the begin of a text, which is not empty; 0 when there is none.
std::size_t utf8_character(std::string_view text);

/// The text as one line that no terminal obeys, for names come from strangers: control characters,
/// marks that turn the direction of writing and bytes that are not UTF-8 are spelled out (\n, \x1b,
/// \u{202e}), and what is longer than `most` bytes loses its middle. The result stays as it is when
/// it is made printable again.
std::string printable(std::string_view text, std::size_t most = 2000);

}  // namespace reshard
