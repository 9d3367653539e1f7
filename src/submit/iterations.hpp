#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace reshard::submit {

/// Which iterations of a run are wanted: --iteration latest|all|N,M|A:B:STEP.
struct IterationWish {
  enum class Kind { latest, all, list, range };
  Kind kind = Kind::latest;
  std::vector<std::uint64_t> list;  ///< ascending, each once
  /// From first to last, both included, those that are first plus a multiple of step.
  std::uint64_t first = 0, last = 0, step = 1;
};

/// Reads the words of --iteration; Error(usage) says what was wanted.
IterationWish iteration_wish(const std::vector<std::string>& words);

/// The wanted ones of those that are complete, ascending. Those of a list are returned whether they
/// are complete or not: each is then looked at by itself.
std::vector<std::uint64_t> chosen(const IterationWish& wish,
                                  const std::vector<std::uint64_t>& complete);

}  // namespace reshard::submit
