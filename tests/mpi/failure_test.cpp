#include <gtest/gtest.h>
#include <mpi.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>

#include "mpi/compare.hpp"
#include "mpi/convert.hpp"
#include "mpi/inspect.hpp"
#include "mpi/sample.hpp"
#include "support/scratch.hpp"

// Whatever fails, on whatever rank and in whatever phase: all ranks throw the same error, no target
// is left, and a staging folder only when its journal tells of something to go on with.

namespace reshard {
namespace {

namespace fs = std::filesystem;

/// One conversion of a small model that is to fail.
class Failure : public testing::Test {
 protected:
  Failure() {
    mpi::SampleOptions sample;
    sample.model.family = "llama";
    sample.model.hyperparameters = {{"tied", true}};
    sample.target.to = "megatron";
    sample.target.tp = 2;
    sample.target.pp = 2;
    sample.target.path = source();
    mpi::sample(comm_, sample);
    options_.source.path = source();
    options_.target.path = target();
    options_.target.to = "hf";
    options_.tile_bytes = 4096;
    options_.memory = std::uint64_t{100} << 10;
  }

  [[nodiscard]] std::string source() const { return scratch_ / "source"; }
  [[nodiscard]] std::string target() const { return scratch_ / "target"; }
  [[nodiscard]] std::string source_file() const {
    return source() + "/release/mp_rank_01_001/model_optim_rng.pt";
  }
  /// A file of the target, in its staging folder.
  [[nodiscard]] std::string staged(const std::string& name) const {
    for (const auto& entry : fs::directory_iterator(scratch_ / ".")) {
      const std::string folder = entry.path().filename().string();
      if (!entry.is_directory() || folder.find(".reshard-") == std::string::npos) continue;
      return entry.path().string() + "/unit/" + name;
    }
    return "";
  }
  /// Collective. Runs `work` on rank 0 after a phase of the conversion, while all others wait.
  void after(const std::string& phase, const std::function<void()>& work) {
    options_.after_phase = [this, phase, work](std::string_view done) {
      if (done == phase && comm_.rank() == 0) work();
    };
  }

  /// Collective. A staging folder that is kept by a failure is taken up again; then nothing but the
  /// target is left.
  void expect_resumable() {
    options_.after_phase = nullptr;
    options_.resume = true;
    const mpi::ConvertReport report = mpi::convert(comm_, options_);
    EXPECT_EQ(report.resumed_bytes, report.target_bytes);
    mpi::barrier(comm_);
    EXPECT_EQ(scratch_.names(), "source target ");
    mpi::barrier(comm_);
    if (comm_.rank() == 0) fs::remove_all(target());
    options_.resume = false;
    mpi::barrier(comm_);
  }

  /// Collective. The conversion fails with this kind, on all ranks alike, and leaves nothing.
  void expect_failure(Kind kind, const std::string& part) {
    expect_failure(kind, part, [&] { mpi::convert(comm_, options_); });
  }

  void expect_failure(Kind kind, const std::string& part, const std::function<void()>& work) {
    std::optional<Error> error;
    try {
      work();
    } catch (const Error& thrown) {
      error = thrown;
    }
    const std::string text = error ? error->what() : "no error";
    EXPECT_TRUE(error && error->kind() == kind) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text << "\nwithout " << part;
    const std::string kinds = error ? std::to_string(static_cast<int>(error->kind())) : "";
    for (const std::string& other : mpi::gather_all(comm_, kinds + text)) {
      EXPECT_EQ(other, kinds + text);
    }
    mpi::barrier(comm_);
    std::string names = scratch_.names();
    if (kept_) {
      EXPECT_EQ(names.find(".target.reshard-"), 0U) << names;
      names.erase(0, names.find(' ') + 1);
    }
    EXPECT_EQ(names, left_);
    mpi::barrier(comm_);
  }

