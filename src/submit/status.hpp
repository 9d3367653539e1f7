#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace reshard::submit {

/// What became of a target that was submitted.
struct TargetStatus {
  std::string run, target;
  std::uint64_t job = 0;  ///< the last that was to make it
  std::optional<std::uint64_t> index;
  std::string state;   ///< "queued", "running", "done", "failed"
  std::string reason;  ///< of a failure: the last error in the log; else Slurm's word for the state
};

/// All targets of a root, by the jobs that were submitted for them, asking squeue once. A target is
/// done when it has a proven manifest, whatever became of its job.
std::vector<TargetStatus> status_of(const std::string& save);

/// The last line of a log that tells of an error, without srun's label; "" when there is none.
std::string last_error(const std::string& log);

}  // namespace reshard::submit
