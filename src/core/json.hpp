#pragma once

#include <nlohmann/json.hpp>

namespace reshard {

/// JSON with the order of its keys kept: tables, configs, facts of a file.
using Json = nlohmann::ordered_json;

}  // namespace reshard
