#include "core/cost.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace reshard {
namespace {

/// Bytes that a tile of some share takes from one rank.
struct Demand {
  std::uint32_t slot = 0, share = 0, source = 0;
  std::uint64_t bytes = 0;
};

/// What all shares ask for, slot by slot.
struct Demands {
  std::vector<Demand> all;                 ///< ascending by slot
  std::vector<std::size_t> first;          ///< of each slot; one more at the end
  std::vector<std::uint64_t> share_tiles;  ///< by share

  [[nodiscard]] std::span<const Demand> of(std::uint64_t slot) const {
    return std::span(all).subspan(first[slot], first[slot + 1] - first[slot]);
  }
  [[nodiscard]] std::uint64_t slots() const { return first.size() - 1; }
};

/// Sums a share's demands by source.
Traffic sum_by_source(std::span<const Demand> demands) {
  Traffic traffic;
  for (const Demand& d : demands) traffic.emplace_back(d.source, d.bytes);
  std::sort(traffic.begin(), traffic.end());
  Traffic sums;
  for (const auto& [source, bytes] : traffic) {
    if (sums.empty() || sums.back().first != source) sums.emplace_back(source, 0);
    sums.back().second += bytes;
  }
  return sums;
}

/// Asks every share once; adds what it needs of the source to `read`, what it takes to `from`.
Demands collect(const Geometry& geometry, const Plan& plan, std::vector<std::uint64_t>& read,
                std::vector<Traffic>& from) {
  Demands demands;
  std::uint64_t slots = 0;
  for (int share = 0; share < plan.ranks; ++share) {
    const ShareOrder order = order_share(geometry, plan, share);
    const std::size_t begin = demands.all.size();
    for (const auto& [source, bytes] : order.needed) {
      read[static_cast<std::size_t>(source)] += bytes;
    }
    for (std::size_t slot = 0; slot < order.tiles.size(); ++slot) {
      for (const auto& [source, bytes] : order.demand[slot]) {
        demands.all.push_back({static_cast<std::uint32_t>(slot), static_cast<std::uint32_t>(share),
                               static_cast<std::uint32_t>(source), bytes});
      }
    }
    from.push_back(sum_by_source(std::span(demands.all).subspan(begin)));
    demands.share_tiles.push_back(order.tiles.size());
    slots = std::max<std::uint64_t>(slots, order.tiles.size());
  }
  std::sort(demands.all.begin(), demands.all.end(), [](const Demand& a, const Demand& b) {
    return std::tie(a.slot, a.share, a.source) < std::tie(b.slot, b.share, b.source);
  });
  demands.first.assign(slots + 1, 0);
  for (const Demand& d : demands.all) ++demands.first[d.slot + 1];
  std::partial_sum(demands.first.begin(), demands.first.end(), demands.first.begin());
  return demands;
}

/// What ranks give and write in slots; one vector is used again and again.
class Loads {
 public:
  Loads(const Geometry& geometry, const Plan& plan, const Demands& demands)
      : tile_bytes_(geometry.most_tile_bytes()),
        demands_(demands),
        given_(static_cast<std::size_t>(plan.ranks)) {}

  /// Most bytes of a rank in a slot, for writers of one residue; as make_rounds asks.
  std::uint64_t heaviest(std::uint64_t slot, int modulus, int residue) {
    const auto m = static_cast<std::size_t>(modulus), wanted = static_cast<std::size_t>(residue);
    std::uint64_t most = 0;
    std::fill(given_.begin(), given_.end(), 0);
    for (std::size_t rank = wanted; rank < given_.size() && most == 0; rank += m) {
      if (slot < demands_.share_tiles[rank]) most = tile_bytes_;
    }
    for (const Demand& d : demands_.of(slot)) {
      if (d.share % m != wanted) continue;
      given_[d.source] += d.bytes;
      most = std::max(most, given_[d.source]);
    }
    return most;
  }

  /// Adds what each rank gives, receives and writes in a round.
  void add(const Round& round, std::vector<std::uint64_t>& bytes) const {
    const auto m = static_cast<std::size_t>(round.modulus);
    const auto wanted = static_cast<std::size_t>(round.residue);
    for (std::uint64_t slot = round.first; slot < round.last; ++slot) {
      for (const Demand& d : demands_.of(slot)) {
        if (d.share % m != wanted) continue;
        bytes[d.source] += d.bytes;
        if (d.share != d.source) bytes[d.share] += d.bytes;
      }
      for (std::size_t rank = wanted; rank < bytes.size(); rank += m) {
        if (slot < demands_.share_tiles[rank]) bytes[rank] += tile_bytes_;
      }
    }
  }

