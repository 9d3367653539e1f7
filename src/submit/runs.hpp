#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/dialect/options.hpp"
#include "logs/training_log.hpp"

namespace reshard::submit {

/// Where training runs are looked for.
struct RunWish {
  std::vector<std::string> train_logs;   ///< files, or folders with *.out; several joined by "::"
  std::vector<std::string> checkpoints;  ///< folders of runs, or single iterations
  std::vector<std::pair<std::string, std::string>> maps;  ///< paths that moved: old, new
  std::string run_name;                                   ///< instead of the folder's
  bool by_log = false;  ///< each log is a run of its own, named as its file without ".out"
};

/// That a log says that a checkpoint was saved, and the start whose arguments it was saved with.
struct LoggedSave {
  std::string log;
  std::shared_ptr<const logs::Start> start;
};

/// A checkpoint of a run.
struct Iteration {
  std::optional<std::uint64_t> number;  ///< none: the folder is one checkpoint as it is
  std::optional<LoggedSave> logged;     ///< the last that a log tells of
  bool is_there = false, is_complete = false;
  std::string fault;  ///< why it is not complete
};

/// A training run, by the folder of its checkpoints.
struct Run {
  std::string name, folder;
  std::vector<std::string> logs;
  /// What the last log that has arguments says of its degrees: tp, pp.
  std::optional<std::uint64_t> tp, pp;
  std::string end;                             ///< how the last start of the last log ended
  std::vector<Iteration> iterations;           ///< ascending
  bool is_named = false;                       ///< by a log or --checkpoint: it has what is wanted
  std::map<std::uint64_t, std::string> named;  ///< iterations that --checkpoint named, as folders
};

/// What was found.
struct Runs {
  std::vector<Run> runs;
  std::vector<std::string> notes;  ///< of logs that tell of no run, or could not be read to the end
};

/// Reads the logs and looks at the folders, trackers and names of files only; a log that cannot be
/// read is noted. Error(usage) for a path that does not exist.
Runs find_runs(const RunWish& wish, const formats::SourceOptions& source);

/// A folder's path without dots, and without a slash at the end.
std::string tidy(const std::string& path);
/// The path with the first fitting of the old beginnings replaced.
std::string mapped(const std::string& path,
                   const std::vector<std::pair<std::string, std::string>>& maps);

}  // namespace reshard::submit
