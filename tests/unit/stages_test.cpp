#include "formats/dialect/stages.hpp"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

using Counts = std::vector<std::uint64_t>;
using Name = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>;  // tp, pp, ep

/// The ranks that write files, by Megatron's own order of ranks over the whole world; nothing when
/// two of one name hold different parts.
std::optional<std::map<Name, FileRank>> files_of_world(const Parallelism& p, std::uint64_t world) {
  const std::uint64_t stage_ranks = world / p.pp;
  std::map<Name, FileRank> files;
  for (std::uint64_t rank = 0; rank < world; ++rank) {
    const std::uint64_t pp = rank / stage_ranks, inner = rank % stage_ranks;
    const std::uint64_t tp = inner % p.tp, data = inner / p.tp;  // with cp inside
    const std::uint64_t etp = inner % p.etp, ep = inner / p.etp % p.ep;
    const std::uint64_t expert_data = inner / p.etp / p.ep;
    if (data != 0 && expert_data != 0) continue;
    const auto [at, is_new] = files.emplace(Name(tp, pp, ep), FileRank{tp, pp, ep, etp});
    if (!is_new && at->second.etp != etp) return std::nullopt;
  }
  return files;
}

TEST(Stages, FileGridIsWhatAWorldOfRanksWrites) {
  int worlds = 0, refused = 0;
  for (std::uint64_t tp = 1; tp <= 6; ++tp) {
    for (std::uint64_t ep = 1; ep <= 6; ++ep) {
      for (std::uint64_t etp = 1; etp <= 6; ++etp) {
        for (std::uint64_t pp = 1; pp <= 3; ++pp) {
          for (std::uint64_t data = 1; data <= 3; ++data) {
            Parallelism p;
            p.tp = tp, p.ep = ep, p.etp = etp, p.pp = pp;
            ASSERT_EQ(ranks_of_stage(p), std::lcm(tp, ep * etp));
            const std::uint64_t world = pp * std::lcm(tp, ep * etp) * data;
            const auto wanted = files_of_world(p, world);
            if (!wanted) {
              ASSERT_THROW(static_cast<void>(file_grid(p, world)), Error);
              ++refused;
              continue;
            }
            std::vector<FileRank> files;
            for (const auto& [name, rank] : *wanted) files.push_back(rank);
            ASSERT_EQ(file_grid(p, world), files) << tp << ' ' << ep << ' ' << etp << ' ' << pp;
            ++worlds;
          }
        }
      }
    }
  }
  EXPECT_GT(worlds, 500);
  EXPECT_GT(refused, 100);
}

TEST(Stages, FileGridRefuses) {
  Parallelism p;
  p.tp = 4;
  EXPECT_THROW(static_cast<void>(file_grid(p, 3)), Error);
  p.etp = std::uint64_t{1} << 40;
  p.ep = std::uint64_t{1} << 40;
  EXPECT_THROW(static_cast<void>(file_grid(p, ~std::uint64_t{0})), Error);
  p.ep = 1;
  EXPECT_THROW(static_cast<void>(file_grid(p, ~std::uint64_t{0})), Error);
}

TEST(Stages, TableOfEvenUnevenAndVirtualStages) {
  using Ranges = std::vector<LayerRange>;
  EXPECT_EQ(stage_table(6, 3, 1, {}), (Ranges{{0, 2}, {2, 2}, {4, 2}}));
  EXPECT_EQ(stage_table(6, 3, 1, {1, 3, 2}), (Ranges{{0, 1}, {1, 3}, {4, 2}}));
  EXPECT_EQ(stage_table(8, 2, 2, {}), (Ranges{{0, 2}, {2, 2}, {4, 2}, {6, 2}}));
  EXPECT_EQ(stage_table(6, 2, 2, {4, 2}), (Ranges{{0, 2}, {2, 1}, {3, 2}, {5, 1}}));
  EXPECT_EQ(stage_table(3, 2, 1, {3, 0}), (Ranges{{0, 3}, {3, 0}}));
  EXPECT_EQ(chunks_of_counts({2, 0, 1}), (Ranges{{0, 2}, {2, 0}, {2, 1}}));
  Parallelism p;
  p.pp = 2;
  p.vpp = 2;
  p.chunks = stage_table(6, 2, 2, {4, 2});
  EXPECT_EQ(p.layers_of_stages(), (Counts{4, 2}));
}

std::string refusal(std::uint64_t layers, std::uint64_t pp, std::uint64_t vpp,
                    const Counts& stages) {
  try {
    stage_table(layers, pp, vpp, stages);
  } catch (const Error& error) {
    EXPECT_TRUE(error.kind() == Kind::usage || error.kind() == Kind::input);
    return error.what();
  }
  return "made";
}

TEST(Stages, RefusesWhatDoesNotFit) {
  EXPECT_EQ(refusal(5, 2, 1, {}),
            "5 layers do not divide into 2 equal stages: name them with --stage-layers");
  EXPECT_EQ(refusal(5, 2, 1, {2, 2}),
            "--stage-layers names 2 stages with 4 layers; wanted 2 stages with 5");
  EXPECT_EQ(refusal(5, 3, 1, {2, 3}),
            "--stage-layers names 2 stages with 5 layers; wanted 3 stages with 5");
  EXPECT_EQ(refusal(6, 2, 2, {}), "a stage of 3 layers does not divide into --vpp 2 chunks");
  EXPECT_NE(refusal(6, 2, 1, {~std::uint64_t{0}, 7}).find("does not fit 64 bits"),
            std::string::npos);
}

}  // namespace
}  // namespace reshard::formats
