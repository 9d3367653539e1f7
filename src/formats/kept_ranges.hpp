#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "core/ranges.hpp"

namespace reshard::formats {

/// Ranges of the source's files that will be asked for again, in memory until they were. When they
/// do not fit in a bound the oldest go, to be read again.
class KeptRanges {
 public:
  explicit KeptRanges(std::uint64_t most_bytes) : most_bytes_(most_bytes) {}

  /// Copies what is kept of a range to where it belongs in `to`, the memory of the whole range.
  /// Returns the rest, ascending.
  [[nodiscard]] std::vector<FileRange> take(const FileRange& range, std::byte* to) const;
  /// Says that a range was asked for, which `others` ask for too, and that its bytes lie at `from`.
  void asked(const FileRange& range, const std::byte* from, std::uint64_t others);

 private:
  struct Kept {
    std::uint64_t last = 0;    ///< byte of the file
    std::uint64_t due = 0;     ///< bytes that will still be asked for, each as often as it will
    std::uint64_t number = 0;  ///< counts up
    std::unique_ptr<std::byte[]> memory;
  };
  using Place = std::pair<std::uint32_t, std::uint64_t>;  ///< file, first byte
  using Map = std::map<Place, Kept>;

  /// Calls `kept(iterator, part)` for each part of a range that is kept, `other(part)` for the
  /// rest.
  template <typename KeptMap, typename OnKept, typename OnOther>
  static void walk(KeptMap& map, const FileRange& range, OnKept&& kept, OnOther&& other);

  void drop(Map::iterator kept);

  Map kept_;                               ///< disjoint
  std::map<std::uint64_t, Place> by_age_;  ///< by Kept::number
  std::uint64_t next_number_ = 0;
  std::uint64_t most_bytes_, bytes_ = 0;
};

}  // namespace reshard::formats
