#include "formats/journal.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "core/json.hpp"
#include "formats/container/crc32.hpp"
#include "formats/lock.hpp"

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;

/// A folder of this test, and a target of one file of 10 tiles with 3 tensors.
class JournalTest : public testing::Test {
 protected:
  JournalTest() {
    folder_ = (fs::temp_directory_path() / ("journal-" + std::to_string(::getpid()))).string();
    fs::create_directory(folder_);
    geometry_.tile_bytes = std::uint64_t{1} << 20;
    geometry_.targets.push_back({"file", 10 << 20, {}});
    geometry_.tensors.resize(3);
    geometry_.pieces.resize(2);
    geometry_.placements = 4;
  }
  ~JournalTest() override { fs::remove_all(folder_); }

  /// What a rank moved whose every number is made from one.
  [[nodiscard]] Moved moved(std::uint64_t tile) const {
    Moved m(geometry_);
    m.tiles = {tile};
    m.read[1] = {tile + 1, 2};
    m.arrived[3] = {3, tile + 1};
    m.crcs[2] = 1U << tile;
    return m;
  }
  [[nodiscard]] std::vector<std::uint64_t> tiles() const {
    return read_journal(folder_, geometry_).moved.tiles;
  }

  std::string folder_;
  Geometry geometry_;
};

TEST_F(JournalTest, RunsAndRanksAddUp) {
  for (int rank = 0; rank < 2; ++rank) {
    JournalWriter writer(folder_, 0, rank, 2);
    writer.append(moved(static_cast<std::uint64_t>(rank)));
    writer.append(moved(static_cast<std::uint64_t>(rank) + 4));
  }
  JournalWriter(folder_, 1, 0, 1).append(moved(7));
  const Journal journal = read_journal(folder_, geometry_);
  EXPECT_EQ(journal.runs, 2U);
  EXPECT_EQ(journal.moved.tiles, (std::vector<std::uint64_t>{0, 1, 4, 5, 7}));
  EXPECT_EQ(journal.moved.read[1], (Digest{1 + 2 + 5 + 6 + 8, 10}));
  EXPECT_EQ(journal.moved.arrived[3], (Digest{15, 22}));
  EXPECT_EQ(journal.moved.crcs[2], 0b10110011U);
  EXPECT_EQ(journal.moved.read[0], Digest{});
}

TEST_F(JournalTest, OnlyWhatAllRanksOfARunHaveCounts) {
  JournalWriter(folder_, 0, 0, 3).append(moved(0));  // of three ranks one wrote
  JournalWriter writer(folder_, 1, 0, 2);
  writer.append(moved(1));
  writer.append(moved(2));
  JournalWriter(folder_, 1, 1, 2).append(moved(3));
  EXPECT_EQ(tiles(), (std::vector<std::uint64_t>{1, 3}));
}

TEST_F(JournalTest, EveryTornTailIsAsIfTheRecordWereNotThere) {
  const std::string path = folder_ + "/0-0-1";
  JournalWriter writer(folder_, 0, 0, 1);
  writer.append(moved(1));
  const std::uint64_t first = fs::file_size(path);
  writer.append(moved(2));
  for (std::uint64_t size = fs::file_size(path) - 1;; --size) {
    fs::resize_file(path, size);
    ASSERT_EQ(tiles(), size < first ? std::vector<std::uint64_t>{} : std::vector<std::uint64_t>{1})
        << size;
    if (size == 0) break;
  }
}

TEST_F(JournalTest, EveryFlippedByteEndsTheFile) {
  const std::string path = folder_ + "/0-0-1";
  JournalWriter(folder_, 0, 0, 1).append(moved(1));
  for (std::uint64_t at = 0; at < fs::file_size(path); ++at) {
    const auto flip = [&] {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(static_cast<std::streamoff>(at));
      const auto byte = static_cast<char>(file.get() ^ 0x41);
      file.seekp(static_cast<std::streamoff>(at));
      file.put(byte);
    };
    flip();
    EXPECT_EQ(tiles(), std::vector<std::uint64_t>{}) << at;
    flip();
  }
  EXPECT_EQ(tiles(), std::vector<std::uint64_t>{1});
}

TEST_F(JournalTest, NumbersBeyondTheGeometryAreRefused) {
  JournalWriter(folder_, 0, 0, 1).append(moved(10));
  EXPECT_THROW(tiles(), Error);
}

