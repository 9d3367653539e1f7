#include "core/ranges.hpp"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "support/random_layout.hpp"

namespace reshard {
namespace {

using test::between;
using test::Random;
using Bytes = std::set<std::pair<std::uint32_t, std::uint64_t>>;

Bytes bytes_of(const std::vector<FileRange>& ranges) {
  Bytes bytes;
  for (const FileRange& range : ranges) {
    for (std::uint64_t at = range.first; at < range.last; ++at) bytes.emplace(range.file, at);
  }
  return bytes;
}

bool contains(const Bytes& all, const Bytes& part) {
  return std::includes(all.begin(), all.end(), part.begin(), part.end());
}

TEST(Ranges, AppendedRangesHoldEveryByteOfTheBoxAndSmallGaps) {
  Random random(1);
  for (int i = 0; i < 10'000; ++i) {
    const std::size_t rank = between(random, 0, 4);
    Dims extent(rank), stride(rank);
    const std::uint64_t width = std::uint64_t{1} << random() % 4;
    std::uint64_t inner = 1;
    for (std::size_t d = rank; d-- > 0;) {
      extent[d] = between(random, random() % 30 == 0 ? 0 : 1, 4);
      stride[d] = inner + (random() % 2 == 0 ? between(random, 0, 60) : 0);
      inner = stride[d] * std::max<std::uint64_t>(extent[d], 1);
    }
    if (rank > 1 && random() % 2 == 0) {  // transposed
      std::swap(extent[0], extent[rank - 1]);
      std::swap(stride[0], stride[rank - 1]);
    }
    const std::uint64_t first = random() % 100;
    Box box{Dims(rank), extent};
    Bytes wanted;
    for (std::uint64_t n = 0; n < box.elements(); ++n) {
      std::uint64_t rest = n, at = 0;
      for (std::size_t d = 0; d < rank; ++d) {
        at += rest % extent[d] * stride[d];
        rest /= extent[d];
      }
      for (std::uint64_t b = 0; b < width; ++b) wanted.emplace(3, first + at * width + b);
    }
    std::vector<FileRange> ranges;
    append_ranges(3, first, extent, stride, width, ranges);
    const Bytes seen = bytes_of(ranges);
    ASSERT_TRUE(contains(seen, wanted));
    ASSERT_EQ(seen.empty(), wanted.empty());
    if (wanted.empty()) continue;
    ASSERT_EQ(*seen.begin(), *wanted.begin());
    ASSERT_EQ(*seen.rbegin(), *wanted.rbegin());
    std::uint64_t gap = 0;  // no gap within a range is longer than what a read of its own costs
    for (const auto& byte : seen) {
      gap = wanted.count(byte) != 0 ? 0 : gap + 1;
      ASSERT_LE(gap, 64U);
    }
  }
}

TEST(Ranges, MergedRangesAreSortedDisjointAndWasteAtMostOneInFifty) {
  Random random(2);
  int bridged = 0;
  for (int i = 0; i < 10'000; ++i) {
    std::vector<FileRange> ranges;
    std::uint64_t at = 0;
    const std::uint64_t longest = random() % 2 == 0 ? 10 : 400;
    for (std::uint64_t n = between(random, 0, 12); n > 0; --n) {
      const auto file = static_cast<std::uint32_t>(random() % 2);
      at = random() % 4 == 0 ? between(random, 0, 500) : at + between(random, 0, 12);
      const std::uint64_t size = between(random, 1, longest);
      ranges.push_back({file, at, at + size});
      at += size;
    }
    const Bytes wanted = bytes_of(ranges);
    const std::vector<FileRange> merged = merge_ranges(ranges);
    const Bytes seen = bytes_of(merged);
    ASSERT_TRUE(contains(seen, wanted));
    ASSERT_LE(seen.size() * 50, wanted.size() * 51);
    bridged += seen.size() > wanted.size();
    for (std::size_t r = 0; r < merged.size(); ++r) {
      ASSERT_LT(merged[r].first, merged[r].last);
      ASSERT_EQ(wanted.count({merged[r].file, merged[r].first}), 1U);
      ASSERT_EQ(wanted.count({merged[r].file, merged[r].last - 1}), 1U);
      if (r == 0) continue;
      ASSERT_LT(merged[r - 1], merged[r]);
      if (merged[r - 1].file != merged[r].file) continue;
      ASSERT_LT(merged[r - 1].last, merged[r].first);
    }
  }
  EXPECT_GT(bridged, 500);
}

TEST(Ranges, GapsBeyondOneMebibyteStayGaps) {
  constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
  const FileRange large{0, 0, 1000 * mebibyte};
  const auto merged_with = [&](std::uint64_t gap) {
    return merge_ranges({large, {0, large.last + gap, large.last + gap + 1}}).size();
  };
  EXPECT_EQ(merged_with(0), 1U);
  EXPECT_EQ(merged_with(mebibyte), 1U);
  EXPECT_EQ(merged_with(mebibyte + 1), 2U);
  EXPECT_EQ(merge_ranges({{0, 0, 5}, {1, 5, 9}}).size(), 2U);
  EXPECT_TRUE(merge_ranges({}).empty());
}

}  // namespace
}  // namespace reshard
