#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "formats/container/hdf5_file.hpp"
#include "mpi/compare.hpp"
#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "support/scratch.hpp"

// HDF5 files whose datasets pass a filter are written by all ranks through the library.

namespace reshard {
namespace {

class Hdf5Filter : public testing::Test {
 protected:
  Hdf5Filter() {
    mpi::SampleOptions sample;
    sample.model.family = "llama";
    sample.model.hyperparameters = {{"hidden", 64}, {"ffn", 96}, {"vocab", 501}};
    sample.target.to = "megatron";
    sample.target.tp = 2;
    sample.target.pp = 2;
    sample.target.path = scratch_ / "source";
    mpi::sample(comm_, sample);
    options_.source.path = scratch_ / "source";
    options_.target.to = "hdf5";
    options_.target.path = scratch_ / "target";
    options_.tile_bytes = 4096;  // far less than a chunk: all are written bit by bit
    options_.memory = std::uint64_t{100} << 10;
  }

  const mpi::Comm comm_{MPI_COMM_WORLD};
  const test::Scratch scratch_{comm_};
  mpi::ConvertOptions options_;
};

TEST_F(Hdf5Filter, HoldsTheSameNumbers) {
  for (const char* filter : {"deflate", "fletcher32"}) {
    for (const char* names : {"hf", "canonical"}) {
      options_.target.hdf5_filter = filter;
      options_.target.hdf5_names = names;
      options_.overwrite = true;
      const mpi::ConvertReport report = mpi::convert(comm_, options_);
      EXPECT_TRUE(report.verified);
      EXPECT_GT(report.rounds, 3U);
      formats::SourceOptions a, b;
      a.path = scratch_ / "source";
      b.path = scratch_ / "target";
      const mpi::CompareReport compared = mpi::compare(comm_, a, b, {});
      EXPECT_TRUE(compared.equal()) << filter << " " << names;
      EXPECT_GT(compared.tensors, 30U);
      if (comm_.rank() != 0) continue;
      const formats::FileIndex index = formats::read_hdf5(scratch_ / "target/model.h5", "m");
      EXPECT_TRUE(std::all_of(index.tensors.begin(), index.tensors.end(), [](const auto& tensor) {
        return tensor.chunks != nullptr && !tensor.chunks->filters.empty();
      }));
    }
  }
}

TEST_F(Hdf5Filter, LeavesNothingWhenItStops) {
  options_.target.hdf5_filter = "deflate";
  std::atomic<int> calls = 0;
  const bool stops = comm_.rank() == comm_.size() - 1;
  options_.check_stop = [&] {
    if (stops && ++calls > 12) throw Error(Kind::stopped, "stopped by the test");
  };
  const std::optional<Error> failure = mpi::attempt([&] { mpi::convert(comm_, options_); });
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind(), Kind::stopped) << failure->what();
  EXPECT_EQ(scratch_.names(), "source ");
}

TEST_F(Hdf5Filter, IsNotResumed) {
  options_.target.hdf5_filter = "deflate";
  options_.resume = true;
  const std::optional<Error> failure = mpi::attempt([&] { mpi::convert(comm_, options_); });
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind(), Kind::usage) << failure->what();
}

}  // namespace
}  // namespace reshard
