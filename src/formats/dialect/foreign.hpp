#pragma once

#include <string>

namespace reshard::formats {

/// What a path seems to be that no dialect takes, by the names in it (deepspeed.md section 1.2,
/// merak.md section 1), and what to do; "" when it looks like nothing known.
std::string foreign_hint(const std::string& path);

}  // namespace reshard::formats
