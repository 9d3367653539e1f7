#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"

namespace reshard::submit {

/// Two files in the root of all targets, a JSON object a line, only ever appended to:
///
///     jobs.jsonl   what was submitted: {"job": 4711, "run": "r1", "logs": "/logs", "name":
///                  "convert-r1-20261128T040506-1234", "targets": ["/out/r1/iter_0000003"]}; of a
///                  job that finds its targets when it starts, {"root": "/out/r1", "wish":
///                  "latest"}
///     index.jsonl  what was converted: {"source", "target", "iteration", "digest", "seconds",
///                  "bytes"}, one line for each
inline constexpr const char* jobs_name = "jobs.jsonl";
inline constexpr const char* index_name = "index.jsonl";

/// A job that was submitted.
struct JobRecord {
  std::uint64_t job = 0;
  std::string run, logs, name;
  bool is_array = false;
  std::vector<std::string> targets;  ///< in the order of its tasks
  std::string root, wish;            ///< see above
};

/// All jobs of a root, oldest first; a last line that is cut does not count, any other fault is
/// Error(input).
std::vector<JobRecord> read_jobs(const std::string& save);
/// Adds a job; under the lock of the root.
void append_job(const std::string& save, const JobRecord& record);

/// One conversion for index.jsonl.
struct IndexEntry {
  std::string source, target;
  std::optional<std::uint64_t> iteration;
  std::string digest;
  double seconds = 0;
  std::uint64_t bytes = 0;
};

/// Digest of a proven unit's numbers: of the digests of all its tensors, in the order of their
/// names, so that two formats and layouts of the same numbers have the same; "" when nothing is
/// proven.
std::string digest_of_unit(const std::string& unit);
/// Adds the conversion, unless the last line of its target says the same digest already: a job that
/// was ended between the conversion and this line is run again. Waits for other writers.
void append_index(const std::string& path, const IndexEntry& entry);

}  // namespace reshard::submit
