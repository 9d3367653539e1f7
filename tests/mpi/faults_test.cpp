#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "formats/file.hpp"
#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "support/scratch.hpp"

// The operating system refuses one call of a small conversion, each call once: the conversion
// either has the right bytes or fails alike on all ranks, leaves the name of the target as it was,
// and another run with --resume has the right bytes.

namespace reshard {
namespace {

namespace fs = std::filesystem;

/// Calls that can be made to fail.
enum class Call { open, pread, pwrite, ftruncate, fsync, rename, exchange, any };

/// Fails one of the calls of a kind: with an errno, or, for 0, by moving half of the bytes.
struct Faults : formats::SystemCalls {
  mutable std::atomic<int> left = -1;  ///< calls before the one that fails; below 0: none does
  Call call = Call::any;
  int error = EIO;
  bool has_exchange = true;  ///< of this file system

  /// Whether this is the call that fails.
  bool fails(Call now) const { return (call == Call::any || call == now) && left-- == 0; }
  int failed() const {
    errno = error;
    return -1;
  }

  int open(const char* path, int flags, mode_t mode) const override {
    return fails(Call::open) ? failed() : SystemCalls::open(path, flags, mode);
  }
  ssize_t pread(int file, void* to, std::size_t bytes, off_t offset) const override {
    if (!fails(Call::pread)) return SystemCalls::pread(file, to, bytes, offset);
    return error != 0 ? failed() : SystemCalls::pread(file, to, (bytes + 1) / 2, offset);
  }
  ssize_t pwrite(int file, const void* from, std::size_t bytes, off_t offset) const override {
    if (!fails(Call::pwrite)) return SystemCalls::pwrite(file, from, bytes, offset);
    return error != 0 ? failed() : SystemCalls::pwrite(file, from, (bytes + 1) / 2, offset);
  }
  int ftruncate(int file, off_t bytes) const override {
    return fails(Call::ftruncate) ? failed() : SystemCalls::ftruncate(file, bytes);
  }
  int fsync(int file) const override {
    return fails(Call::fsync) ? failed() : SystemCalls::fsync(file);
  }
  int rename(const char* from, const char* to) const override {
    return fails(Call::rename) ? failed() : SystemCalls::rename(from, to);
  }
  int exchange(const char* a, const char* b) const override {
    if (!has_exchange) {
      errno = EINVAL;
      return -1;
    }
    return fails(Call::exchange) ? failed() : SystemCalls::exchange(a, b);
  }
};

Faults faults;

/// A conversion into a folder with a tracker, over an older iteration of it or not.
class Fault : public testing::Test {
 protected:
  Fault() {
    mpi::SampleOptions sample;
    sample.model.family = "llama";
    sample.model.hyperparameters = {{"layers", 1}, {"hidden", 32}, {"ffn", 48}, {"vocab", 40}};
    sample.target.to = "hf";
    sample.target.path = scratch_ / "source";
    mpi::sample(comm_, sample);
    sample.model.hyperparameters["hidden"] = 16;
    sample.target.to = "megatron";
    sample.target.path = scratch_ / "old";
    mpi::sample(comm_, sample);
    options_.source.path = scratch_ / "source";
    options_.target.to = "megatron";
    options_.target.tp = 2;
    options_.tile_bytes = 4096;
    options_.memory = std::uint64_t{100} << 10;
    options_.journal_bytes = std::uint64_t{8} << 10;
    options_.target.path = scratch_ / "wanted";
    mpi::convert(comm_, options_);
    mpi::barrier(comm_);
    wanted_ = test::tree(scratch_ / "wanted");
    options_.target.path = scratch_ / "target";
  }

  /// Collective. What is under the target's name, which rank 0 puts there anew.
  void renew(bool overwrite) const {
    mpi::barrier(comm_);
    if (comm_.rank() == 0) {
      for (const auto& entry : fs::directory_iterator(scratch_ / ".")) {
        const std::string name = entry.path().filename().string();
        if (name.find("target") != std::string::npos) fs::remove_all(entry.path());
      }
      if (overwrite) fs::copy(scratch_ / "old", scratch_ / "target", fs::copy_options::recursive);
    }
    mpi::barrier(comm_);
  }

