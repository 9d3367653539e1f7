#pragma once

#include <string>
#include <vector>

namespace reshard::app {

/// File names that differ in numbers alone as one pattern: "mp_rank_{00..03}.pt", "a_{0,2}_{0,1}".
/// A pattern stands for exactly the names that it spells.
std::vector<std::string> folded(const std::vector<std::string>& names);

}  // namespace reshard::app
