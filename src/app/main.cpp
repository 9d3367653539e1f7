#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "app/aliases.hpp"
#include "app/commands.hpp"
#include "app/report.hpp"
#include "app/stop.hpp"
#include "mpi/comm.hpp"

namespace {

using reshard::Error;
using reshard::Kind;

/// Started as one of many by a launcher that this MPI does not understand, each copy would convert
/// alone and into the same target.
void check_launcher(const reshard::mpi::Comm& comm) {
  for (const char* name : {"SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && std::atoi(value) > 1 && comm.size() == 1) {
      throw Error(Kind::usage, std::string(name) + " is " + value +
                                   ", but MPI sees one process: start with srun --mpi=pmix, or "
                                   "with the mpirun of the MPI that reshard was built with");
    }
  }
}

/// A word without letters is what an unset variable of a script leaves behind.
void check_words(const std::vector<std::string>& words) {
  const auto empty = std::find(words.begin(), words.end(), "");
  if (empty == words.end()) return;
  const std::string before = empty == words.begin() ? "the command" : *(empty - 1);
  throw Error(Kind::usage, "the word behind " + before + " is empty");
}

int run(int argc, char** argv, const reshard::mpi::Comm& comm, bool json) {
  CLI::App app("Converts and reshards checkpoints of large language models, with many MPI ranks.");
  app.set_version_flag("--version", reshard::app::version());
  app.require_subcommand(1);
  const auto commands = reshard::app::add_commands(app);
  try {
    const auto [words, notes] = reshard::app::translate(argv[0], {argv + 1, argv + argc});
    for (const std::string& note : notes) {
      if (comm.rank() == 0) reshard::app::report_note(note);
    }
    check_words(words);
    app.parse(
        std::vector<std::string>(words.rbegin(), words.rend()));  // from the last to the first
    check_launcher(comm);
    for (const auto& command : commands) {
      if (command.app->parsed()) return command.run(comm);
    }
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      if (comm.rank() == 0) app.exit(error);
      if (std::cout.flush()) return 0;
      reshard::app::report_failure(
          Error(Kind::io, std::string("standard output: ") + std::strerror(errno)), json);
      return static_cast<int>(Kind::io);
    }
    std::string fault = error.what();
    if (app.get_subcommands().empty()) {
      fault = "wanted a command as the first word:";
      for (const auto& command : commands) fault += " " + command.app->get_name();
    }
    if (comm.rank() == 0) {
      reshard::app::report_failure(Error(Kind::usage, fault + " (--help tells more)"), json);
    }
    return static_cast<int>(Kind::usage);
  } catch (const Error& error) {
    if (comm.rank() == 0) reshard::app::report_failure(error, json);
    return static_cast<int>(error.kind());
  } catch (const std::filesystem::filesystem_error& error) {
    const Error what = reshard::mpi::error_of(error);
    if (comm.rank() == 0) reshard::app::report_failure(what, json);
    return static_cast<int>(what.kind());
  } catch (const std::exception& error) {
    reshard::app::report_failure(Error(Kind::internal, error.what()), json);
    return static_cast<int>(Kind::internal);
  }
}

/// The same where MPI would end the process before anything could be said: srun started many tasks
/// and no interface between them.
bool is_started_without_interface() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (tasks == nullptr || std::atoi(tasks) <= 1) return false;
  for (const char* name : {"PMIX_RANK", "PMI_RANK", "PMI_FD", "OMPI_COMM_WORLD_RANK"}) {
    if (std::getenv(name) != nullptr) return false;
  }
  return true;
}

int refuse_start(bool json) {
  const char* rank = std::getenv("SLURM_PROCID");
  if (rank == nullptr || std::atoi(rank) == 0) {
    reshard::app::report_failure(
        Error(Kind::usage,
              std::string("SLURM_STEP_NUM_TASKS is ") + std::getenv("SLURM_STEP_NUM_TASKS") +
                  ", but srun gives MPI nothing that brings tasks together: start with srun "
                  "--mpi=pmix"),
        json);
  }
  return static_cast<int>(Kind::usage);
}

}  // namespace

int main(int argc, char** argv) {
  const bool json = std::find(argv, argv + argc, std::string_view("--json")) != argv + argc;
  if (is_started_without_interface()) return refuse_start(json);
  std::signal(SIGXFSZ, SIG_IGN);  // a limit of file sizes is an error of the write
  // A job may end before MPI is up.
  if (argc > 1 && std::string_view(argv[1]) == "convert") reshard::app::catch_signals();
  reshard::mpi::Environment environment(argc, argv);
  const reshard::mpi::Comm world(MPI_COMM_WORLD);
  return run(argc, argv, world, json);
}
