#include <gtest/gtest.h>
#include <mpi.h>

#include <numeric>
#include <string>
#include <vector>

#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "support/scratch.hpp"

// No rank may be idle or do the others' work: at 4 ranks each reads, sends and writes 15 to 35 %.

namespace reshard {
namespace {

void expect_even(const std::vector<std::uint64_t>& bytes, const std::string& what) {
  if (bytes.size() != 4) return;
  const auto all = static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), 0ULL));
  for (const std::uint64_t each : bytes) {
    EXPECT_GE(static_cast<double>(each), 0.15 * all) << what;
    EXPECT_LE(static_cast<double>(each), 0.35 * all) << what;
  }
}

/// Collective. Converts a model of some 24 MB; a megatron degree of 0 means `hf`, one file.
void expect_balance(const mpi::Comm& comm, std::uint64_t from, std::uint64_t to) {
  const test::Scratch scratch(comm);
  const auto target = [&](std::uint64_t tp, const std::string& path) {
    formats::TargetOptions options;
    options.path = scratch / path;
    options.to = tp == 0 ? "hf" : "megatron";
    if (tp != 0) options.tp = tp;
    if (tp != 0) options.pp = 2;
    return options;
  };
  mpi::SampleOptions sample;
  sample.model.family = "llama";
  sample.model.hyperparameters = {{"hidden", 256}, {"ffn", 704}, {"heads", 8}, {"groups", 4}};
  sample.model.hyperparameters["vocab"] = 1000;
  sample.model.hyperparameters["layers"] = 8;
  sample.target = target(from, "source");
  mpi::sample(comm, sample);
  mpi::ConvertOptions options;
  options.source.path = scratch / "source";
  options.target = target(to, "target");
  options.tile_bytes = 65536;
  const mpi::ConvertReport report = mpi::convert(comm, options);
  const std::string what = std::to_string(from) + " to " + std::to_string(to) + ": ";
  expect_even(report.bytes_read, what + "read");
  expect_even(report.bytes_written, what + "written");
  const std::uint64_t sent =
      std::accumulate(report.bytes_sent.begin(), report.bytes_sent.end(), std::uint64_t{0});
  if (sent > report.target_bytes / 10) expect_even(report.bytes_sent, what + "sent");
  EXPECT_EQ(
      std::accumulate(report.bytes_written.begin(), report.bytes_written.end(), std::uint64_t{0}),
      report.target_bytes);
}

TEST(Balance, OneFileToMany) {
  expect_balance(mpi::Comm(MPI_COMM_WORLD), 0, 2);
}
TEST(Balance, ManyFilesToOne) {
  expect_balance(mpi::Comm(MPI_COMM_WORLD), 2, 0);
}
TEST(Balance, OneFileToOne) {
  expect_balance(mpi::Comm(MPI_COMM_WORLD), 0, 0);
}
TEST(Balance, ManyFilesToMany) {
  expect_balance(mpi::Comm(MPI_COMM_WORLD), 2, 4);
}
TEST(Balance, SameLayout) {
  expect_balance(mpi::Comm(MPI_COMM_WORLD), 2, 2);
}

}  // namespace
}  // namespace reshard
