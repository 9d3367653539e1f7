#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/geometry.hpp"
#include "core/stripes.hpp"

namespace reshard {

/// A piece of the source within one stripe.
struct OwnedPiece {
  SourcePiece piece;
  std::uint32_t stripe = 0;
  int owner = 0;  ///< the stripe's
};

/// What has to move: a box from a source piece into a target tensor (DESIGN.md section 1).
struct Slice {
  std::uint32_t piece = 0;      ///< index into Plan::pieces
  std::uint32_t target = 0;     ///< index into Geometry::tensors
  std::uint32_t placement = 0;  ///< which of the target tensor's placements
  Box box;                      ///< canonical
  std::uint64_t from = 0;       ///< element in the source memory, from the piece's base
  std::uint64_t to = 0;         ///< element in the target tensor
  Dims from_stride, to_stride;  ///< in elements

  [[nodiscard]] std::uint64_t elements() const { return box.elements(); }
};

/// Who reads what and who writes what (DESIGN.md section 4, Ownership). Plain data, a pure function
/// of geometry and rank count; slices are enumerated from it tile by tile.
struct Plan {
  int ranks = 1;
  SourceStripes stripes;
  std::vector<std::uint64_t> progress;     ///< of a stripe among its owner's, in units of 2^-32
  std::vector<OwnedPiece> pieces;          ///< sorted by tensor, then box; replicas left out
  std::vector<std::uint32_t> first_piece;  ///< of each canonical tensor; one more at the end
  std::vector<std::uint64_t> reach;        ///< largest extent of dimension 0 among its pieces
  std::vector<OwnedPiece> replicas;        ///< read only to be compared
  std::vector<std::uint64_t> share_begin;  ///< even parts of all tiles by number; one more
  std::vector<bool> done;                  ///< by tile number: was written before; empty: none was
  /// Some file has to be written from its begin to its end: ranks take turns at tiles, so that in
  /// each slot they hold tiles that follow one another.
  bool in_order = false;
};

/// The tiles that a rank writes: numbers first, first + step, ... below last.
struct Share {
  std::uint64_t first = 0, last = 0, step = 1;
};
Share share_of(const Plan& plan, int rank);

/// Splits the target's tiles evenly over ranks and the source into stripes, which have no owner
/// yet.
Plan make_plan(const Geometry& geometry, int ranks);

/// What a rank's share of the target takes of each stripe, in bytes that move, copies included.
Traffic needs_of(const Geometry& geometry, const Plan& plan, int rank);

/// Gives every stripe its owner (see assign_stripes), from the needs of all ranks.
void assign_owners(Plan& plan, const std::vector<Traffic>& needs);

/// Everything that must move into a tile, in a fixed order; the fill of elements that no slice
/// covers is the writer's.
std::vector<Slice> slices_of(const Geometry& geometry, const Plan& plan, Tile tile);

/// Bytes of a slice on the way: packed in canonical order, in the target's dtype.
std::uint64_t bytes_moved(const Geometry& geometry, const Slice& slice);

/// Where a share's bytes come from, and in which order its tiles are worked on: tiles that draw on
/// different source owners take turns, so that every round draws from all of them, unless the plan
/// is to be worked on in order.
struct ShareOrder {
  std::vector<std::uint64_t> tiles;  ///< tile numbers, in working order
  std::vector<Traffic> demand;       ///< of each of these tiles: (source rank, bytes)
  Traffic needed;  ///< of all together: (source rank, bytes of the source that no copy repeats)
};
ShareOrder order_share(const Geometry& geometry, const Plan& plan, int rank);

/// A round: every rank's tiles at slots [first, last) of its order, of the ranks with
/// rank % modulus == residue.
struct Round {
  std::uint64_t first = 0, last = 0;
  int modulus = 1, residue = 0;
  friend bool operator==(const Round&, const Round&) = default;
};

/// Groups slots into rounds. `heaviest(slot, modulus, residue)` is the most bytes that any rank has
/// to send or receive in that slot; a round stays within `budget` as far as a single tile does.
std::vector<Round> make_rounds(
    std::uint64_t slots, int ranks, std::uint64_t budget,
    const std::function<std::uint64_t(std::uint64_t slot, int modulus, int residue)>& heaviest);

}  // namespace reshard
