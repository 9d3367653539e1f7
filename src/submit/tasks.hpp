#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/dialect/options.hpp"
#include "mpi/comm.hpp"
#include "submit/iterations.hpp"
#include "submit/runs.hpp"

namespace reshard::submit {

/// The words of an option and its values, as they are given to `convert` unchanged.
struct PassedOption {
  std::string group;  ///< of --help: "Source", "Target", ...
  std::vector<std::string> words;
};

/// What is to be made of every chosen iteration.
struct Conversion {
  formats::SourceOptions source;  ///< without path and iteration
  formats::TargetOptions target;  ///< without path
  bool overwrite = false;
  std::uint64_t memory = 0;
  std::vector<PassedOption> passed;
  std::string save;  ///< root of all targets: --save-checkpoints-dir
  /// The older script's: torch/MODEL/torch/iter_N and hf/MODEL for each.
  bool is_original_layout = false;
};

/// One conversion of a job.
struct Task {
  std::string run;
  std::optional<std::uint64_t> iteration;
  std::string source, unit;        ///< unit: the folder that it publishes
  std::vector<std::string> words;  ///< behind "reshard", without what a job adds
  std::uint64_t bytes = 0;         ///< read, written and read back
  bool is_converted = false;       ///< the target is there, as it would be written
};

/// What planning found, with all that it refused.
struct Tasks {
  std::vector<Task> tasks;
  struct Problem {
    Kind kind = Kind::usage;
    std::string text;
  };
  std::vector<Problem> problems;
  std::vector<std::string> notes;
};

/// Collective. Plans the conversion of every chosen iteration of the runs by its headers, as `plan`
/// does.
Tasks plan_tasks(const mpi::Comm& comm, const Runs& found, const IterationWish& wish,
                 const Conversion& conversion);

/// Nodes and seconds for so many bytes: a node reads and writes 250 MiB/s, half an hour is
/// aimed at.
struct Estimate {
  std::uint64_t nodes = 1, seconds = 0;
};
Estimate estimate(std::uint64_t bytes, std::optional<std::uint64_t> nodes);

}  // namespace reshard::submit
