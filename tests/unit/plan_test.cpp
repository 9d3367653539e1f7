#include "core/plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "support/random_geometry.hpp"

namespace reshard {
namespace {

/// A plan whose stripes have owners, as a conversion makes it.
Plan owned_plan(const Geometry& geometry, int ranks) {
  Plan plan = make_plan(geometry, ranks);
  std::vector<Traffic> needs;
  for (int rank = 0; rank < ranks; ++rank) needs.push_back(needs_of(geometry, plan, rank));
  assign_owners(plan, needs);
  return plan;
}

using test::between;
using test::Content;
using test::Random;
using test::RandomGeometry;

/// Moves a slice element by element and marks what arrived; false when anything is misplaced.
void move(const RandomGeometry& random, const Plan& plan, const Slice& slice, ByteRange range,
          std::map<std::pair<std::uint32_t, std::uint64_t>, int>& arrived) {
  const OwnedPiece& owned = plan.pieces[slice.piece];
  const TargetTensor& target = random.geometry.tensors[slice.target];
  ASSERT_GE(owned.owner, 0);
  ASSERT_LT(owned.owner, plan.ranks);
  ASSERT_LT(slice.placement, target.stored.placements.size());
  for (std::uint64_t n = 0; n < slice.elements(); ++n) {
    std::uint64_t from = slice.from, to = slice.to, rest = n;
    for (std::size_t d = 0; d < slice.box.extent.size(); ++d) {
      from += rest % slice.box.extent[d] * slice.from_stride[d];
      to += rest % slice.box.extent[d] * slice.to_stride[d];
      rest /= slice.box.extent[d];
    }
    const SourcePiece& piece = owned.piece;
    const std::uint64_t read = piece.base + from * bytes(piece.dtype);
    const std::uint64_t written = target.base + to * bytes(target.stored.dtype);
    ASSERT_GE(written, range.first);
    ASSERT_LT(written, range.last);
    const auto source = random.source.find({piece.file, read});
    const auto wanted = random.target.find({target.file, written});
    ASSERT_NE(source, random.source.end());
    ASSERT_NE(wanted, random.target.end()) << "padding is written";
    ASSERT_EQ(source->second, wanted->second) << "another element than the target's";
    ++arrived[{target.file, written}];
  }
}

TEST(Plan, SlicesOfAllTilesMoveEachTargetElementOnceFromItsSource) {
  Random random(11);
  for (int i = 0; i < 1000; ++i) {
    const RandomGeometry made = test::GeometryMaker(random).make();
    const int ranks = 1 + i % 9;
    const Plan plan = owned_plan(made.geometry, ranks);
    const TileNumbers tiles(made.geometry);
    std::map<std::pair<std::uint32_t, std::uint64_t>, int> arrived;
    for (std::uint64_t n = 0; n < tiles.size(); ++n) {
      const Tile tile = tiles[n];
      ASSERT_EQ(tiles.number(tile), n);
      for (const Slice& slice : slices_of(made.geometry, plan, tile)) {
        move(made, plan, slice, bytes_of(made.geometry, tile), arrived);
        if (HasFatalFailure()) FAIL() << "model " << i << " on " << ranks << " ranks";
      }
    }
    ASSERT_EQ(arrived.size(), made.target.size()) << "model " << i;
    for (const auto& [place, times] : arrived) ASSERT_EQ(times, 1) << "model " << i;
  }
}

TEST(Plan, OwnersHoldEveryPieceAndReplicaWhole) {
  Random random(12);
  int replicas = 0;
  for (int i = 0; i < 1000; ++i) {
    const RandomGeometry made = test::GeometryMaker(random).make();
    const Plan plan = owned_plan(made.geometry, 1 + i % 9);
    std::map<std::uint32_t, std::set<std::vector<std::uint64_t>>> held;
    const auto hold = [&](const std::vector<OwnedPiece>& pieces, bool replica) {
      for (const OwnedPiece& owned : pieces) {
        ASSERT_EQ(owned.piece.replica_of != SourcePiece::no_replica, replica);
        ASSERT_TRUE(owned.owner >= 0 && owned.owner < plan.ranks);
        const Placement& whole = made.geometry.pieces[owned.piece.original].placement;
        const Box& box = owned.piece.placement.box;
        ASSERT_EQ(intersect(whole.box, box), box);
        ASSERT_EQ(position(whole, box), owned.piece.placement.offset);
        for (std::uint64_t n = 0; n < box.elements(); ++n) {
          std::vector<std::uint64_t> index;
          std::uint64_t rest = n;
          for (std::size_t d = 0; d < box.extent.size(); ++d, rest /= box.extent[d - 1]) {
            index.push_back(box.offset[d] + rest % box.extent[d]);
          }
          ASSERT_TRUE(held[owned.piece.original].insert(index).second) << "two owners";
        }
      }
    };
    hold(plan.pieces, false);
    hold(plan.replicas, true);
    replicas += !plan.replicas.empty();
    for (std::uint32_t p = 0; p < made.geometry.pieces.size(); ++p) {
      ASSERT_EQ(held[p].size(), made.geometry.pieces[p].placement.box.elements());
    }
  }
  EXPECT_GT(replicas, 100);
}

TEST(Plan, SharesAreOrderedWholeAndTheirDemandIsWhatMoves) {
  Random random(13);
  for (int i = 0; i < 500; ++i) {
    const RandomGeometry made = test::GeometryMaker(random).make();
    const int ranks = 1 + i % 9;
    const Plan plan = owned_plan(made.geometry, ranks);
    const TileNumbers tiles(made.geometry);
    ASSERT_EQ(plan.share_begin.size(), static_cast<std::size_t>(ranks) + 1);
    ASSERT_EQ(plan.share_begin.front(), 0U);
    ASSERT_EQ(plan.share_begin.back(), tiles.size());
    for (int share = 0; share < ranks; ++share) {
      const ShareOrder order = order_share(made.geometry, plan, share);
      std::vector<std::uint64_t> seen = order.tiles, wanted;
      for (std::uint64_t n = plan.share_begin[static_cast<std::size_t>(share)];
           n < plan.share_begin[static_cast<std::size_t>(share) + 1]; ++n) {
        wanted.push_back(n);
      }
      std::sort(seen.begin(), seen.end());
      ASSERT_EQ(seen, wanted);
      ASSERT_EQ(order.demand.size(), order.tiles.size());
      for (std::size_t t = 0; t < order.tiles.size(); ++t) {
        std::map<std::uint32_t, std::uint64_t> bytes;
        for (const Slice& s : slices_of(made.geometry, plan, tiles[order.tiles[t]])) {
          bytes[static_cast<std::uint32_t>(plan.pieces[s.piece].owner)] +=
              bytes_moved(made.geometry, s);
        }
        ASSERT_EQ(order.demand[t], Traffic(bytes.begin(), bytes.end()));
      }
    }
  }
}

/// Files of u8 tensors, the same on both sides: one tensor a file; of the first of them, `copied`,
/// the target has `copies`.
Geometry plain(const std::vector<std::uint64_t>& sizes, std::uint64_t tile_bytes,
               std::uint32_t copied = 0, std::uint32_t copies = 1) {
  Geometry geometry;
  for (std::uint32_t f = 0; f < sizes.size(); ++f) {
    const std::uint32_t index =
        geometry.model.add({"t" + std::to_string(f), "weight", {"n"}, {sizes[f]}});
    const Placement placement{index, {{0}, {sizes[f]}}, 0, {1}};
    geometry.sources.push_back({"source" + std::to_string(f), sizes[f]});
    SourcePiece piece;
    piece.placement = placement;
    piece.file = f;
    piece.dtype = Dtype::u8;
    geometry.pieces.push_back(piece);
    StoredTensor stored;
    stored.shape = {sizes[f]};
    stored.dtype = Dtype::u8;
    stored.placements = {placement};
    for (std::uint32_t copy = 0; copy < (f < copied ? copies : 1); ++copy) {
      const auto t = static_cast<std::uint32_t>(geometry.tensors.size());
      geometry.targets.push_back({"target" + std::to_string(t), sizes[f], {t}});
      geometry.tensors.push_back({t, 0, sizes[f], stored, 0, {}, 0});
    }
  }
  geometry.complete();
  geometry.tile_bytes = tile_bytes;
  return geometry;
}

TEST(Plan, TilesOfTheSameSourceBytesAreWorkedOnTogether) {
  const Geometry geometry = plain({16 << 20, 8 << 20}, 1 << 20, 1, 3);
  const TileNumbers tiles(geometry);
  const ShareOrder order = order_share(geometry, owned_plan(geometry, 1), 0);
  for (std::uint32_t n = 0; n < 48; ++n) {
    EXPECT_EQ(tiles[order.tiles[n]], (Tile{n % 3, n / 3})) << "place " << n;
  }
}

TEST(Plan, FilesWithTilesOfTheirOwnAreWrittenInOrder) {
  Geometry geometry = plain({1000, 300}, 64);
  EXPECT_FALSE(make_plan(geometry, 3).in_order);
  geometry.targets[0].borders = {0, 10, 300, 301, 1000};
  const TileNumbers tiles(geometry);
  EXPECT_EQ(tiles.first(1), 4U);
  EXPECT_EQ(tiles.size(), 4U + 5U);
  EXPECT_EQ(geometry.most_tile_bytes(), 699U);
  const std::pair<Tile, ByteRange> cases[] = {
      {{0, 0}, {0, 10}}, {{0, 1}, {10, 300}}, {{0, 3}, {301, 1000}}, {{1, 0}, {0, 64}}};
  for (const auto& [tile, range] : cases) {
    EXPECT_EQ(bytes_of(geometry, tile).first, range.first);
    EXPECT_EQ(bytes_of(geometry, tile).last, range.last);
  }
  for (const int ranks : {1, 2, 3, 4, 7, 20}) {
    const Plan plan = owned_plan(geometry, ranks);
    EXPECT_TRUE(plan.in_order);
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<std::uint64_t> order = order_share(geometry, plan, rank).tiles;
      std::vector<std::uint64_t> wanted;  // in slot s the ranks hold tiles s * ranks, ...
      for (auto n = static_cast<std::uint64_t>(rank); n < tiles.size();
           n += static_cast<std::uint64_t>(ranks)) {
        wanted.push_back(n);
      }
      EXPECT_EQ(order, wanted) << "rank " << rank << " of " << ranks;
    }
  }
}

void expect_even(const Geometry& geometry, int ranks, const std::string& what) {
  const Plan plan = owned_plan(geometry, ranks);
  const TileNumbers tiles(geometry);
  const double even = static_cast<double>(tiles.size()) / ranks;
  for (std::size_t share = 0; share + 1 < plan.share_begin.size(); ++share) {
    const auto mine = static_cast<double>(plan.share_begin[share + 1] - plan.share_begin[share]);
    EXPECT_LE(std::abs(mine - even), 0.05 * even + 1) << what << ", target share " << share;
  }
  std::vector<std::uint64_t> read(static_cast<std::size_t>(ranks), 0);
  for (const OwnedPiece& owned : plan.pieces) {
    read[static_cast<std::size_t>(owned.owner)] += owned.piece.placement.box.elements();
  }
  const double total =
      static_cast<double>(std::accumulate(read.begin(), read.end(), std::uint64_t{0}));
  for (const std::uint64_t mine : read) {  // a stripe is the smallest part to be given away
    EXPECT_LE(static_cast<double>(mine), 1.02 * total / ranks + total / plan.stripes.size() + 1)
        << what;
  }
}

TEST(Plan, SharesAreWithinFivePercentOfEven) {
  Random random(14);
  for (int ranks = 1; ranks <= 9; ++ranks) {
    expect_even(plain({100'000}, 64), ranks, "one file");
    expect_even(plain(std::vector<std::uint64_t>(400, 64), 64), ranks, "files of one tile");
    expect_even(plain(std::vector<std::uint64_t>(1000, 128), 64), ranks, "files of two tiles");
    expect_even(plain({64, 6400, 64, 6400, 128}, 64), ranks, "small and large");
    for (int i = 0; i < 30; ++i) {
      std::vector<std::uint64_t> sizes;
      for (std::uint64_t n = between(random, 1, 300); n > 0; --n) {
        sizes.push_back(64 * between(random, 1, 40));
      }
      expect_even(plain(sizes, 64), ranks, std::to_string(sizes.size()) + " files");
    }
  }
}

TEST(Plan, TensorsWithManyCopiesAreReadAndGivenEvenly) {
  Random random(18);
  for (int i = 0; i < 60; ++i) {
    const auto copied = static_cast<std::uint32_t>(between(random, 1, 30));
    const auto copies = static_cast<std::uint32_t>(between(random, 2, 9));
    std::vector<std::uint64_t> sizes(copied + between(random, 0, 60));
    for (std::uint64_t& size : sizes) size = between(random, 1, 200) << 10;
    const Geometry geometry = plain(sizes, 4096, copied, copies);
    const int ranks = static_cast<int>(between(random, 1, 9));
    const Plan plan = owned_plan(geometry, ranks);
    std::vector<std::uint64_t> read(static_cast<std::size_t>(ranks)), given(read.size());
    std::vector<std::uint64_t> stripe_bytes(plan.stripes.size()),
        stripe_weight(plan.stripes.size());
    for (const OwnedPiece& owned : plan.pieces) {
      const Placement& placement = owned.piece.placement;
      const std::uint64_t bytes = placement.box.elements();
      const std::uint64_t weight = bytes * (placement.tensor < copied ? copies : 1);
      read[static_cast<std::size_t>(owned.owner)] += bytes;
      given[static_cast<std::size_t>(owned.owner)] += weight;
      stripe_bytes[owned.stripe] += bytes;
      stripe_weight[owned.stripe] += weight;
    }
    const auto expect_even = [&](const std::vector<std::uint64_t>& by_rank, std::uint64_t stripe) {
      const std::uint64_t total = std::accumulate(by_rank.begin(), by_rank.end(), std::uint64_t{0});
      for (const std::uint64_t mine : by_rank) {  // half a stripe of each kind, and of a mixed one
        EXPECT_LE(mine, total / by_rank.size() + 2 * stripe) << i << " at " << ranks << " ranks";
      }
    };
    expect_even(read, *std::max_element(stripe_bytes.begin(), stripe_bytes.end()));
    expect_even(given, *std::max_element(stripe_weight.begin(), stripe_weight.end()));
    for (std::uint32_t s = 0; s < plan.stripes.size(); ++s) {
      EXPECT_EQ(stripe_bytes[s], plan.stripes.bytes_of(s));
    }
  }
}

TEST(Plan, StripesGoWhereTheyAreNeededWithinEvenLoads) {
  Random random(15);
  for (int i = 0; i < 300; ++i) {
    const auto ranks = static_cast<std::uint32_t>(1 + i % 9);
    const Geometry geometry = plain({between(random, 1000, 100'000)}, 64);
    const SourceStripes stripes(geometry, 16 * ranks);
    std::vector<Traffic> needs(ranks), own(ranks);
    for (std::uint32_t s = 0; s < stripes.size(); ++s) {
      own[s / 16].emplace_back(s, stripes.bytes_of(s));
      for (std::uint32_t rank = 0; rank < ranks; ++rank) {
        if (random() % 2 == 0) needs[rank].emplace_back(s, between(random, 1, 9));
      }
    }
    const std::vector<int> owners = assign_stripes(stripes, needs);
    ASSERT_EQ(owners, assign_stripes(stripes, needs));
    ASSERT_EQ(owners.size(), stripes.size());
    std::vector<std::uint64_t> read(ranks);
    std::uint64_t total = 0;
    for (std::uint32_t s = 0; s < stripes.size(); ++s) {
      ASSERT_TRUE(owners[s] >= 0 && owners[s] < static_cast<int>(ranks));
      read[static_cast<std::size_t>(owners[s])] += stripes.bytes_of(s);
      total += stripes.bytes_of(s);
    }
    ASSERT_EQ(total, geometry.sources.front().bytes);
    for (const std::uint64_t mine : read) {  // even, and two of sixteen stripes
      EXPECT_LE(static_cast<double>(mine), 1.125 * static_cast<double>(total) / ranks + 2);
    }
    const std::vector<int> local = assign_stripes(stripes, own);
    for (std::uint32_t s = 0; s < stripes.size(); ++s) {
      EXPECT_EQ(local[s], static_cast<int>(s / 16)) << "needed by one rank alone";
    }
  }
}

TEST(Plan, RoundsHoldEverySlotAndRankOnceWithinTheBudget) {
  Random random(16);
  for (int i = 0; i < 3000; ++i) {
    const int ranks = static_cast<int>(between(random, 1, 11));
    const std::uint64_t slots = between(random, 0, 12), budget = between(random, 20, 200);
    std::vector<std::vector<std::uint64_t>> bytes(slots);  // that each rank's tile asks of rank 0
    for (auto& slot : bytes) {
      for (int r = 0; r < ranks; ++r) slot.push_back(between(random, 0, i % 2 == 0 ? 20 : 60));
    }
    const auto heaviest = [&](std::uint64_t slot, int modulus, int residue) {
      std::uint64_t sum = 0;
      for (int r = residue; r < ranks; r += modulus)
        sum += bytes[slot][static_cast<std::size_t>(r)];
      return sum;
    };
    std::map<std::pair<std::uint64_t, int>, int> seen;
    std::uint64_t before = 0;
    for (const Round& round : make_rounds(slots, ranks, budget, heaviest)) {
      ASSERT_GE(round.first, before) << "slots go back";
      before = round.first;
      std::uint64_t filled = 0, members = 0;
      for (std::uint64_t slot = round.first; slot < round.last; ++slot) {
        filled += heaviest(slot, round.modulus, round.residue);
        for (int r = round.residue; r < ranks; r += round.modulus) {
          ++seen[{slot, r}];
          ++members;
        }
      }
      ASSERT_GT(members, 0U) << "an empty round";
      if (members > 1) {
        ASSERT_LE(filled, budget);
      }
    }
    ASSERT_EQ(seen.size(), slots * static_cast<std::uint64_t>(ranks));
    for (const auto& [place, times] : seen) ASSERT_EQ(times, 1);
  }
}

}  // namespace
}  // namespace reshard
