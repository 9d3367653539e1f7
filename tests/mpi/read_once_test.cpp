#include <gtest/gtest.h>
#include <mpi.h>

#include <numeric>

#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "support/scratch.hpp"

// What several places of the target need is read once, whatever rounds and ranks write them: gaps
// between ranges that are read together are at most 1 in 50 bytes.

namespace reshard {
namespace {

std::uint64_t total(const std::vector<std::uint64_t>& by_rank) {
  return std::accumulate(by_rank.begin(), by_rank.end(), std::uint64_t{0});
}

/// Collective. Makes a source and converts it in rounds of few tiles; bytes read, of those wanted.
double read_share(const mpi::Comm& comm, const mpi::SampleOptions& sample,
                  const formats::TargetOptions& to) {
  const test::Scratch scratch(comm);
  mpi::SampleOptions made = sample;
  made.target.path = scratch / "source";
  mpi::sample(comm, made);
  mpi::ConvertOptions options;
  options.source.path = scratch / "source";
  options.target = to;
  options.target.path = scratch / "target";
  options.tile_bytes = std::uint64_t{1} << 20;
  const mpi::ConvertReport report = mpi::convert(comm, options);
  formats::TargetOptions back;  // as many bytes as the model has, each once
  back.to = "hf";
  options.source.path = scratch / "target";
  options.target = back;
  options.target.path = scratch / "hf";
  const std::uint64_t wanted = mpi::convert(comm, options).target_bytes;
  return static_cast<double>(total(report.bytes_read)) / static_cast<double>(wanted);
}

TEST(ReadOnce, RowsOfATiedVocabulary) {
  const mpi::Comm comm(MPI_COMM_WORLD);
  mpi::SampleOptions sample;
  sample.model.family = "gpt2";
  sample.model.hyperparameters = {{"layers", 8}, {"hidden", 256}, {"heads", 4}, {"vocab", 40000}};
  sample.target.to = "megatron-deepspeed";
  sample.target.tp = 2;
  sample.target.pp = 4;
  formats::TargetOptions to;
  to.to = "merak";
  to.merak_era = "1";
  to.tp = 4;
  to.pp = 4;
  const double share = read_share(comm, sample, to);
  EXPECT_LT(share, 1.03);
  EXPECT_GT(share, 0.97);
}

TEST(ReadOnce, WeightsThatAllExpertParallelRanksHold) {
  const mpi::Comm comm(MPI_COMM_WORLD);
  mpi::SampleOptions sample;
  sample.model.family = "mixtral";
  sample.model.hyperparameters = {{"layers", 4}, {"hidden", 512}, {"ffn", 256},  {"heads", 8},
                                  {"groups", 8}, {"vocab", 9000}, {"experts", 4}};
  sample.target.to = "hf";
  formats::TargetOptions to;
  to.to = "megatron";
  to.ep = 4;
  const double share = read_share(comm, sample, to);
  EXPECT_LT(share, 1.03);
  EXPECT_GT(share, 0.97);
}

}  // namespace
}  // namespace reshard
