#include "core/ranges.hpp"

#include <algorithm>
#include <array>

namespace reshard {

void append_ranges(std::uint32_t file, std::uint64_t first, const Dims& extent, const Dims& stride,
                   std::uint64_t width, std::vector<FileRange>& ranges) {
  constexpr std::uint64_t small_gap = 64;
  for (const std::uint64_t n : extent) {
    if (n == 0) return;
  }
  const auto [dims, sorted] = StrideOrder(extent, stride);
  std::size_t outer = sorted;
  std::uint64_t length = width;
  while (outer > 0 && stride[dims[outer - 1]] * width <= length + small_gap) {
    const std::size_t d = dims[--outer];
    length += (extent[d] - 1) * stride[d] * width;
  }
  std::uint64_t count = 1;
  for (std::size_t i = 0; i < outer; ++i) count *= extent[dims[i]];
  std::array<std::uint64_t, max_rank> index{};
  for (std::uint64_t n = 0; n < count; ++n) {
    std::uint64_t at = first;
    for (std::size_t i = 0; i < outer; ++i) at += index[i] * stride[dims[i]] * width;
    ranges.push_back({file, at, at + length});
    for (std::size_t i = outer; i-- > 0;) {
      if (++index[i] < extent[dims[i]]) break;
      index[i] = 0;
    }
  }
}

std::vector<FileRange> merge_ranges(std::vector<FileRange> ranges) {
  constexpr std::uint64_t largest_gap = std::uint64_t{1} << 20;
  constexpr std::uint64_t waste_share = 50;  // 1 in 50 bytes: 1.02
  std::sort(ranges.begin(), ranges.end());
  std::vector<FileRange> joined;
  std::uint64_t wanted = 0;
  for (const FileRange& range : ranges) {
    if (!joined.empty() && joined.back().file == range.file && joined.back().last >= range.first) {
      joined.back().last = std::max(joined.back().last, range.last);
    } else {
      joined.push_back(range);
    }
  }
  std::vector<std::pair<std::uint64_t, std::size_t>> gaps;  // before range i
  for (std::size_t i = 0; i < joined.size(); ++i) {
    wanted += joined[i].last - joined[i].first;
    if (i == 0 || joined[i - 1].file != joined[i].file) continue;
    const std::uint64_t gap = joined[i].first - joined[i - 1].last;
    if (gap <= largest_gap) gaps.emplace_back(gap, i);
  }
  std::sort(gaps.begin(), gaps.end());
  std::vector<bool> bridged(joined.size(), false);
  std::uint64_t waste = 0;
  for (const auto& [gap, i] : gaps) {
    if ((waste + gap) * waste_share > wanted) break;
    waste += gap;
    bridged[i] = true;
  }
  std::vector<FileRange> merged;
  for (std::size_t i = 0; i < joined.size(); ++i) {
    if (bridged[i]) {
      merged.back().last = joined[i].last;
    } else {
      merged.push_back(joined[i]);
    }
  }
  return merged;
}

}  // namespace reshard
