#include "core/plan.hpp"

#include <algorithm>
#include <cassert>
#include <map>
#include <tuple>

#include "core/error.hpp"

namespace reshard {
namespace {

/// Cuts a piece at the borders between stripes; a piece whose memory is not nested stays whole.
void cut_by_stripe(const SourceStripes& stripes, const SourcePiece& piece,
                   std::vector<OwnedPiece>& found) {
  const std::uint64_t width = bytes(piece.dtype);
  const std::uint64_t first = piece.placement.offset;
  const std::uint64_t last = first + span(piece.placement);
  const bool nested = is_nested(piece.placement);
  for (std::uint64_t at = first; at < last;) {
    const std::uint64_t byte = piece.base + at * width;
    const std::uint64_t border = stripes.next_border(piece.file, byte);
    const std::uint64_t behind = piece.base + last * width;
    std::uint64_t end = last;
    if (nested && border < behind) end = at + std::max<std::uint64_t>((border - byte) / width, 1);
    for (const Placement& part : cut(piece.placement, at, end)) {
      found.push_back({piece, stripes.holding(piece.file, byte), 0});
      found.back().piece.placement = part;
      found.back().piece.name.clear();
    }
    at = end;
  }
}

/// Enough stripes that ranks can be loaded evenly, none so small that reads suffer.
std::uint32_t stripe_count(const Geometry& geometry, int ranks) {
  constexpr std::uint64_t least_bytes = std::uint64_t{1} << 20;
  constexpr std::uint64_t most_each = 32, least_each = 8;
  if (ranks == 1) return 1;
  std::uint64_t total = 0;
  for (const SourcePiece& piece : geometry.pieces) {
    total += piece.placement.box.elements() * bytes(piece.dtype);
  }
  const auto count = static_cast<std::uint64_t>(ranks);
  return static_cast<std::uint32_t>(
      std::clamp(total / least_bytes, least_each * count, most_each * count));
}

/// Even shares of tiles; a border moves to the border of a file when that is near.
std::vector<std::uint64_t> cut_targets(const Geometry& geometry, int ranks) {
  const TileNumbers tiles(geometry);
  const auto count = static_cast<std::uint64_t>(ranks);
  const std::uint64_t tolerance = tiles.size() / count / 40;  // 2.5 % of a share on either side
  std::vector<std::uint64_t> begin = {0};
  for (std::uint64_t share = 1; share < count; ++share) {
    const std::uint64_t even = (tiles.size() * share + count / 2) / count;
    const auto distance = [&](std::uint64_t at) { return std::max(at, even) - std::min(at, even); };
    std::uint64_t border = even, nearest = tolerance;
    for (std::uint32_t file = 0; file <= tiles.files(); ++file) {
      const std::uint64_t at = tiles.first(file);
      if (distance(at) > nearest) continue;
      nearest = distance(at);
      border = at;
    }
    begin.push_back(std::max(border, begin.back()));
  }
  begin.push_back(tiles.size());
  return begin;
}

void add_slices(const Plan& plan, std::uint32_t target, std::uint32_t number, const Placement& to,
                std::vector<Slice>& found) {
  const std::uint32_t end = plan.first_piece[to.tensor + 1];
  std::uint32_t i = plan.first_piece[to.tensor];
  if (to.box.offset.size() > 0) {  // pieces are sorted by offset and none is longer than `reach`
    const std::uint64_t reach = plan.reach[to.tensor];
    const std::uint64_t least = to.box.offset[0] >= reach ? to.box.offset[0] - reach + 1 : 0;
    const auto begin = plan.pieces.begin();
    i = static_cast<std::uint32_t>(
        std::lower_bound(begin + i, begin + end, least,
                         [](const OwnedPiece& piece, std::uint64_t offset) {
                           return piece.piece.placement.box.offset[0] < offset;
                         }) -
        begin);
  }
  for (; i < end; ++i) {
    const Placement& from = plan.pieces[i].piece.placement;
    if (to.box.offset.size() > 0 && from.box.offset[0] >= to.box.offset[0] + to.box.extent[0]) {
      break;
    }
    const std::optional<Box> both = intersect(from.box, to.box);
    if (!both) continue;
    found.push_back({i, target, number, *both, position(from, *both), position(to, *both),
                     from.stride, to.stride});
  }
}

}  // namespace

Plan make_plan(const Geometry& geometry, int ranks) {
  Plan plan;
  plan.ranks = ranks;
  plan.stripes = SourceStripes(geometry, stripe_count(geometry, ranks));
  plan.progress.assign(plan.stripes.size(), 0);
  for (const SourcePiece& piece : geometry.pieces) {
    const bool replica = piece.replica_of != SourcePiece::no_replica;
    cut_by_stripe(plan.stripes, piece, replica ? plan.replicas : plan.pieces);
  }
  std::sort(plan.pieces.begin(), plan.pieces.end(), [](const OwnedPiece& a, const OwnedPiece& b) {
    return std::tie(a.piece.placement.tensor, a.piece.placement.box) <
           std::tie(b.piece.placement.tensor, b.piece.placement.box);
  });
  const std::size_t tensors = geometry.model.tensors().size();
  plan.first_piece.assign(tensors + 1, 0);
  plan.reach.assign(tensors, 0);
  for (const OwnedPiece& owned : plan.pieces) {
    const Placement& placement = owned.piece.placement;
    ++plan.first_piece[placement.tensor + 1];
    const std::uint64_t extent = placement.box.extent.size() > 0 ? placement.box.extent[0] : 1;
    plan.reach[placement.tensor] = std::max(plan.reach[placement.tensor], extent);
  }
  for (std::size_t t = 0; t < tensors; ++t) plan.first_piece[t + 1] += plan.first_piece[t];
  plan.share_begin = cut_targets(geometry, ranks);
  plan.in_order = std::any_of(geometry.targets.begin(), geometry.targets.end(),
                              [](const TargetFile& file) { return !file.borders.empty(); });
  return plan;
}

Share share_of(const Plan& plan, int rank) {
  const auto r = static_cast<std::size_t>(rank);
  if (!plan.in_order) return {plan.share_begin[r], plan.share_begin[r + 1], 1};
  return {r, plan.share_begin.back(), static_cast<std::uint64_t>(plan.ranks)};
}

std::vector<Slice> slices_of(const Geometry& geometry, const Plan& plan, Tile tile) {
  std::vector<Slice> found;
  const ByteRange range = bytes_of(geometry, tile);
  for (const std::uint32_t target : tensors_in(geometry, tile.file, range)) {
    const TargetTensor& tensor = geometry.tensors[target];
    if (tensor.bytes == 0) continue;
    const std::uint64_t width = bytes(tensor.stored.dtype);
    const std::uint64_t begin = std::max(range.first, tensor.base) - tensor.base;
    const std::uint64_t end = std::min(range.last, tensor.base + tensor.bytes) - tensor.base;
    assert(begin % width == 0 && end % width == 0);
    for (std::uint32_t n = 0; n < tensor.stored.placements.size(); ++n) {
      for (const Placement& part : cut(tensor.stored.placements[n], begin / width, end / width)) {
        add_slices(plan, target, n, part, found);
      }
    }
  }
  return found;
}

std::uint64_t bytes_moved(const Geometry& geometry, const Slice& slice) {
  return slice.elements() * bytes(geometry.tensors[slice.target].stored.dtype);
}

Traffic needs_of(const Geometry& geometry, const Plan& plan, int rank) {
  const TileNumbers tiles(geometry);
  std::map<std::uint32_t, std::uint64_t> needs;
  const Share share = share_of(plan, rank);
  for (std::uint64_t number = share.first; number < share.last; number += share.step) {
    if (!plan.done.empty() && plan.done[number]) continue;
    for (const Slice& slice : slices_of(geometry, plan, tiles[number])) {
      needs[plan.pieces[slice.piece].stripe] += bytes_moved(geometry, slice);
    }
  }
  return {needs.begin(), needs.end()};
}

void assign_owners(Plan& plan, const std::vector<Traffic>& needs) {
  const std::vector<int> owners = assign_stripes(plan.stripes, needs);
  for (auto* pieces : {&plan.pieces, &plan.replicas}) {
    for (OwnedPiece& owned : *pieces) owned.owner = owners[owned.stripe];
  }
  std::vector<std::uint64_t> all(static_cast<std::size_t>(plan.ranks)), done(all.size());
  for (const int owner : owners) ++all[static_cast<std::size_t>(owner)];
  for (std::size_t s = 0; s < owners.size(); ++s) {
    const auto owner = static_cast<std::size_t>(owners[s]);
    plan.progress[s] = (done[owner]++ << 32) / all[owner];
  }
}

ShareOrder order_share(const Geometry& geometry, const Plan& plan, int rank) {
  struct Work {
    std::uint64_t progress = 0;
    std::pair<std::uint32_t, std::uint64_t> place;  ///< file and byte of the source, the first
    std::uint64_t tile = 0;
    Traffic demand;
  };
  const TileNumbers tiles(geometry);
  std::vector<Work> works;
  std::map<std::uint32_t, std::uint64_t> needed;
  const Share share = share_of(plan, rank);
  for (std::uint64_t number = share.first; number < share.last; number += share.step) {
    if (!plan.done.empty() && plan.done[number]) continue;
    Work work{0, {~std::uint32_t{0}, 0}, number, {}};
    std::map<std::uint32_t, std::uint64_t> demand;
    const std::vector<Slice> slices = slices_of(geometry, plan, tiles[number]);
    for (const Slice& slice : slices) {
      const OwnedPiece& owned = plan.pieces[slice.piece];
      const auto owner = static_cast<std::uint32_t>(owned.owner);
      demand[owner] += bytes_moved(geometry, slice);
      const std::uint64_t byte = owned.piece.base + slice.from * bytes(owned.piece.dtype);
      work.place = std::min(work.place, {owned.piece.file, byte});
      if (geometry.tensors[slice.target].primary[slice.placement]) {
        needed[owner] += slice.elements() * bytes(owned.piece.dtype);
      }
    }
    if (!slices.empty()) work.progress = plan.progress[plan.pieces[slices.front().piece].stripe];
    work.demand.assign(demand.begin(), demand.end());
    works.push_back(std::move(work));
  }
  if (!plan.in_order) {
    std::stable_sort(works.begin(), works.end(), [](const Work& a, const Work& b) {
      return std::tie(a.progress, a.place) < std::tie(b.progress, b.place);
    });
  }
  ShareOrder order;
  order.needed.assign(needed.begin(), needed.end());
  for (Work& work : works) {
    order.tiles.push_back(work.tile);
    order.demand.push_back(std::move(work.demand));
  }
  return order;
}

std::vector<Round> make_rounds(
    std::uint64_t slots, int ranks, std::uint64_t budget,
    const std::function<std::uint64_t(std::uint64_t, int, int)>& heaviest) {
  std::vector<Round> rounds;
  std::uint64_t filled = 0;
  for (std::uint64_t slot = 0; slot < slots; ++slot) {
    const std::uint64_t bytes = heaviest(slot, 1, 0);
    if (bytes > budget && ranks > 1) {
      int modulus = 2;
      const auto fits = [&] {
        for (int residue = 0; residue < modulus; ++residue) {
          if (heaviest(slot, modulus, residue) > budget) return false;
        }
        return true;
      };
      while (modulus < ranks && !fits()) modulus *= 2;
      for (int residue = 0; residue < std::min(modulus, ranks); ++residue) {
        rounds.push_back({slot, slot + 1, modulus, residue});
      }
      filled = 0;
      continue;
    }
    const bool joins = !rounds.empty() && rounds.back().modulus == 1 && filled + bytes <= budget;
    if (joins) {
      rounds.back().last = slot + 1;
      filled += bytes;
    } else {
      rounds.push_back({slot, slot + 1, 1, 0});
      filled = bytes;
    }
  }
  return rounds;
}

}  // namespace reshard
