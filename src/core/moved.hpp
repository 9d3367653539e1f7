#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/digest.hpp"
#include "core/geometry.hpp"

namespace reshard {

/// What moving tiles leaves behind; adds up over tiles, ranks and runs, in any order.
struct Moved {
  std::vector<std::uint64_t> tiles;  ///< numbers of those that were written
  std::vector<Digest> read;          ///< by source piece: its elements as read, where asked for
  std::vector<Digest> arrived;       ///< by target placement: its elements as sent
  std::vector<std::uint32_t> crcs;   ///< by target tensor

  Moved() = default;
  /// Of no tile yet.
  explicit Moved(const Geometry& geometry)
      : read(geometry.pieces.size()), arrived(geometry.placements), crcs(geometry.tensors.size()) {}

  Moved& operator+=(const Moved& other) {
    tiles.insert(tiles.end(), other.tiles.begin(), other.tiles.end());
    for (std::size_t i = 0; i < read.size(); ++i) read[i] += other.read[i];
    for (std::size_t i = 0; i < arrived.size(); ++i) arrived[i] += other.arrived[i];
    for (std::size_t i = 0; i < crcs.size(); ++i) crcs[i] ^= other.crcs[i];
    return *this;
  }
};

/// What seals the files of a target: sums of all that moved, over all ranks and runs.
struct Sums {
  std::span<const std::uint32_t> crcs;   ///< by target tensor
  std::span<const Digest> arrived = {};  ///< by target placement; empty: not computed
};

}  // namespace reshard
