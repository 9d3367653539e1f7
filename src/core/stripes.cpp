#include "core/stripes.hpp"

#include <algorithm>
#include <cassert>
#include <functional>
#include <queue>
#include <span>
#include <tuple>

namespace reshard {
namespace {

/// What one stripe asks of its owner, and who would like to be that.
struct Wish {
  std::uint32_t stripe = 0;
  std::uint64_t read = 0, given = 0;                        ///< bytes
  std::vector<std::pair<std::uint64_t, std::uint32_t>> by;  ///< (bytes, rank), largest first
};

std::vector<Wish> wishes_of(const SourceStripes& stripes, const std::vector<Traffic>& needs) {
  std::vector<Wish> wishes(stripes.size());
  for (std::uint32_t s = 0; s < stripes.size(); ++s) {
    wishes[s].stripe = s;
    wishes[s].read = stripes.bytes_of(s);
  }
  for (std::uint32_t rank = 0; rank < needs.size(); ++rank) {
    for (const auto& [stripe, bytes] : needs[rank]) {
      wishes[stripe].given += bytes;
      wishes[stripe].by.emplace_back(bytes, rank);
    }
  }
  for (Wish& wish : wishes) {
    std::sort(wish.by.begin(), wish.by.end(), [](const auto& a, const auto& b) {
      return std::tie(b.first, a.second) < std::tie(a.first, b.second);
    });
  }
  return wishes;
}

/// What ranks have taken on, as shares of an even part of what was offered so far.
class Loads {
 public:
  explicit Loads(std::size_t ranks) : read_(ranks), given_(ranks) {}
  void offer(const Wish& wish) {
    even_read_ += static_cast<double>(wish.read) / static_cast<double>(read_.size());
    even_given_ += static_cast<double>(wish.given) / static_cast<double>(read_.size());
  }
  /// The larger of both loads of a rank if it took `part` of the stripe.
  [[nodiscard]] double with(const Wish& wish, std::size_t rank, double part) const {
    const double read = read_[rank] + part * static_cast<double>(wish.read);
    const double given = given_[rank] + part * static_cast<double>(wish.given);
    return std::max(even_read_ > 0 ? read / even_read_ : 0,
                    even_given_ > 0 ? given / even_given_ : 0);
  }
  void take(const Wish& wish, std::size_t rank) {
    read_[rank] += static_cast<double>(wish.read);
    given_[rank] += static_cast<double>(wish.given);
  }
  [[nodiscard]] std::size_t ranks() const { return read_.size(); }

