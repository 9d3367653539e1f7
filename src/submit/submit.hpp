#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mpi/comm.hpp"
#include "submit/iterations.hpp"
#include "submit/records.hpp"
#include "submit/runs.hpp"
#include "submit/script.hpp"
#include "submit/tasks.hpp"

namespace reshard::submit {

/// All that the user wants of a submission.
struct SubmitOptions {
  RunWish runs;
  IterationWish wish;
  std::string wish_text = "latest";  ///< as it was given
  Conversion conversion;
  SlurmWish slurm;
  std::string logs;  ///< --convert-logs-dir
  std::optional<std::uint64_t> after;
  std::string then;
  bool check = true, dry_run = false;
};

/// What became of one conversion, or of a job that will find its conversions itself.
struct TaskState {
  Task task;
  /// "submit", "would submit", "converted", "pending", "running", ...: a job's state in lower case.
  std::string state;
  std::optional<std::uint64_t> job;
};

/// A job that was made.
struct Submitted {
  Job job;
  std::string script, script_path;
  std::optional<std::uint64_t> id;
};

/// What a submission did.
struct SubmitReport {
  Runs found;
  std::vector<TaskState> tasks;
  std::vector<Submitted> jobs;
  std::vector<std::string> notes;
};

/// Collective, of one process. Finds runs, plans their conversions, makes a job for each run that
/// has something to be done, and submits it, or nothing when anything is refused: then all
/// refusals are one Error.
SubmitReport submit(const mpi::Comm& comm, const SubmitOptions& options);

/// Collective, of one process. The conversions that are to be done now, for a job that asks when it
/// starts; Error(incomplete) when no checkpoint is complete.
std::vector<Task> tasks_now(const mpi::Comm& comm, const SubmitOptions& options,
                            std::vector<std::string>& notes);

}  // namespace reshard::submit