 private:
  std::uint64_t tile_bytes_;
  const Demands& demands_;
  std::vector<std::uint64_t> given_;
};

std::uint64_t most_buffered(const std::vector<Round>& rounds, const Loads& loads,
                            std::size_t ranks) {
  constexpr std::size_t under_way = 3;
  std::uint64_t most = 0;
  std::vector<std::vector<std::uint64_t>> window;
  for (const Round& round : rounds) {
    window.emplace_back(ranks, 0);
    loads.add(round, window.back());
    if (window.size() > under_way) window.erase(window.begin());
    for (std::size_t r = 0; r < ranks; ++r) {
      std::uint64_t sum = 0;
      for (const auto& bytes : window) sum += bytes[r];
      most = std::max(most, sum);
    }
  }
  return most;
}

void add_written(const Geometry& geometry, const Plan& plan, PlanCost& cost) {
  const TileNumbers numbers(geometry);
  cost.tiles = numbers.size();
  for (std::size_t r = 0; r < cost.written.size(); ++r) {
    const Share share = share_of(plan, static_cast<int>(r));
    for (std::uint64_t n = share.first; n < share.last; n += share.step) {
      cost.written[r] += bytes_of(geometry, numbers[n]).size();
    }
  }
}

void add_traffic(const std::vector<Traffic>& from, PlanCost& cost) {
  constexpr std::size_t most = 10;
  std::vector<PlanCost::Pair> pairs;
  for (std::size_t to = 0; to < from.size(); ++to) {
    for (const auto& [source, bytes] : from[to]) {
      if (source == to) {
        cost.local[to] += bytes;
        continue;
      }
      cost.sent[source] += bytes;
      cost.received[to] += bytes;
      pairs.push_back({static_cast<int>(source), static_cast<int>(to), bytes});
    }
  }
  cost.pairs = pairs.size();
  const std::size_t kept = std::min(most, pairs.size());
  std::partial_sort(pairs.begin(), pairs.begin() + static_cast<std::ptrdiff_t>(kept), pairs.end(),
                    [](const PlanCost::Pair& a, const PlanCost::Pair& b) {
                      return std::tie(b.bytes, a.from, a.to) < std::tie(a.bytes, b.from, b.to);
                    });
  pairs.resize(kept);
  cost.heaviest = std::move(pairs);
}

}  // namespace

PlanCost cost_of(const Geometry& geometry, Plan& plan, std::uint64_t budget) {
  const auto ranks = static_cast<std::size_t>(plan.ranks);
  PlanCost cost;
  for (auto* bytes : {&cost.read, &cost.sent, &cost.received, &cost.written, &cost.local}) {
    bytes->assign(ranks, 0);
  }
  std::vector<Traffic> needs;
  for (int rank = 0; rank < plan.ranks; ++rank) needs.push_back(needs_of(geometry, plan, rank));
  assign_owners(plan, needs);
  for (const OwnedPiece& owned : plan.replicas) {
    cost.read[static_cast<std::size_t>(owned.owner)] +=
        owned.piece.placement.box.elements() * bytes(owned.piece.dtype);
  }
  std::vector<Traffic> from;
  const Demands demands = collect(geometry, plan, cost.read, from);
  Loads loads(geometry, plan, demands);
  add_written(geometry, plan, cost);
  add_traffic(from, cost);
  const std::vector<Round> rounds = make_rounds(demands.slots(), plan.ranks, budget,
                                                [&](std::uint64_t slot, int modulus, int residue) {
                                                  return loads.heaviest(slot, modulus, residue);
                                                });
  cost.rounds = rounds.size();
  cost.buffers = most_buffered(rounds, loads, ranks);
  return cost;
}

std::vector<std::uint64_t> by_group(const std::vector<std::uint64_t>& by_rank, std::uint64_t size) {
  std::vector<std::uint64_t> sums((by_rank.size() + size - 1) / size, 0);
  for (std::size_t r = 0; r < by_rank.size(); ++r) sums[r / size] += by_rank[r];
  return sums;
}

double imbalance(const std::vector<std::uint64_t>& by_rank, std::uint64_t size) {
  const std::vector<std::uint64_t> groups = by_group(by_rank, size);
  const std::uint64_t total = std::accumulate(groups.begin(), groups.end(), std::uint64_t{0});
  if (total == 0) return 1;
  const auto most = static_cast<double>(*std::max_element(groups.begin(), groups.end()));
  return most * static_cast<double>(groups.size()) / static_cast<double>(total);
}

}  // namespace reshard