 private:
  std::vector<double> read_, given_;
  double even_read_ = 0, even_given_ = 0;
};

/// Gives each of the stripes, all with equally many copies, an owner.
void assign_class(std::span<const Wish> wishes, Loads& loads, std::vector<int>& owners) {
  constexpr std::size_t most_asked = 8;  // of the ranks that need a stripe
  for (const Wish& wish : wishes) loads.offer(wish);
  const auto give = [&](const Wish& wish, std::size_t rank) {
    loads.take(wish, rank);
    owners[wish.stripe] = static_cast<int>(rank);
  };
  std::vector<const Wish*> left;
  for (const Wish& wish : wishes) {
    const std::size_t asked = std::min(most_asked, wish.by.size());
    std::size_t i = 0;
    while (i < asked && loads.with(wish, wish.by[i].second, 0.5) > 1) ++i;
    if (i < asked) {
      give(wish, wish.by[i].second);
    } else {
      left.push_back(&wish);
    }
  }
  if (left.empty()) return;
  using Entry = std::pair<double, std::size_t>;  // load, rank
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> least;
  for (std::size_t rank = 0; rank < loads.ranks(); ++rank) {
    least.emplace(loads.with(*left.front(), rank, 0), rank);
  }
  for (const Wish* wish : left) {
    const std::size_t rank = least.top().second;
    least.pop();
    give(*wish, rank);
    least.emplace(loads.with(*wish, rank, 0), rank);
  }
}

/// By canonical tensor: how many bytes of the target a byte of the source becomes, rounded to
/// whole copies, at least 1.
std::vector<std::uint64_t> copies_of(const Geometry& geometry) {
  std::vector<std::uint64_t> needed(geometry.model.tensors().size()), made(needed.size());
  for (const SourcePiece& piece : geometry.pieces) {
    if (piece.replica_of != SourcePiece::no_replica) continue;
    needed[piece.placement.tensor] += piece.placement.box.elements() * bytes(piece.dtype);
  }
  for (const TargetTensor& target : geometry.tensors) {
    for (const Placement& placement : target.stored.placements) {
      made[placement.tensor] += placement.box.elements() * bytes(target.stored.dtype);
    }
  }
  for (std::size_t t = 0; t < made.size(); ++t) {
    made[t] = needed[t] == 0 ? 1 : std::max<std::uint64_t>(made[t] / needed[t], 1);
  }
  return made;
}

}  // namespace

SourceStripes::SourceStripes(const Geometry& geometry, std::uint32_t count)
    : bytes_(count), count_(count) {
  const std::vector<std::uint64_t> copies = copies_of(geometry);
  std::vector<Stretch> all;
  for (const SourcePiece& piece : geometry.pieces) {
    const std::uint64_t width = bytes(piece.dtype);
    const std::uint64_t first = piece.base + piece.placement.offset * width;
    const bool replica = piece.replica_of != SourcePiece::no_replica;
    const std::uint64_t weight = replica ? 1 : copies[piece.placement.tensor];
    all.push_back({piece.file, first, first + span(piece.placement) * width, weight, 0});
  }
  std::sort(all.begin(), all.end(), [](const Stretch& a, const Stretch& b) {
    return std::tie(a.file, a.first, a.last) < std::tie(b.file, b.first, b.last);
  });
  for (Stretch stretch : all) {
    if (!stretches_.empty() && stretches_.back().file == stretch.file) {
      Stretch& last = stretches_.back();
      if (last.last == stretch.first && last.weight == stretch.weight) {
        last.last = stretch.last;
        continue;
      }
      stretch.first = std::max(stretch.first, last.last);  // parts of one memory may overlap
      if (stretch.first >= stretch.last) continue;
    }
    stretches_.push_back(stretch);
  }
  for (Stretch& stretch : stretches_) {
    stretch.before = total_;
    total_ += (stretch.last - stretch.first) * stretch.weight;
  }
  for (const Stretch& stretch : stretches_) {
    for (std::uint64_t at = stretch.first; at < stretch.last;) {
      const std::uint64_t end = std::min(next_border(stretch.file, at), stretch.last);
      bytes_[holding(stretch.file, at)] += end - at;
      at = end;
    }
  }
}

const SourceStripes::Stretch& SourceStripes::stretch_at(std::uint32_t file,
                                                        std::uint64_t at) const {
  const auto after = std::upper_bound(
      stretches_.begin(), stretches_.end(), std::pair(file, at),
      [](const auto& wanted, const Stretch& s) { return wanted < std::pair(s.file, s.first); });
  assert(after != stretches_.begin());
  return *std::prev(after);
}

std::uint64_t SourceStripes::begin_of(std::uint64_t stripe) const {
  const auto wide = static_cast<unsigned __int128>(stripe) * total_ + count_ - 1;
  return static_cast<std::uint64_t>(wide / count_);
}

std::uint32_t SourceStripes::at_weight(std::uint64_t place) const {
  const auto wide = static_cast<unsigned __int128>(place) * count_;
  const auto stripe = static_cast<std::uint64_t>(wide / total_);
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(stripe, count_ - 1));
}

std::uint32_t SourceStripes::holding(std::uint32_t file, std::uint64_t at) const {
  const Stretch& stretch = stretch_at(file, at);
  return at_weight(stretch.before + (at - stretch.first) * stretch.weight);
}

std::uint64_t SourceStripes::next_border(std::uint32_t file, std::uint64_t at) const {
  const Stretch& stretch = stretch_at(file, at);
  const std::uint64_t place = stretch.before + (at - stretch.first) * stretch.weight;
  const std::uint64_t rest = begin_of(std::uint64_t{at_weight(place)} + 1) - place;
  return at + (rest + stretch.weight - 1) / stretch.weight;
}

std::vector<int> assign_stripes(const SourceStripes& stripes, const std::vector<Traffic>& needs) {
  std::vector<Wish> wishes = wishes_of(stripes, needs);
  const auto copies = [](const Wish& w) { return w.read == 0 ? 0 : w.given / w.read; };
  // In a class, first those that one rank wants most.
  std::sort(wishes.begin(), wishes.end(), [&](const Wish& a, const Wish& b) {
    const auto wanted = [](const Wish& w) { return w.by.empty() ? 0 : w.by.front().first; };
    return std::tuple(copies(b), wanted(b), a.stripe) < std::tuple(copies(a), wanted(a), b.stripe);
  });
  Loads loads(needs.size());
  std::vector<int> owners(stripes.size(), 0);
  for (auto first = wishes.begin(); first != wishes.end();) {
    const auto last = std::find_if(first, wishes.end(),
                                   [&](const Wish& w) { return copies(w) != copies(*first); });
    assign_class({first, last}, loads, owners);
    first = last;
  }
  return owners;
}

}  // namespace reshard
