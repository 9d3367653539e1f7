#include "formats/source_reader.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "support/folder.hpp"

namespace reshard::formats {
namespace {

/// A folder of two files of 4-byte words, each word made of its file's number and its place.
class SourceFolder : public testing::Test {
 protected:
  static constexpr std::uint64_t all = 20000;

  SourceFolder() {
    for (std::uint32_t file = 0; file < 2; ++file) {
      files_.push_back({std::to_string(file), all * 4, {}, {}});
      std::ofstream out(folder_ / files_.back().path, std::ios::binary);
      for (std::uint32_t n = 0; n < all; ++n) {
        const std::uint32_t word = word_at(file, n);
        out.write(reinterpret_cast<const char*>(&word), sizeof word);
      }
    }
  }

  static std::uint32_t word_at(std::uint32_t file, std::uint64_t n) {
    return file << 24 | static_cast<std::uint32_t>(n);
  }
  /// The words [first, first + count) into `to`.
  static ReadRequest request(std::uint32_t file, std::uint64_t first, std::uint64_t count,
                             std::uint32_t* to, std::uint64_t others) {
    return {file, first * 4, {count}, {1}, {1}, 4, reinterpret_cast<std::byte*>(to), others};
  }
  SourceReader reader(std::uint64_t keeps) { return {folder_.path().string(), files_, 1, keeps}; }

  test::Folder folder_;
  std::vector<SourceFile> files_;
};

TEST_F(SourceFolder, ReadsWhatTwoRoundsAskForOnce) {
  for (const std::uint64_t keeps : {0U, 1U << 20}) {
    SourceReader source = reader(keeps);
    std::vector<std::uint32_t> one(3000), two(3000);
    source.read(std::vector{request(1, 1000, 3000, one.data(), 1)});
    source.read(std::vector{request(1, 500, 3000, two.data(), 1)});
    for (std::uint64_t n = 0; n < one.size(); ++n) {
      ASSERT_EQ(one[n], word_at(1, 1000 + n));
      ASSERT_EQ(two[n], word_at(1, 500 + n));
    }
    EXPECT_EQ(source.bytes_read(), keeps == 0 ? 6000 * 4 : 3500 * 4);
  }
}

TEST_F(SourceFolder, GivesUpTheOldestBeyondItsBound) {
  SourceReader source = reader(3000 * 4);
  std::vector<std::uint32_t> memory(4000);
  source.read(std::vector{request(0, 0, 2000, memory.data(), 1)});
  source.read(
      std::vector{request(0, 2000, 2000, memory.data(), 1)});  // takes the first one's place
  source.read(std::vector{request(0, 2000, 2000, memory.data(), 1)});
  EXPECT_EQ(source.bytes_read(), 4000 * 4);
  source.read(std::vector{request(0, 0, 2000, memory.data(), 1)});
  EXPECT_EQ(source.bytes_read(), 6000 * 4);
  source.read(std::vector{request(0, 4000, 4000, memory.data(), 1)});  // larger than the bound
  source.read(std::vector{request(0, 0, 2000, memory.data(), 1)});
  EXPECT_EQ(source.bytes_read(), 10000 * 4);
}

TEST_F(SourceFolder, GivesUpWhatAllHaveAskedFor) {
  SourceReader source = reader(1 << 20);
  std::vector<std::uint32_t> memory(100);
  for (int time = 0; time < 3; ++time)
    source.read(std::vector{request(0, 0, 100, memory.data(), 2)});
  EXPECT_EQ(source.bytes_read(), 100 * 4);
  source.read(std::vector{request(0, 0, 100, memory.data(), 0)});
  EXPECT_EQ(source.bytes_read(), 200 * 4);
}

TEST_F(SourceFolder, GivesRandomBoxesTheirBytesAtAnyBound) {
  std::mt19937_64 random(7);
  for (const std::uint64_t keeps : {0U, 5000U, 60000U, 1U << 20}) {
    SourceReader source = reader(keeps);
    for (int round = 0; round < 60; ++round) {
      struct Box {
        std::uint32_t file;
        std::uint64_t first, rows, columns, stride;
        std::vector<std::uint32_t> memory;
      };
      std::vector<Box> boxes(1 + random() % 6);
      std::vector<ReadRequest> requests;
      for (Box& box : boxes) {
        const std::uint64_t rows = 1 + random() % 20, stride = 1 + random() % 400;
        const std::uint64_t columns = 1 + random() % stride;
        const std::uint64_t span = rows * stride;
        box = {static_cast<std::uint32_t>(random() % 2),
               random() % (all - span),
               rows,
               columns,
               stride,
               std::vector<std::uint32_t>(rows * columns)};
        requests.push_back({box.file,
                            box.first * 4,
                            {rows, columns},
                            {stride, 1},
                            {columns, 1},
                            4,
                            reinterpret_cast<std::byte*>(box.memory.data()),
                            random() % 3});
      }
      source.read(requests);
      for (const Box& box : boxes) {
        for (std::uint64_t n = 0; n < box.memory.size(); ++n) {
          const std::uint64_t place = box.first + n / box.columns * box.stride + n % box.columns;
          ASSERT_EQ(box.memory[n], word_at(box.file, place)) << "keeps " << keeps;
        }
      }
    }
  }
}

}  // namespace
}  // namespace reshard::formats
