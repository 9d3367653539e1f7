#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.hpp"
#include "families/family.hpp"

namespace reshard::families {

/// The record of a config.json. Error(input) for a value that the record cannot hold, which names
/// the keys that tell it, and, all in one message with `--ignore-config KEY`, for keys that no line
/// reads; keys in `ignore_keys` are left alone and those found go to `ignored_found`.
Record read_config(const Family& family, const Json& config,
                   const std::vector<std::string>& ignore_keys = {},
                   std::vector<std::string>* ignored_found = nullptr);

/// The config.json of a record, in Transformers 4 spelling, with the keys of model_families.md
/// section 9.2. `model_type`: default the first that fits. `carried` (token ids,
/// initializer_range, unread keys of a source) is laid under what the record says. It is read back:
/// Error(input) names the hyperparameter that the family cannot hold, and what `origin` says of it
/// (" (args: ...)").
using Origin = std::function<std::string(const std::string& hyperparameter)>;
Json write_config(const Family& family, const Record& record, std::string_view model_type = {},
                  const Json& carried = Json::object(), const Origin& origin = {});

/// The hyperparameters that both records have, that change the function computed (not the
/// spelling, dtype or vocabulary) and that differ.
std::vector<std::string> differing_lines(const Record& a, const Record& b);

}  // namespace reshard::families
