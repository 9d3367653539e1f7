#pragma once

#include <string>
#include <vector>

#include "core/json.hpp"
#include "submit/status.hpp"
#include "submit/submit.hpp"

namespace reshard::app {

/// What was found, a line for each run and each of its iterations; `save`: root of the targets,
/// "" where it is not known.
std::string text_of(const submit::Runs& found, const std::string& save);
Json json_of(const submit::Runs& found, const std::string& save);
/// The scripts alone, one behind the other.
std::string scripts_of(const submit::SubmitReport& report);
/// What a submission did; scripts that were not submitted are shown.
std::string text_of(const submit::SubmitReport& report);
Json json_of(const submit::SubmitReport& report);
std::string text_of(const std::vector<submit::TargetStatus>& all);
Json json_of(const std::vector<submit::TargetStatus>& all);

}  // namespace reshard::app
