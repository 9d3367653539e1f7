#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "mpi/comm.hpp"

namespace reshard::app {

/// One subcommand: CLI11 parses its options into a value that `run` owns. `run` is collective,
/// throws Error and returns the exit code.
struct Command {
  CLI::App* app = nullptr;
  std::function<int(const mpi::Comm& comm)> run;
};

Command add_convert(CLI::App& app);
Command add_plan(CLI::App& app);
Command add_inspect(CLI::App& app);
Command add_compare(CLI::App& app);
Command add_verify(CLI::App& app);
Command add_sample(CLI::App& app);
Command add_submit(CLI::App& app);

/// All of them.
std::vector<Command> add_commands(CLI::App& app);
/// "reshard 0.1.0"
std::string version();

}  // namespace reshard::app
