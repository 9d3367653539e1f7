#pragma once

#include <string>
#include <vector>

#include "submit/submit.hpp"

namespace reshard::submit {

/// What can be known before a job is queued and would end it, each with the flag that resolves it:
/// folders that cannot be written, programs that are not there, an image without reshard.
std::vector<Tasks::Problem> check_surroundings(const SubmitOptions& options);
/// What `sbatch --test-only` says against a script; nothing when it is fine.
std::vector<Tasks::Problem> check_script(const std::string& script, const std::string& name);
/// All problems as one error: of the first one's kind, or incomplete when time resolves all.
void raise(const std::vector<Tasks::Problem>& problems);

}  // namespace reshard::submit
