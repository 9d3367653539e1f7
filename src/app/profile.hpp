#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace reshard::app {

/// The file of a site's defaults: the one that --profile names ("none" for none), else the one of
/// RESHARD_PROFILE, else ~/.config/reshard/profile.json where it exists; "" for none.
std::string profile_path(const std::string& given);

/// Gives every option that the command line did not the value that a profile has for it. A profile
/// is an object of long option names without dashes and their values: a text, a number, true for a
/// flag, or a list of texts for options that may be repeated. Error(usage) names file and key.
///
///     {"account": "p123", "partition": "cpu", "ranks-per-node": 8, "sbatch": ["--exclusive"]}
void apply_profile(CLI::App& command, const std::string& path);

}  // namespace reshard::app
