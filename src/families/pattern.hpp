#pragma once

#include <string_view>

namespace reshard::families {

/// Whether a name fits a pattern of the tables: `*` is any run of characters, `{l}` (any word in
/// braces) a run of digits, all else itself.
bool matches(std::string_view pattern, std::string_view name);

}  // namespace reshard::families
