#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

namespace reshard::submit {

/// The jobs that Slurm knows now, of all users: state by job id and, in an array, index of the
/// task.
class Queue {
 public:
  /// Asks squeue; Error(io) when it does not answer, for then nobody knows what is queued.
  static Queue ask();
  /// Reads lines "JOB INDEX STATE", INDEX being "N/A" outside arrays.
  explicit Queue(const std::string& lines);

  /// "PENDING", "RUNNING", ...; nothing when the job is not there any more.
  [[nodiscard]] std::optional<std::string> state(std::uint64_t job,
                                                 std::optional<std::uint64_t> index) const;

 private:
  std::map<std::pair<std::uint64_t, std::optional<std::uint64_t>>, std::string> states_;
};

}  // namespace reshard::submit
