#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/geometry.hpp"

namespace reshard {

/// Bytes by number of a rank, share or stripe; sparse, ascending.
using Traffic = std::vector<std::pair<std::uint32_t, std::uint64_t>>;

/// The bytes of the source's files that are needed, one behind the other, cut into stripes of even
/// work: what one rank reads for all. A byte that goes to several places of the target counts once
/// for each, so that a stripe of a tensor with many copies is shorter.
class SourceStripes {
 public:
  SourceStripes() = default;
  SourceStripes(const Geometry& geometry, std::uint32_t count);
  /// How many stripes there are.
  [[nodiscard]] std::uint32_t size() const { return count_; }
  /// Stripe of byte `at` of a file; the byte must be one that is needed.
  [[nodiscard]] std::uint32_t holding(std::uint32_t file, std::uint64_t at) const;
  /// Byte of the file at which the next stripe begins, if no gap lies before it.
  [[nodiscard]] std::uint64_t next_border(std::uint32_t file, std::uint64_t at) const;
  /// How many copies of a byte the target holds, at least 1; the byte must be one that is needed.
  [[nodiscard]] std::uint64_t copies(std::uint32_t file, std::uint64_t at) const {
    return stretch_at(file, at).weight;
  }
  /// Bytes of a stripe.
  [[nodiscard]] std::uint64_t bytes_of(std::uint32_t stripe) const { return bytes_[stripe]; }

 private:
  struct Stretch {
    std::uint32_t file = 0;
    std::uint64_t first = 0, last = 0;  ///< bytes of the file
    std::uint64_t weight = 1;           ///< of each byte
    std::uint64_t before = 0;           ///< weight of all that is ahead of it
  };
  [[nodiscard]] const Stretch& stretch_at(std::uint32_t file, std::uint64_t at) const;
  [[nodiscard]] std::uint64_t begin_of(std::uint64_t stripe) const;
  [[nodiscard]] std::uint32_t at_weight(std::uint64_t place) const;

  std::vector<Stretch> stretches_;
  std::vector<std::uint64_t> bytes_;  ///< by stripe
  std::uint32_t count_ = 1;
  std::uint64_t total_ = 0;  ///< weight of all
};

/// Gives each stripe to the rank that needs most of it, as COSTA's relabelling does with whole
/// shares, as long as that rank neither reads nor gives more than its even part; stripes that find
/// no such rank go to the least loaded. Stripes with equally many copies are spread evenly for
/// themselves, those with most copies first. `needs[rank]` lists (stripe, bytes that move to it,
/// copies included). Returns the owner of every stripe; a pure function, the same on every rank.
std::vector<int> assign_stripes(const SourceStripes& stripes, const std::vector<Traffic>& needs);

}  // namespace reshard
