#pragma once

#include <string>
#include <string_view>

namespace reshard::formats {

/// Whether a folder has a name that training runs give to one iteration's.
bool is_unit_name(std::string_view name);

/// What a path seems to be that no dialect takes, by the names in it (deepspeed.md section 1.2,
/// merak.md section 1), and what to do; "" when it looks like nothing known. `refused`: a dialect
/// took it, and says itself what is wrong with it.
std::string foreign_hint(const std::string& path, bool refused);

}  // namespace reshard::formats
