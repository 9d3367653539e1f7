#include "mpi/schedule.hpp"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace reshard::mpi {
namespace {

/// Collective. Numbers that each rank sends to each, as one flat list of what arrived.
std::vector<std::uint64_t> exchange_numbers(const Comm& comm,
                                            const std::vector<std::vector<std::uint64_t>>& to) {
  const auto ranks = static_cast<std::size_t>(comm.size());
  std::vector<int> send_counts(ranks), send_places(ranks), counts(ranks), places(ranks);
  std::vector<std::uint64_t> sent;
  for (std::size_t r = 0; r < ranks; ++r) {
    send_counts[r] = count(to[r].size());
    send_places[r] = count(sent.size());
    sent.insert(sent.end(), to[r].begin(), to[r].end());
  }
  check(MPI_Alltoall(send_counts.data(), 1, MPI_INT, counts.data(), 1, MPI_INT, comm.handle()),
        "MPI_Alltoall");
  std::size_t total = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    places[r] = count(total);
    total += static_cast<std::size_t>(counts[r]);
  }
  std::vector<std::uint64_t> arrived(total);
  check(MPI_Alltoallv(sent.data(), send_counts.data(), send_places.data(), MPI_UINT64_T,
                      arrived.data(), counts.data(), places.data(), MPI_UINT64_T, comm.handle()),
        "MPI_Alltoallv");
  return arrived;
}

/// Collective. Gives the source's stripes to the ranks that need them.
void share_sources(const Comm& comm, const Geometry& geometry, Plan& plan) {
  std::vector<std::uint64_t> mine;
  agree(comm, "plan", [&] {
    for (const auto& [stripe, bytes] : needs_of(geometry, plan, comm.rank())) {
      mine.insert(mine.end(), {stripe, bytes});
    }
  });
  const std::string packed(reinterpret_cast<const char*>(mine.data()),
                           mine.size() * sizeof(std::uint64_t));
  std::vector<Traffic> needs;
  for (const std::string& text : gather_all(comm, packed)) {
    std::vector<std::uint64_t> numbers(text.size() / sizeof(std::uint64_t));
    if (!text.empty()) std::memcpy(numbers.data(), text.data(), text.size());
    Traffic traffic;
    for (std::size_t i = 0; i + 1 < numbers.size(); i += 2) {
      traffic.emplace_back(static_cast<std::uint32_t>(numbers[i]), numbers[i + 1]);
    }
    needs.push_back(std::move(traffic));
  }
  assign_owners(plan, needs);
}

/// Most bytes that this rank sends or receives in each slot, on behalf of writers of one residue.
class Load {
 public:
  Load(const Comm& comm, const ShareOrder& order, const std::vector<Schedule::Service>& services,
       std::uint64_t tile_bytes)
      : comm_(comm), order_(order), services_(services), tile_bytes_(tile_bytes) {}

  [[nodiscard]] std::uint64_t of(std::uint64_t slot, int modulus, int residue) const {
    const auto m = static_cast<std::uint64_t>(modulus), r = static_cast<std::uint64_t>(residue);
    const bool mine = static_cast<std::uint64_t>(comm_.rank()) % m == r;
    const std::uint64_t written = mine && slot < order_.tiles.size() ? tile_bytes_ : 0;
    std::uint64_t given = 0;
    const auto first =
        std::lower_bound(services_.begin(), services_.end(), slot,
                         [](const Schedule::Service& s, std::uint64_t n) { return s.slot < n; });
    for (auto s = first; s != services_.end() && s->slot == slot; ++s) {
      if (s->rank % m == r) given += s->bytes;
    }
    return std::max(written, given);
  }

 private:
  const Comm& comm_;
  const ShareOrder& order_;
  const std::vector<Schedule::Service>& services_;
  std::uint64_t tile_bytes_;
};

}  // namespace

Schedule make_schedule(const Comm& comm, const Geometry& geometry, Plan& plan,
                       std::uint64_t budget) {
  share_sources(comm, geometry, plan);
  ShareOrder order;
  std::vector<std::vector<std::uint64_t>> wishes(static_cast<std::size_t>(comm.size()));
  agree(comm, "plan", [&] {
    order = order_share(geometry, plan, comm.rank());
    for (std::uint64_t slot = 0; slot < order.tiles.size(); ++slot) {
      for (const auto& [rank, bytes] : order.demand[slot]) {
        auto& wish = wishes[static_cast<std::size_t>(rank)];
        wish.insert(wish.end(),
                    {slot, static_cast<std::uint64_t>(comm.rank()), order.tiles[slot], bytes});
      }
    }
  });
  Schedule schedule;
  const std::vector<std::uint64_t> arrived = exchange_numbers(comm, wishes);
  for (std::size_t i = 0; i + 3 < arrived.size(); i += 4) {
    schedule.services.push_back({arrived[i], arrived[i + 1], arrived[i + 2], arrived[i + 3]});
  }
  std::sort(schedule.services.begin(), schedule.services.end(), [](const auto& a, const auto& b) {
    return std::tie(a.slot, a.rank) < std::tie(b.slot, b.rank);
  });

  std::uint64_t slots = order.tiles.size();
  maximum(comm, {&slots, 1});
  const Load load(comm, order, schedule.services, geometry.most_tile_bytes());
  std::vector<std::uint64_t> heaviest(slots);
  for (std::uint64_t slot = 0; slot < slots; ++slot) heaviest[slot] = load.of(slot, 1, 0);
  maximum(comm, heaviest);
  schedule.rounds =
      make_rounds(slots, comm.size(), budget, [&](std::uint64_t slot, int modulus, int residue) {
        if (modulus == 1) return heaviest[slot];
        std::uint64_t bytes = load.of(slot, modulus, residue);  // every rank asks the same
        maximum(comm, {&bytes, 1});
        return bytes;
      });
  schedule.tiles = std::move(order.tiles);
  return schedule;
}

}  // namespace reshard::mpi
