#pragma once

#include <string>
#include <vector>

namespace reshard::submit {

/// What a program said.
struct CommandResult {
  int code = 0;  ///< 127 when there is no such program
  std::string output, errors;
};

/// Runs a program of the search path without standard input, in the environment that reshard was
/// started in: without what MPI has put there since, and without what Slurm tells of a job around
/// it, which would become part of a new one. Error(io) when it cannot be run at all.
CommandResult run_command(const std::vector<std::string>& words);

/// Whether the search path has a program of this name.
bool has_program(const std::string& name);

}  // namespace reshard::submit
