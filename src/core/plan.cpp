#include "core/plan.hpp"

#include <algorithm>
#include <cassert>
#include <map>
#include <tuple>

#include "core/error.hpp"

namespace reshard {
namespace {

/// Cuts a piece at the borders between owners; a piece whose memory is not nested stays whole.
void cut_by_owner(const SourceShares& shares, const SourcePiece& piece,
                  std::vector<OwnedPiece>& found) {
  const std::uint64_t width = bytes(piece.dtype);
  const std::uint64_t first = piece.placement.offset;
  const std::uint64_t last = first + span(piece.placement);
  const bool nested = is_nested(piece.placement);
  for (std::uint64_t at = first; at < last;) {
    const std::uint64_t byte = piece.base + at * width;
    const std::uint64_t border = shares.next_border(piece.file, byte);
    const std::uint64_t behind = piece.base + last * width;
    std::uint64_t end = last;
    if (nested && border < behind) end = at + std::max<std::uint64_t>((border - byte) / width, 1);
    for (const Placement& part : cut(piece.placement, at, end)) {
      found.push_back({piece, shares.owner(piece.file, byte)});
      found.back().piece.placement = part;
      found.back().piece.name.clear();
    }
    at = end;
  }
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

SourceShares::SourceShares(const Geometry& geometry, int ranks)
    : ranks_(static_cast<std::uint64_t>(ranks)) {
  std::vector<Stretch> all;
  for (const SourcePiece& piece : geometry.pieces) {
    const std::uint64_t width = bytes(piece.dtype);
    const std::uint64_t first = piece.base + piece.placement.offset * width;
    all.push_back({piece.file, first, first + span(piece.placement) * width, 0});
  }
  std::sort(all.begin(), all.end(), [](const Stretch& a, const Stretch& b) {
    return std::tie(a.file, a.first, a.last) < std::tie(b.file, b.first, b.last);
  });
  for (const Stretch& stretch : all) {
    if (!stretches_.empty() && stretches_.back().file == stretch.file &&
        stretches_.back().last >= stretch.first) {
      stretches_.back().last = std::max(stretches_.back().last, stretch.last);
    } else {
      stretches_.push_back(stretch);
    }
  }
  for (Stretch& stretch : stretches_) {
    stretch.before = total_;
    total_ += stretch.last - stretch.first;
  }
}

std::uint64_t SourceShares::place(std::uint32_t file, std::uint64_t at) const {
  const auto after = std::upper_bound(
      stretches_.begin(), stretches_.end(), std::pair(file, at),
      [](const auto& wanted, const Stretch& s) { return wanted < std::pair(s.file, s.first); });
  assert(after != stretches_.begin());
  const Stretch& stretch = *std::prev(after);
  return stretch.before + at - stretch.first;
}

int SourceShares::owner(std::uint32_t file, std::uint64_t at) const {
  const auto wide = static_cast<unsigned __int128>(place(file, at)) * ranks_;
  return static_cast<int>(
      std::min<std::uint64_t>(static_cast<std::uint64_t>(wide / total_), ranks_ - 1));
}

std::uint64_t SourceShares::next_border(std::uint32_t file, std::uint64_t at) const {
  const auto next = static_cast<std::uint64_t>(owner(file, at)) + 1;
  const auto border = (static_cast<unsigned __int128>(next) * total_ + ranks_ - 1) / ranks_;
  return at + static_cast<std::uint64_t>(border) - place(file, at);
}

std::uint64_t SourceShares::progress(std::uint32_t file, std::uint64_t at) const {
  const auto wide = static_cast<unsigned __int128>(place(file, at)) * ranks_;
  return static_cast<std::uint64_t>(((wide % total_) << 32) / total_);
}

Plan make_plan(const Geometry& geometry, int ranks) {
  Plan plan;
  plan.ranks = ranks;
  plan.shares = SourceShares(geometry, ranks);
  for (const SourcePiece& piece : geometry.pieces) {
    const bool replica = piece.replica_of != SourcePiece::no_replica;
    cut_by_owner(plan.shares, piece, replica ? plan.replicas : plan.pieces);
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
  for (int rank = 0; rank < ranks; ++rank) plan.share_of.push_back(rank);
  return plan;
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

std::vector<int> relabel(const std::vector<Traffic>& bytes_from) {
  std::vector<std::tuple<std::uint64_t, int, int>> wishes;  // bytes, rank, share
  for (std::size_t share = 0; share < bytes_from.size(); ++share) {
    for (const auto& [rank, amount] : bytes_from[share]) {
      wishes.emplace_back(amount, rank, static_cast<int>(share));
    }
  }
  std::sort(wishes.begin(), wishes.end(), [](const auto& a, const auto& b) {
    const auto distance = [](const auto& w) { return std::abs(std::get<1>(w) - std::get<2>(w)); };
    if (std::get<0>(a) != std::get<0>(b)) return std::get<0>(a) > std::get<0>(b);
    return std::tuple(distance(a), a) < std::tuple(distance(b), b);  // ties: stay where you are
  });
  std::vector<int> share_of(bytes_from.size(), -1);
  std::vector<bool> taken(bytes_from.size(), false);
  for (const auto& [amount, rank, share] : wishes) {
    if (share_of[static_cast<std::size_t>(rank)] >= 0 || taken[static_cast<std::size_t>(share)]) {
      continue;
    }
    share_of[static_cast<std::size_t>(rank)] = share;
    taken[static_cast<std::size_t>(share)] = true;
  }
  std::size_t free = 0;
  for (int& share : share_of) {
    if (share >= 0) continue;
    while (taken[free]) ++free;
    share = static_cast<int>(free);
    taken[free] = true;
  }
  return share_of;
}

ShareOrder order_share(const Geometry& geometry, const Plan& plan, int share) {
  struct Work {
    std::uint64_t progress = 0;
    std::uint64_t tile = 0;
    Traffic demand;
  };
  const TileNumbers tiles(geometry);
  std::vector<Work> works;
  std::map<int, std::uint64_t> needed;
  const auto s = static_cast<std::size_t>(share);
  for (std::uint64_t number = plan.share_begin[s]; number < plan.share_begin[s + 1]; ++number) {
    Work work{0, number, {}};
    std::map<int, std::uint64_t> demand;
    const std::vector<Slice> slices = slices_of(geometry, plan, tiles[number]);
    for (const Slice& slice : slices) {
      const OwnedPiece& owned = plan.pieces[slice.piece];
      demand[owned.owner] += bytes_moved(geometry, slice);
      if (geometry.tensors[slice.target].primary[slice.placement]) {
        needed[owned.owner] += slice.elements() * bytes(owned.piece.dtype);
      }
    }
    if (!slices.empty()) {
      const SourcePiece& piece = plan.pieces[slices.front().piece].piece;
      work.progress =
          plan.shares.progress(piece.file, piece.base + slices.front().from * bytes(piece.dtype));
    }
    work.demand.assign(demand.begin(), demand.end());
    works.push_back(std::move(work));
  }
  std::stable_sort(works.begin(), works.end(),
                   [](const Work& a, const Work& b) { return a.progress < b.progress; });
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
