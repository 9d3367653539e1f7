#include "core/stripes.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>
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

/// What ranks have taken on, as shares of an even part.
class Loads {
 public:
  Loads(const std::vector<Wish>& wishes, std::size_t ranks) : read_(ranks), given_(ranks) {
    for (const Wish& wish : wishes) {
      even_read_ += static_cast<double>(wish.read) / static_cast<double>(ranks);
      even_given_ += static_cast<double>(wish.given) / static_cast<double>(ranks);
    }
  }
  /// The larger of both loads of a rank if it took the stripe.
  [[nodiscard]] double with(const Wish& wish, std::size_t rank) const {
    const double read = read_[rank] + static_cast<double>(wish.read);
    const double given = given_[rank] + static_cast<double>(wish.given);
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

}  // namespace

SourceStripes::SourceStripes(const Geometry& geometry, std::uint32_t count) : count_(count) {
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

std::uint64_t SourceStripes::place(std::uint32_t file, std::uint64_t at) const {
  const auto after = std::upper_bound(
      stretches_.begin(), stretches_.end(), std::pair(file, at),
      [](const auto& wanted, const Stretch& s) { return wanted < std::pair(s.file, s.first); });
  assert(after != stretches_.begin());
  const Stretch& stretch = *std::prev(after);
  return stretch.before + at - stretch.first;
}

std::uint64_t SourceStripes::begin_of(std::uint64_t stripe) const {
  const auto wide = static_cast<unsigned __int128>(stripe) * total_ + count_ - 1;
  return static_cast<std::uint64_t>(wide / count_);
}

std::uint32_t SourceStripes::holding(std::uint32_t file, std::uint64_t at) const {
  const auto wide = static_cast<unsigned __int128>(place(file, at)) * count_;
  const auto stripe = static_cast<std::uint64_t>(wide / total_);
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(stripe, count_ - 1));
}

std::uint64_t SourceStripes::next_border(std::uint32_t file, std::uint64_t at) const {
  return at + begin_of(std::uint64_t{holding(file, at)} + 1) - place(file, at);
}

std::uint64_t SourceStripes::bytes_of(std::uint32_t stripe) const {
  return begin_of(std::uint64_t{stripe} + 1) - begin_of(stripe);
}

std::vector<int> assign_stripes(const SourceStripes& stripes, const std::vector<Traffic>& needs) {
  std::vector<Wish> wishes = wishes_of(stripes, needs);
  // Those that give most for what they read first, for they are hardest to place; then those that
  // one rank wants most.
  std::sort(wishes.begin(), wishes.end(), [](const Wish& a, const Wish& b) {
    const auto copies = [](const Wish& w) { return w.read == 0 ? 0 : w.given / w.read; };
    const auto wanted = [](const Wish& w) { return w.by.empty() ? 0 : w.by.front().first; };
    return std::tuple(copies(b), wanted(b), a.stripe) < std::tuple(copies(a), wanted(a), b.stripe);
  });
  constexpr double even = 1.02;
  constexpr std::size_t most_asked = 8;  // of the ranks that need a stripe
  Loads loads(wishes, needs.size());
  std::vector<int> owners(stripes.size(), -1);
  std::vector<const Wish*> left;
  const auto give = [&](const Wish& wish, std::size_t rank) {
    loads.take(wish, rank);
    owners[wish.stripe] = static_cast<int>(rank);
  };
  for (const Wish& wish : wishes) {
    const std::size_t asked = std::min(most_asked, wish.by.size());
    std::size_t i = 0;
    while (i < asked && loads.with(wish, wish.by[i].second) > even) ++i;
    if (i < asked) {
      give(wish, wish.by[i].second);
    } else {
      left.push_back(&wish);
    }
  }
  for (const Wish* wish : left) {
    std::size_t best = 0;
    double least = loads.with(*wish, 0);
    for (std::size_t rank = 1; rank < loads.ranks(); ++rank) {
      const double load = loads.with(*wish, rank);
      if (load >= least) continue;
      least = load;
      best = rank;
    }
    give(*wish, best);
  }
  return owners;
}

}  // namespace reshard