TEST_F(JournalTest, RecordsOfAStrangerAreRefused) {
  const auto refused = [&](const std::string& payload) {
    const std::uint64_t size = payload.size();
    const std::uint32_t crc = crc32_of(std::as_bytes(std::span(payload)));
    std::ofstream file(folder_ + "/0-0-1", std::ios::binary);
    file.write(reinterpret_cast<const char*>(&size), sizeof size);
    file.write(reinterpret_cast<const char*>(&crc), sizeof crc);
    file << payload;
    file.close();
    EXPECT_THROW(tiles(), Error) << payload.substr(0, 40);
  };
  const auto record = [](const char* text) {
    const std::vector<std::uint8_t> bytes = Json::to_cbor(Json::parse(text));
    return std::string(bytes.begin(), bytes.end());
  };
  refused("");
  refused("\x80");
  refused(std::string(1'000'000, '\x81'));  // lists in lists
  refused("\x9b\x7f\xff\xff\xff\xff\xff\xff\xff");
  refused(record(R"({"tiles":[1]})"));
  for (const char* tiles : {"[-1]", "[1.5]", "[\"1\"]", "[[1]]", "[10]", "[1,1]", "[null]"}) {
    refused(record(
        (std::string(R"({"read":[],"arrived":[],"crcs":[],"tiles":)") + tiles + "}").c_str()));
  }
  for (const char* read :
       {"[2,1,1]", "[0,1]", "[0,-1,1]", "[0,1,1.5]", "[18446744073709551615,1,1]"}) {
    refused(record(
        (std::string(R"({"tiles":[],"arrived":[],"crcs":[],"read":)") + read + "}").c_str()));
  }
  refused(record(R"({"tiles":[],"arrived":[],"read":[],"crcs":[0,4294967296]})"));
}

TEST_F(JournalTest, NamesBeyondReasonAreNoFilesOfIts) {
  for (const char* name : {"18446744073709551615-0-1", "99999999999999999999-0-1", "0-0-4294967297",
                           "0--1-1", "-1-0-1", "0-0-", "0-0-1-", " 0-0-1", "0x1-0-1"}) {
    std::ofstream(folder_ + "/" + name) << "x";
  }
  EXPECT_EQ(read_journal(folder_, geometry_).runs, 0U);
}

TEST_F(JournalTest, OtherFilesAreNotItsOwn) {
  std::ofstream(folder_ + "/identity") << "x";
  std::ofstream(folder_ + "/0-0-1.bak") << "x";
  EXPECT_EQ(read_journal(folder_, geometry_).runs, 0U);
}

TEST_F(JournalTest, ALockIsHeldOnceAndSaysByWhom) {
  const std::string path = folder_ + "/lock";
  {
    const Lock lock(path);
    EXPECT_EQ(lock.stale(), "");
    try {
      const Lock other(path);
      FAIL() << "two have it";
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(error.kind(), Kind::usage);
      EXPECT_NE(text.find("process " + std::to_string(::getpid())), std::string::npos) << text;
    }
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST_F(JournalTest, ALockIsAFileAndNotFollowed) {
  std::ofstream(folder_ + "/mine") << "mine";
  fs::create_symlink("mine", folder_ + "/link");
  EXPECT_THROW(Lock(folder_ + "/link"), Error);
  EXPECT_EQ(fs::file_size(folder_ + "/mine"), 4U);
  ASSERT_EQ(::mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  EXPECT_THROW(Lock(folder_ + "/fifo"), Error);
  EXPECT_TRUE(fs::exists(folder_ + "/fifo"));
}

TEST_F(JournalTest, ALockOfAKilledProcessHereIsTakenOver) {
  const std::string path = folder_ + "/lock";
  const pid_t child = ::fork();
  if (child == 0) {
    const Lock lock(path);
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  ASSERT_TRUE(fs::exists(path));
  const Lock lock(path);
  EXPECT_NE(lock.stale().find("process " + std::to_string(child)), std::string::npos);
}

TEST_F(JournalTest, ALockOfAnotherMachineIsExplainedUnlessItIsOfOurJob) {
  const std::string path = folder_ + "/lock";
  std::ofstream(path) << "host elsewhere process 7 job 42";
  ::unsetenv("SLURM_JOB_ID");
  try {
    const Lock lock(path);
    FAIL() << "it was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("remove this file"), std::string::npos);
  }
  EXPECT_TRUE(fs::exists(path));
  ::setenv("SLURM_JOB_ID", "42", 1);
  EXPECT_EQ(Lock(path).stale(), "host elsewhere process 7 job 42");
}

}  // namespace
}  // namespace reshard::formats
