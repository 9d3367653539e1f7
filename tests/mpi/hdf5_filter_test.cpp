#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <string>

#include "formats/container/hdf5_file.hpp"
#include "mpi/compare.hpp"
#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "support/part.hpp"
#include "support/scratch.hpp"

// HDF5 files whose datasets pass a filter are written by all ranks through the library.

namespace reshard {
namespace {

namespace fs = std::filesystem;

class Hdf5Filter : public testing::Test {
 protected:
  Hdf5Filter() {
    mpi::SampleOptions sample;
    sample.model.family = "mixtral";
    sample.model.hyperparameters = {{"layers", 2}, {"vocab", 501}};
    sample.target.to = "megatron";
    sample.target.tp = 2;
    sample.target.pp = 2;
    sample.target.path = scratch_ / "source";
    mpi::sample(comm_, sample);
    options_.source.path = scratch_ / "source";
    options_.target.to = "hdf5";
    options_.target.path = scratch_ / "target";
    options_.target.hdf5_chunk_bytes = 2000;
    options_.memory = std::uint64_t{100} << 10;
  }

  /// Collective. The conversion fails with this kind on all ranks alike, and leaves nothing.
  void expect_failure(Kind kind, const std::string& part) {
    const std::optional<Error> failure = mpi::attempt([&] { mpi::convert(comm_, options_); });
    const std::string text = failure ? failure->what() : "no error";
    EXPECT_TRUE(failure && failure->kind() == kind) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text << " without " << part;
    for (const std::string& other : mpi::gather_all(comm_, text)) EXPECT_EQ(other, text);
    mpi::barrier(comm_);
    EXPECT_EQ(scratch_.names(), "source ");
    mpi::barrier(comm_);
  }
  [[nodiscard]] std::string staged(const std::string& name) const {
    for (const auto& entry : fs::directory_iterator(scratch_ / ".")) {
      const std::string folder = entry.path().string();
      if (folder.find(".target.reshard-") != std::string::npos && entry.is_directory()) {
        return folder + "/unit/" + name;
      }
    }
    return "";
  }
  /// Runs `work` on rank 0 after a phase, while all others wait.
  void after(const std::string& phase, const std::function<void()>& work) {
    options_.after_phase = [this, phase, work](std::string_view done) {
      if (done == phase && comm_.rank() == 0) work();
    };
  }

  const mpi::Comm comm_{MPI_COMM_WORLD};
  const test::Scratch scratch_{comm_};
  mpi::ConvertOptions options_;
};

TEST_F(Hdf5Filter, HoldsTheSameNumbersInTheSameBytes) {
  using Case = std::pair<const char*, const char*>;
  for (const auto& [filter, names] : {Case("deflate", "hf"), Case("fletcher32", "canonical")}) {
    SCOPED_TRACE(std::string(filter) + " " + names);
    options_.target.hdf5_filter = filter;
    options_.target.hdf5_names = names;
    for (const int ranks : {1, comm_.size()}) {
      const test::Part part(comm_, ranks);
      options_.target.path = scratch_ / ("target-" + std::to_string(ranks));
      options_.overwrite = true;
      if (part.comm()) {
        const mpi::ConvertReport report = mpi::convert(*part.comm(), options_);
        EXPECT_TRUE(report.verified);
        EXPECT_GT(report.rounds, 3U);
      }
      mpi::barrier(comm_);
    }
    formats::SourceOptions a, b;
    a.path = scratch_ / "source";
    b.path = options_.target.path;
    const mpi::CompareReport compared = mpi::compare(comm_, a, b, {});
    EXPECT_TRUE(compared.equal());
    EXPECT_GT(compared.tensors, 20U);
    if (comm_.rank() != 0) continue;
    EXPECT_EQ(test::difference(test::tree(scratch_ / "target-1"), test::tree(b.path)), "");
    const formats::FileIndex index = formats::read_hdf5(b.path + "/model.h5", "m");
    EXPECT_TRUE(std::all_of(index.tensors.begin(), index.tensors.end(), [](const auto& tensor) {
      return tensor.chunks != nullptr && !tensor.chunks->filters.empty();
    }));
  }
}

TEST_F(Hdf5Filter, IsWrittenInRoundsOfFewRanks) {
  options_.target.hdf5_filter = "fletcher32";
  options_.target.hdf5_chunk_bytes = 40000;
  options_.memory = 1;  // less than the tiles of one slot: ranks get theirs one after the other
  EXPECT_TRUE(mpi::convert(comm_, options_).verified);
  formats::SourceOptions a, b;
  a.path = scratch_ / "source";
  b.path = options_.target.path;
  EXPECT_TRUE(mpi::compare(comm_, a, b, {}).equal());
}

TEST_F(Hdf5Filter, LeavesNothingWhenItStops) {
  options_.target.hdf5_filter = "deflate";
  std::atomic<int> calls = 0;
  const bool stops = comm_.rank() == comm_.size() - 1;
  options_.check_stop = [&] {
    if (stops && ++calls > 12) throw Error(Kind::stopped, "stopped by the test");
  };
  expect_failure(Kind::stopped, "stopped by the test");
}

TEST_F(Hdf5Filter, LeavesNothingWhenARankFails) {
  options_.target.hdf5_filter = "deflate";
  for (const std::string phase : {"create", "move", "verify"}) {
    options_.after_phase = [&](std::string_view done) {
      if (done == phase && comm_.rank() == comm_.size() - 1) {
        throw Error(Kind::io, "made to fail");
      }
    };
    expect_failure(Kind::io, "made to fail");
  }
}

TEST_F(Hdf5Filter, LeavesNothingWhenAReadFails) {
  options_.target.hdf5_filter = "fletcher32";
  after("create", [&] {
    fs::resize_file(scratch_ / "source/release/mp_rank_01_001/model_optim_rng.pt", 3000);
  });
  expect_failure(Kind::io, "the file ends after");
}

TEST_F(Hdf5Filter, LeavesNothingWhenTheFileIsGone) {
  options_.target.hdf5_filter = "fletcher32";
  after("create", [&] { fs::remove(staged("model.h5")); });
  expect_failure(Kind::io, "model.h5: open");
}

TEST_F(Hdf5Filter, IsVerified) {
  options_.target.hdf5_filter = "fletcher32";
  after("seal", [&] {  // the last byte that is a tensor's
    const formats::FileIndex index = formats::read_hdf5(staged("model.h5"), "m");
    std::uint64_t last = 0;
    for (const formats::TensorEntry& entry : index.tensors) {
      for (const auto& place : entry.chunks->places) {
        last = std::max(last, place.offset + place.bytes - 5);  // before its checksum
      }
    }
    std::fstream file(staged("model.h5"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(last));
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(last));
    file.put(byte);
  });
  expect_failure(Kind::verification, "does not have the checksum");
}

TEST_F(Hdf5Filter, IsNotGoneOnWithButWrittenAnew) {
  options_.target.hdf5_filter = "deflate";
  options_.resume = true;
  const mpi::ConvertReport report = mpi::convert(comm_, options_);
  const std::string notes = [&] {
    std::string text;
    for (const std::string& note : report.notes) text += note + "\n";
    return text;
  }();
  EXPECT_NE(notes.find("written from its begin"), std::string::npos) << notes;
  EXPECT_TRUE(report.verified);
}

}  // namespace
}  // namespace reshard