  const mpi::Comm comm_{MPI_COMM_WORLD};
  const test::Scratch scratch_{comm_};
  mpi::ConvertOptions options_;
  std::string left_ = "source ";  ///< what is there after the failure
  bool kept_ = false;             ///< a staging folder too, for --resume
};

TEST_F(Failure, OfAnyRankAfterAnyPhase) {
  for (const std::string phase :
       {"index", "describe", "plan", "create", "move", "replicas", "seal", "verify"}) {
    for (const int failing : {0, comm_.size() - 1}) {
      options_.after_phase = [&](std::string_view done) {
        if (done == phase && comm_.rank() == failing) throw Error(Kind::io, "made to fail");
      };
      const std::string rank = comm_.size() > 1 ? "rank " + std::to_string(failing) + ": " : "";
      kept_ = phase == "move" || phase == "replicas" || phase == "seal" || phase == "verify";
      expect_failure(Kind::io, phase + ": " + rank + "made to fail");
      if (kept_) expect_resumable();
    }
  }
}

TEST_F(Failure, OfDetection) {
  options_.source.path = scratch_ / "nowhere";
  expect_failure(Kind::input, "nowhere: does not exist");
}

TEST_F(Failure, OfAnIndex) {
  if (comm_.rank() == 0) fs::resize_file(source_file(), 1000);
  mpi::barrier(comm_);
  expect_failure(Kind::input, "mp_rank_01_001");
}

TEST_F(Failure, OfADescription) {
  options_.target.to = "megatron";
  options_.target.tp = 3;
  expect_failure(Kind::input, "does not divide by 3 ranks");
}

TEST_F(Failure, OfAnExistingTarget) {
  left_ = "source target ";
  if (comm_.rank() == 0) {
    fs::create_directory(target());
    std::ofstream(target() + "/mine") << "precious";
  }
  mpi::barrier(comm_);
  expect_failure(Kind::usage, "--overwrite");
  EXPECT_TRUE(fs::exists(target() + "/mine"));
}

TEST_F(Failure, OfATargetInTheSource) {
  options_.target.path = source() + "/release/target";
  expect_failure(Kind::usage, "lie in one another");
}

TEST_F(Failure, OfCreation) {
  left_ = "blocked source ";
  options_.target.path = scratch_ / "blocked/target";
  after("describe", [&] { std::ofstream(scratch_ / "blocked") << "no folder"; });
  expect_failure(Kind::io, "blocked: ");
}

TEST_F(Failure, OfAReadInTheRounds) {
  after("create", [&] { fs::resize_file(source_file(), 3000); });
  expect_failure(Kind::io, "the file ends after");
}

TEST_F(Failure, OfAWriteInTheRounds) {
  after("create", [&] { fs::remove(staged("model.safetensors")); });
  expect_failure(Kind::io, "model.safetensors: open");
}

TEST_F(Failure, OfUnequalReplicas) {
  if (comm_.rank() == 0) {  // a norm's value lies in the files of both tensor ranks
    std::fstream file(source_file(), std::ios::in | std::ios::out | std::ios::binary);
    std::string bytes(fs::file_size(source_file()), '\0');
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    std::ifstream twin(source() + "/release/mp_rank_00_001/model_optim_rng.pt", std::ios::binary);
    std::string other(bytes.size(), '\0');
    twin.read(other.data(), static_cast<std::streamsize>(other.size()));
    std::size_t same = bytes.find("data/0");  // the first storage: of the first layer's norm
    same = bytes.find_first_not_of('Z', same + 64) + 20;
    file.seekp(static_cast<std::streamoff>(same));
    file.put(static_cast<char>(bytes[same] ^ 1));
  }
  mpi::barrier(comm_);
  expect_failure(Kind::input, "which should be the same numbers");
}

TEST_F(Failure, OfSealing) {
  options_.target.to = "hf-bin";
  after("replicas", [&] { fs::remove(staged("pytorch_model.bin")); });
  kept_ = true;
  // Files that are open stay whole; who opens one to seal or to verify finds nothing.
  expect_failure(Kind::io, "pytorch_model.bin: open");
}

TEST_F(Failure, OfVerification) {
  after("seal", [&] {
    std::fstream file(staged("model.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-9, std::ios::end);
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(-9, std::ios::end);
    file.put(byte);
  });
  expect_failure(Kind::verification, "model.safetensors");
}

TEST_F(Failure, OfPublication) {
  left_ = "source target ";
  after("verify", [&] {
    fs::create_directory(target());
    std::ofstream(target() + "/theirs") << "late";
  });
  kept_ = true;
  expect_failure(Kind::usage, "has come into being meanwhile");
}

TEST_F(Failure, OfAComparisonOrAnInspection) {
  if (comm_.rank() == 0) fs::resize_file(source_file(), 1000);
  mpi::barrier(comm_);
  expect_failure(Kind::input, "mp_rank_01_001",
                 [&] { mpi::compare(comm_, options_.source, options_.source, std::nullopt); });
  const mpi::InspectReport report = mpi::inspect(comm_, options_.source, false);
  EXPECT_FALSE(report.source);
  EXPECT_NE(report.failure.find("mp_rank_01_001"), std::string::npos) << report.failure;
}

TEST_F(Failure, SlowOperationsAreNamed) {
  options_.patience = std::chrono::seconds(0);
  std::string said;
  options_.stalled = [&](const std::string& text) { said += text + "\n"; };
  mpi::convert(comm_, options_);
  const std::string rank = "rank " + std::to_string(comm_.rank()) + " on ";
  for (const char* operation : {": reading ", ": writing "}) {
    EXPECT_NE(said.find(operation), std::string::npos) << said;
  }
  EXPECT_EQ(said.find(rank), 0u) << said;
  EXPECT_NE(said.find("model_optim_rng.pt for more than 0 s"), std::string::npos) << said;
  EXPECT_NE(said.find("model.safetensors for more than 0 s"), std::string::npos) << said;
}

}  // namespace
}  // namespace reshard
