#pragma once

#include <cstdint>
#include <vector>

#include "core/geometry.hpp"
#include "core/plan.hpp"

namespace reshard {

/// What a plan costs, from the plan alone (DESIGN.md section 5): exactly what its rounds will move,
/// for any number of ranks, computed in one process.
struct PlanCost {
  /// By rank, in bytes. `read`: needed of the source, each byte once, and replicas; `sent` goes to
  /// other ranks, `local` stays.
  std::vector<std::uint64_t> read, sent, received, written, local;
  struct Pair {
    int from = 0, to = 0;
    std::uint64_t bytes = 0;
  };
  std::vector<Pair> heaviest;  ///< rank pairs that exchange most, descending
  std::uint64_t pairs = 0;     ///< that exchange anything
  std::uint64_t tiles = 0, rounds = 0;
  std::uint64_t buffers = 0;  ///< most bytes of what a rank gives, receives and writes in the three
                              ///< rounds that are under way at a time
};

/// Gives the plan's stripes their owners as a conversion does and adds everything up; `budget`
/// bounds a round (make_rounds). Time is that of enumerating each tile once, memory O(tiles x
/// sources of a tile).
PlanCost cost_of(const Geometry& geometry, Plan& plan, std::uint64_t budget);

/// Largest of sums over groups of `size` ranks (nodes), over their mean; 1 when nothing moves.
double imbalance(const std::vector<std::uint64_t>& by_rank, std::uint64_t size);
/// Sums over groups of `size` ranks.
std::vector<std::uint64_t> by_group(const std::vector<std::uint64_t>& by_rank, std::uint64_t size);

}  // namespace reshard
