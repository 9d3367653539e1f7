#include <gtest/gtest.h>
#include <mpi.h>
#include <sys/resource.h>

#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "support/scratch.hpp"

// Memory is bounded by --memory, whatever the size of the model: here the model is twice
// as large as everything that a rank may have. Run at 2 ranks.

namespace reshard {
namespace {

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;

std::uint64_t peak_rss() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

/// Collective. A conversion to this target takes no more than it may.
void expect_bounded(formats::TargetOptions target) {
  const mpi::Comm comm(MPI_COMM_WORLD);
  const test::Scratch scratch(comm);
  const std::uint64_t before = peak_rss();

  mpi::SampleOptions sample;
  sample.model.family = "llama";
  sample.model.parameters = 250'000'000;
  sample.sparse = true;
  sample.target.to = "megatron";
  sample.target.tp = 2;
  sample.target.pp = 2;
  sample.target.dtype = Dtype::bf16;
  sample.target.path = scratch / "source";
  mpi::sample(comm, sample);

  mpi::ConvertOptions options;
  options.source.path = scratch / "source";
  options.target = std::move(target);
  options.target.path = scratch / "target";
  options.memory = 64 * mebibyte;
  const mpi::ConvertReport report = mpi::convert(comm, options);
  const std::uint64_t bound = options.memory + 150 * mebibyte;
  EXPECT_GT(report.target_bytes, 2 * bound);
  EXPECT_LE(report.peak_rss[static_cast<std::size_t>(comm.rank())], bound + before)
      << before << " bytes before";
}

TEST(Memory, StaysWithinTheBound) {
  formats::TargetOptions target;
  target.to = "hf";
  expect_bounded(target);
}

TEST(Memory, StaysWithinTheBoundWhenAllRanksPack) {
  formats::TargetOptions target;
  target.to = "hdf5";
  target.hdf5_filter = "fletcher32";
  expect_bounded(target);
}

}  // namespace
}  // namespace reshard
