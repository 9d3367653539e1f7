#pragma once

#include <cstdint>
#include <vector>

#include "core/geometry.hpp"
#include "core/plan.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// What one rank does in which round.
struct Schedule {
  /// A tile, of this or another rank, that draws on this rank's part of the source.
  struct Service {
    std::uint64_t slot = 0;   ///< in the order of the tile's writer
    std::uint64_t rank = 0;   ///< the tile's writer
    std::uint64_t tile = 0;   ///< its number
    std::uint64_t bytes = 0;  ///< that this rank gives
  };
  std::vector<std::uint64_t> tiles;  ///< numbers of the tiles that this rank writes, by slot
  std::vector<Service> services;     ///< ascending by slot, then rank
  std::vector<Round> rounds;         ///< the same on all ranks
};

/// Collective. Gives the plan's stripes their owners and agrees on rounds in which no rank sends,
/// receives or writes more than `budget` bytes, as far as a single tile does.
Schedule make_schedule(const Comm& comm, const Geometry& geometry, Plan& plan,
                       std::uint64_t budget);

}  // namespace reshard::mpi
