#include "core/geometry.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.hpp"
#include "support/random_geometry.hpp"

namespace reshard {
namespace {

/// A canonical [4, 6] and, if wished, its padding [2, 6]: source and target are what a test adds.
class Small {
 public:
  Small() {
    geometry.model.add({"m.weight", "weight", {"r", "c"}, {4, 6}});
    geometry.sources = {{"s0", 96}, {"s1", 96}};
    geometry.targets = {{"t0", 0, {}}};
  }
  Small& source(const Placement& placement, std::uint32_t file = 0) {
    SourcePiece piece;
    piece.placement = placement;
    piece.file = file;
    piece.name = "source tensor";
    geometry.pieces.push_back(piece);
    return *this;
  }
  Small& target(const Shape& shape, std::vector<Placement> placements, std::size_t repeats = 0) {
    const auto number = static_cast<std::uint32_t>(geometry.tensors.size());
    TargetFile& file = geometry.targets[0];
    const std::uint64_t size = 4 * elements(shape);
    StoredTensor stored;
    stored.name = "target tensor";
    stored.shape = shape;
    stored.placements = std::move(placements);
    stored.repeats = repeats;
    geometry.tensors.push_back({0, file.bytes, size, std::move(stored), number, {}, 0});
    file.tensors.push_back(number);
    file.bytes += size;
    return *this;
  }
  Geometry geometry;
};

const Placement whole{0, {{0, 0}, {4, 6}}, 0, {6, 1}};
const Placement transposed{0, {{0, 0}, {4, 6}}, 0, {1, 4}};
const Placement upper{0, {{0, 0}, {2, 6}}, 0, {6, 1}};
const Placement lower{0, {{2, 0}, {2, 6}}, 0, {6, 1}};

std::string failure(Small& small, Kind kind) {
  try {
    small.geometry.complete();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "completed";
}

TEST(Geometry, FindsReplicasAndPrimaries) {
  Small small;
  small.source(upper).source(lower, 1).source(upper, 1).source(lower).source(lower);
  small.target({6, 4}, {transposed}).target({4, 6}, {whole});
  small.geometry.complete();
  const auto& pieces = small.geometry.pieces;
  EXPECT_EQ(pieces[0].replica_of, SourcePiece::no_replica);
  EXPECT_EQ(pieces[1].replica_of, SourcePiece::no_replica);
  EXPECT_EQ(pieces[2].replica_of, 0U);
  EXPECT_EQ(pieces[3].replica_of, 1U);
  EXPECT_EQ(pieces[4].replica_of, 1U);
  for (std::uint32_t i = 0; i < pieces.size(); ++i) EXPECT_EQ(pieces[i].original, i);
  EXPECT_EQ(small.geometry.tensors[0].primary, std::vector<bool>{true});
  EXPECT_EQ(small.geometry.tensors[1].primary, std::vector<bool>{false});
  EXPECT_EQ(small.geometry.tensors[1].first_placement, 1U);
  EXPECT_EQ(small.geometry.placements, 2U);
  EXPECT_EQ(small.geometry.tile_bytes, std::uint64_t{1} << 20);
}

TEST(Geometry, RepeatedElementsAreNeitherPrimaryNorAnOverlap) {
  Small small;
  const Placement last_row{0, {{3, 0}, {1, 6}}, 24, {6, 1}};
  small.source(whole).target({5, 6}, {whole, last_row}, 1);
  small.geometry.complete();
  EXPECT_EQ(small.geometry.tensors[0].primary, (std::vector<bool>{true, false}));
  EXPECT_EQ(small.geometry.placements, 2U);
}

TEST(Geometry, RefusesWhatIsMissingOrTwofold) {
  Small missing;
  missing.source(upper).target({4, 6}, {whole});
  EXPECT_EQ(failure(missing, Kind::input),
            "m.weight: not all elements of shape [4, 6] are in the source's files");
  Small woven;
  woven.source(whole).source(upper, 1).target({4, 6}, {whole});
  EXPECT_NE(failure(woven, Kind::input)
                .find("m.weight: two stored tensors hold parts of it that "
                      "overlap"),
            std::string::npos);
  Small lost;
  lost.source(whole).target({2, 6}, {upper});
  EXPECT_EQ(failure(lost, Kind::input), "m.weight: the target has no place for all its elements");
  Small twice;
  twice.source(whole).target({4, 6}, {whole, upper});
  EXPECT_NE(failure(twice, Kind::internal).find("t0: target tensor: "), std::string::npos);
  Small outside;
  outside.source(whole).target({3, 6}, {whole});
  EXPECT_NE(failure(outside, Kind::internal)
                .find("t0: target tensor: a placement reaches element 24 of 18"),
            std::string::npos);
}

TEST(Geometry, OnlyPaddingMayBeDropped) {
  Small small;
  small.geometry.model.add({"m.padding.weight", "weight", {"r", "c"}, {2, 6}});
  small.source(whole).source({1, {{0, 0}, {2, 6}}, 24, {6, 1}}).target({4, 6}, {whole});
  small.geometry.complete();
}

TEST(Geometry, TilesGrowWithTheTarget) {
  for (const auto& [mebibytes, tile] : {std::pair{1, 1}, {256, 1}, {257, 2}, {513, 4}, {9999, 4}}) {
    Small small;
    small.source(whole).target({4, 6}, {whole});
    small.geometry.targets[0].bytes = static_cast<std::uint64_t>(mebibytes) << 20;
    small.geometry.complete();
    EXPECT_EQ(small.geometry.tile_bytes, static_cast<std::uint64_t>(tile) << 20) << mebibytes;
  }
}

TEST(Geometry, TilesCoverFilesAndKnowTheirTensors) {
  test::Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const Geometry geometry = test::GeometryMaker(random).make().geometry;
    const TileNumbers tiles(geometry);
    ASSERT_EQ(tiles.files(), geometry.targets.size());
    std::uint64_t number = 0;
    for (std::uint32_t file = 0; file < geometry.targets.size(); ++file) {
      ASSERT_EQ(tiles.first(file), number);
      std::uint64_t at = 0;
      for (std::uint32_t index = 0; at < geometry.targets[file].bytes; ++index, ++number) {
        ASSERT_EQ(tiles[number], (Tile{file, index}));
        const ByteRange range = bytes_of(geometry, {file, index});
        ASSERT_EQ(range.first, at);
        ASSERT_GT(range.size(), 0U);
        at = range.last;
        std::vector<std::uint32_t> wanted;
        for (const std::uint32_t t : geometry.targets[file].tensors) {
          const TargetTensor& tensor = geometry.tensors[t];
          if (tensor.bytes != 0 && tensor.base < range.last &&
              tensor.base + tensor.bytes > range.first) {
            wanted.push_back(t);
          }
        }
        std::vector<std::uint32_t> seen;
        for (const std::uint32_t t : tensors_in(geometry, file, range)) {
          if (geometry.tensors[t].bytes != 0) seen.push_back(t);
        }
        ASSERT_EQ(seen, wanted);
      }
    }
    ASSERT_EQ(tiles.size(), number);
  }
}

TEST(Geometry, StridesAreRowMajor) {
  EXPECT_EQ(strides_of({"r", "weight", {"a", "b", "c"}, {2, 3, 4}}), (Dims{12, 4, 1}));
  EXPECT_EQ(strides_of({"r", "weight", {}, {}}), Dims{});
}

}  // namespace
}  // namespace reshard