  /// Collective. Every call fails once on the last rank that makes it; how many did.
  int each(Call call, int error, bool overwrite = false, bool has_exchange = true) {
    int injected = 0;
    options_.overwrite = overwrite;
    for (int n = 0;; ++n) {
      SCOPED_TRACE("call " + std::to_string(n));
      renew(overwrite);
      options_.resume = false;
      const int failing = n % comm_.size();
      faults.call = call;
      faults.error = error;
      faults.has_exchange = has_exchange;
      faults.left = comm_.rank() == failing ? n / comm_.size() : -1;
      const std::optional<Error> failure = mpi::attempt([&] { mpi::convert(comm_, options_); });
      std::uint64_t reached = comm_.rank() == failing && faults.left < 0 ? 1 : 0;
      faults.left = -1;
      mpi::maximum(comm_, {&reached, 1});
      if (failure) expect_right_failure(*failure, overwrite);
      if (failure) {
        options_.resume = true;
        const auto again = mpi::attempt([&] { mpi::convert(comm_, options_); });
        EXPECT_FALSE(again) << again->what();
      }
      mpi::barrier(comm_);
      EXPECT_EQ(test::difference(wanted_, test::tree(scratch_ / "target")), "");
      EXPECT_EQ(scratch_.names(), "old source target wanted ");
      if (reached == 0) {
        if (++unreached_ >= comm_.size()) break;
      } else {
        unreached_ = 0;
        ++injected;
      }
      if (HasFailure()) break;
    }
    unreached_ = 0;
    return injected;
  }

  void expect_right_failure(const Error& failure, bool overwrite) {
    EXPECT_EQ(failure.kind(), Kind::io) << failure.what();
    for (const std::string& other : mpi::gather_all(comm_, failure.what())) {
      EXPECT_EQ(other, failure.what());
    }
    if (!fs::exists(scratch_ / "target")) {
      EXPECT_FALSE(overwrite) << "what was to be replaced is gone";
      return;
    }
    // Either nothing has changed, or all but the tracker is done.
    if (!fs::exists(scratch_ / "target/release")) {
      EXPECT_FALSE(overwrite) << "what was to be replaced is gone";
      return;
    }
    const auto there = test::tree(scratch_ / "target/release");
    if (overwrite && test::difference(there, test::tree(scratch_ / "old/release")).empty()) return;
    EXPECT_EQ(test::difference(there, test::tree(scratch_ / "wanted/release")), "");
  }

  const mpi::Comm comm_{MPI_COMM_WORLD};
  const test::Scratch scratch_{comm_};
  mpi::ConvertOptions options_;
  std::map<std::string, std::string> wanted_;
  int unreached_ = 0;
};

TEST_F(Fault, ShortReadsAndWritesAndInterruptionsChangeNothing) {
  EXPECT_GT(each(Call::pread, 0), 20);
  EXPECT_GT(each(Call::pwrite, 0), 20);
  EXPECT_GT(each(Call::any, EINTR), 50);
}

TEST_F(Fault, OfReading) {
  EXPECT_GT(each(Call::pread, EIO), 20);
  EXPECT_GT(each(Call::open, EIO), 20);
}

TEST_F(Fault, OfWriting) {
  for (const int error : {EIO, ENOSPC, EDQUOT}) EXPECT_GT(each(Call::pwrite, error), 20);
  EXPECT_GT(each(Call::ftruncate, ENOSPC), 1);
}

TEST_F(Fault, OfSynchronising) {
  EXPECT_GT(each(Call::fsync, EIO), 10);
}

TEST_F(Fault, OfRenaming) {
  EXPECT_GT(each(Call::rename, EACCES), 1);
  EXPECT_GT(each(Call::exchange, EACCES, true), 0);
  EXPECT_GT(each(Call::rename, EACCES, true, false), 2);
}

}  // namespace

namespace formats {
/// Stands for the one in the library (formats/system_calls.cpp) in this program.
const SystemCalls& system_calls() {
  return faults;
}
}  // namespace formats

}  // namespace reshard
