#include "formats/file_sums.hpp"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <random>

namespace reshard::formats {
namespace {

using Bytes = std::vector<std::byte>;

std::uint32_t crc_by_zlib(const Bytes& bytes) {
  return static_cast<std::uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size())));
}

/// A file of random bytes with tensors at random places, some empty, some side by side, some in
/// several parts of which later ones may come first.
struct RandomFile {
  explicit RandomFile(std::mt19937& random) {
    std::uint64_t at = random() % 3 == 0 ? 0 : random() % 50;
    std::vector<ByteRange> ranges;
    for (std::uint64_t left = random() % 9; left > 0; --left) {
      const std::uint64_t size = random() % 4 == 0 ? 0 : random() % 3000;
      ranges.push_back({at, at + size});
      at += size + (random() % 3 == 0 ? 0 : random() % 70);
    }
    std::shuffle(ranges.begin(), ranges.end(), random);
    for (std::span<const ByteRange> left = ranges; !left.empty();) {
      const std::size_t count = 1 + random() % std::min<std::size_t>(left.size(), 3);
      tensors.emplace_back(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(count));
      extents.add(tensors.back());
      left = left.subspan(count);
    }
    extents.sort();
    extents.bytes = at + random() % 40;
    for (std::uint64_t i = 0; i < extents.bytes; ++i) {
      bytes.push_back(static_cast<std::byte>(random()));
    }
  }
  FileExtents extents;
  std::vector<std::vector<ByteRange>> tensors;
  Bytes bytes;
};

TEST(FileSums, AddUpOverPartsInAnyOrder) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::vector<RandomFile> files;
    std::vector<FileExtents> extents;
    for (int f = 0; f < 3; ++f) {
      files.emplace_back(random);
      extents.push_back(files.back().extents);
    }
    const FileSums sums(extents);
    struct Part {
      std::size_t file, first, size;
    };
    std::vector<Part> parts;
    for (std::size_t f = 0; f < files.size(); ++f) {
      for (std::size_t at = 0; at < files[f].bytes.size();) {
        const std::size_t size =
            std::min<std::size_t>(1 + random() % 900, files[f].bytes.size() - at);
        parts.push_back({f, at, size});
        at += size;
      }
    }
    std::shuffle(parts.begin(), parts.end(), random);
    ByteSums all = sums.none(), some = sums.none();
    for (const Part& part : parts) {
      sums.add(part.file, part.first,
               std::span(files[part.file].bytes).subspan(part.first, part.size),
               random() % 2 == 0 ? all : some);
    }
    all += some;
    std::size_t number = 0;
    for (std::size_t f = 0; f < files.size(); ++f) {
      Bytes others;
      std::uint64_t end = 0;
      const auto add_others = [&](std::uint64_t first, std::uint64_t last) {
        others.insert(others.end(), files[f].bytes.begin() + static_cast<std::ptrdiff_t>(first),
                      files[f].bytes.begin() + static_cast<std::ptrdiff_t>(last));
      };
      EXPECT_EQ(sums.first_tensor(f), number);
      for (const std::vector<ByteRange>& ranges : files[f].tensors) {
        Bytes tensor;
        for (const ByteRange& range : ranges) {
          const auto part = std::span(files[f].bytes).subspan(range.first, range.size());
          tensor.insert(tensor.end(), part.begin(), part.end());
        }
        EXPECT_EQ(all.tensors[number++], digest_run(tensor, 1, 0));
      }
      for (const FileExtents::Part& part : extents[f].parts) {
        add_others(end, part.range.first);
        end = part.range.last;
      }
      add_others(end, files[f].bytes.size());
      EXPECT_EQ(all.others[f], crc_by_zlib(others));
      EXPECT_EQ(sums.other_bytes(f), others.size());
    }
  }
}

}  // namespace
}  // namespace reshard::formats
