#include "core/cost.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace reshard {
namespace {

std::uint64_t sum_of(const std::vector<std::uint64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::uint64_t{0});
}

/// A placement of a row-major block of rows or columns of a matrix, which is a tensor of its own.
Placement block(std::uint32_t tensor, Dims offset, Dims extent, std::uint64_t at = 0) {
  return {tensor, {offset, extent}, at, {extent[1], 1}};
}

/// Two matrices of 2 MiB: in the source halved by columns in two files, the first one's left half
/// stored twice; in the target halved by rows in two files with a header of 100 bytes.
Geometry two_matrices() {
  constexpr std::uint64_t rows = 1024, columns = 1024, width = 2;
  Geometry g;
  for (const char* role : {"first.weight", "second.weight"}) {
    g.model.add({role, "weight", {"ffn", "hidden"}, {rows, columns}});
  }
  for (std::uint32_t file = 0; file < 2; ++file) {
    g.sources.push_back({"in" + std::to_string(file), 3 << 20});
    g.targets.push_back({"out" + std::to_string(file), 100 + 2 * (rows / 2) * columns * width, {}});
    for (std::uint32_t t = 0; t < 2; ++t) {
      SourcePiece piece;
      piece.placement = block(t, {0, file * columns / 2}, {rows, columns / 2});
      piece.file = file;
      piece.base = t * rows * columns / 2 * width;
      piece.dtype = Dtype::bf16;
      g.pieces.push_back(piece);
      TargetTensor target;
      target.file = file;
      target.bytes = rows / 2 * columns * width;
      target.base = 100 + t * target.bytes;
      target.stored.shape = {rows / 2, columns};
      target.stored.dtype = Dtype::bf16;
      target.stored.placements = {block(t, {file * rows / 2, 0}, {rows / 2, columns})};
      target.number = t;
      g.targets.back().tensors.push_back(static_cast<std::uint32_t>(g.tensors.size()));
      g.tensors.push_back(target);
    }
  }
  SourcePiece copy = g.pieces.front();
  copy.base = 2 << 20;
  g.pieces.push_back(copy);
  g.complete();
  return g;
}

TEST(Cost, IsWhatSlicesAddUpTo) {
  const Geometry geometry = two_matrices();
  const std::uint64_t all = 2 * 1024 * 1024 * 2, copied = 1024 * 512 * 2;
  const TileNumbers numbers(geometry);
  for (const int ranks : {1, 2, 3, 4, 7, 64}) {
    Plan plan = make_plan(geometry, ranks);
    const PlanCost cost = cost_of(geometry, plan, 4 << 20);
    std::vector<std::uint64_t> sent(static_cast<std::size_t>(ranks)), received = sent, local = sent,
                                                                      written = sent;
    for (std::size_t to = 0; to < sent.size(); ++to) {
      for (auto n = plan.share_begin[to]; n < plan.share_begin[to + 1]; ++n) {
        written[to] += bytes_of(geometry, numbers[n]).size();
        for (const Slice& slice : slices_of(geometry, plan, numbers[n])) {
          const auto from = static_cast<std::size_t>(plan.pieces[slice.piece].owner);
          (from == to ? local : sent)[from] += bytes_moved(geometry, slice);
          if (from != to) received[to] += bytes_moved(geometry, slice);
        }
      }
    }
    EXPECT_EQ(cost.sent, sent) << ranks;
    EXPECT_EQ(cost.received, received) << ranks;
    EXPECT_EQ(cost.local, local) << ranks;
    EXPECT_EQ(cost.written, written) << ranks;
    EXPECT_EQ(sum_of(cost.sent) + sum_of(cost.local), all) << ranks;
    EXPECT_EQ(sum_of(cost.written), all + 200) << ranks;
    EXPECT_EQ(sum_of(cost.read), all + copied) << ranks;
    EXPECT_EQ(cost.tiles, numbers.size());
    EXPECT_GE(cost.rounds, 1U);
    EXPECT_GE(cost.buffers, geometry.tile_bytes);
  }
}

TEST(Cost, OneRankSendsNothing) {
  const Geometry geometry = two_matrices();
  Plan plan = make_plan(geometry, 1);
  const PlanCost cost = cost_of(geometry, plan, 1 << 20);
  EXPECT_EQ(sum_of(cost.sent), 0U);
  EXPECT_EQ(cost.pairs, 0U);
  EXPECT_TRUE(cost.heaviest.empty());
}

TEST(Cost, HeaviestPairsDescend) {
  const Geometry geometry = two_matrices();
  Plan plan = make_plan(geometry, 4);
  const PlanCost cost = cost_of(geometry, plan, 1 << 20);
  ASSERT_GE(cost.heaviest.size(), 2U);
  for (std::size_t i = 1; i < cost.heaviest.size(); ++i) {
    EXPECT_GE(cost.heaviest[i - 1].bytes, cost.heaviest[i].bytes);
    EXPECT_NE(cost.heaviest[i].from, cost.heaviest[i].to);
  }
}

TEST(Cost, ASmallerBudgetMakesMoreRounds) {
  const Geometry geometry = two_matrices();
  Plan plan = make_plan(geometry, 1);
  const PlanCost one = cost_of(geometry, plan, 64 << 20), many = cost_of(geometry, plan, 1 << 20);
  EXPECT_EQ(one.rounds, 1U);
  EXPECT_EQ(many.rounds, many.tiles);
  EXPECT_LT(many.buffers, one.buffers);
}

TEST(Cost, GroupsAreNodes) {
  const std::vector<std::uint64_t> by_rank = {1, 3, 2, 2, 4};
  EXPECT_EQ(by_group(by_rank, 2), (std::vector<std::uint64_t>{4, 4, 4}));
  EXPECT_DOUBLE_EQ(imbalance(by_rank, 2), 1.0);
  EXPECT_DOUBLE_EQ(imbalance({1, 3}, 1), 1.5);
  EXPECT_DOUBLE_EQ(imbalance({0, 0}, 1), 1.0);
}

}  // namespace
}  // namespace reshard
