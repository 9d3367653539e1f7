#include "formats/container/hdf5_chunks.hpp"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "core/error.hpp"
#include "formats/container/hdf5_file.hpp"
#include "formats/file.hpp"
#include "support/hdf5_maker.hpp"

namespace reshard::formats {
namespace {

using test::Dimensions;
using test::Hdf5Maker;

/// Sets filters on a dataset's list.
using Filters = void (*)(hid_t list);

void none(hid_t) {}
void deflate(hid_t list) {
  test::done(H5Pset_deflate(list, 6));
}
void fletcher32(hid_t list) {
  test::done(H5Pset_fletcher32(list));
}
void all(hid_t list) {
  test::done(H5Pset_shuffle(list));
  test::done(H5Pset_deflate(list, 1));
  test::done(H5Pset_fletcher32(list));
}
void checksum_first(hid_t list) {
  test::done(H5Pset_fletcher32(list));
  test::done(H5Pset_deflate(list, 9));
}

class Hdf5Chunks : public testing::Test {
 protected:
  /// A dataset of counted floats, in chunks; its entry.
  TensorEntry make(const Dimensions& shape, const Dimensions& chunk, Filters filters) {
    {
      const Hdf5Maker maker(path_);
      test::done(H5Pset_chunk(maker.list(), static_cast<int>(chunk.size()), chunk.data()));
      filters(maker.list());
      maker.counted("x", shape);
    }
    return read_hdf5(path_, "m.h5").tensors.at(0);
  }
  /// The floats [first, last) of the dataset.
  std::vector<float> read(ChunkReader& reader, const TensorEntry& entry, std::size_t first,
                          std::size_t last) const {
    const File file = File::open_read(path_);
    std::vector<float> values(last - first);
    reader.read({0, *entry.chunks, path_,
                 [&](std::uint64_t at, std::span<std::byte> to) { file.read_at(at, to); }},
                first * 4, std::as_writable_bytes(std::span(values)));
    return values;
  }

  test::Folder folder_;
  const std::string path_ = folder_ / "m.h5";
};

TEST_F(Hdf5Chunks, ReadsAnyRange) {
  struct Case {
    Dimensions shape, chunk;
  };
  const Case cases[] = {{{100}, {7}},        {{5, 6}, {5, 6}},        {{50, 60}, {7, 60}},
                        {{50, 60}, {7, 11}}, {{9, 8, 10}, {2, 3, 4}}, {{1, 33}, {1, 32}}};
  std::mt19937 random(7);
  for (const Case& each : cases) {
    for (const Filters filters : {none, deflate, fletcher32, all, checksum_first}) {
      const TensorEntry entry = make(each.shape, each.chunk, filters);
      const std::size_t size = elements(entry.shape);
      ChunkReader reader;
      for (int i = 0; i < 20; ++i) {
        const std::size_t first = i == 0 ? 0 : random() % size;
        const std::size_t last = i == 0 ? size : first + random() % (size - first + 1);
        const std::vector<float> values = read(reader, entry, first, last);
        for (std::size_t n = 0; n < values.size(); ++n) {
          ASSERT_EQ(values[n], Hdf5Maker::value_of(first + n));
        }
      }
    }
  }
}

TEST_F(Hdf5Chunks, ReadsPartsOfLargeChunksAndForgetsOldOnes) {
  const TensorEntry large = make({3000, 1000}, {3000, 1000}, none);
  ChunkReader reader;
  EXPECT_EQ(read(reader, large, 2'999'990, 3'000'000).back(), Hdf5Maker::value_of(2'999'999));
  // 40 chunks of 4 MB, of which 16 are kept.
  const TensorEntry many = make({40, 1'000'000}, {1, 1'000'000}, none);
  for (int turn = 0; turn < 2; ++turn) {
    for (std::size_t row = 0; row < 40; ++row) {
      const std::size_t first = row * 1'000'000;
      EXPECT_EQ(read(reader, many, first, first + 1).front(), Hdf5Maker::value_of(first));
    }
  }
}

TEST_F(Hdf5Chunks, HeedsTheFilterMask) {
  // The first chunk is stored as it is, the second deflated.
  {
    const Hdf5Maker maker(path_);
    const hsize_t chunk = 4, first = 0;
    test::done(H5Pset_chunk(maker.list(), 1, &chunk));
    deflate(maker.list());
    const hid_t dataset = maker.empty("x", H5T_IEEE_F32LE, {8});
    const float values[] = {0, 1, 2, 3, 4, 5, 6, 7};
    test::done(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values));
    test::done(H5Dwrite_chunk(dataset, H5P_DEFAULT, 1, &first, 16, values));
    H5Dclose(dataset);
  }
  const TensorEntry entry = read_hdf5(path_, "m.h5").tensors.at(0);
  EXPECT_EQ(entry.chunks->places[0].skipped, 1U);
  EXPECT_EQ(entry.chunks->places[0].bytes, 16U);
  ChunkReader reader;
  EXPECT_EQ(read(reader, entry, 0, 8), (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST_F(Hdf5Chunks, RefusesDamage) {
  const auto damaged = [&](Filters filters, std::size_t byte) {
    const TensorEntry entry = make({64}, {64}, filters);
    std::string bytes = test::content_of(path_);
    bytes[entry.chunks->places[0].offset + byte] ^= 0x10;
    write_text(path_, bytes);
    ChunkReader reader;
    try {
      read(reader, entry, 0, 64);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Kind::input);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(damaged(none, 5), "");
  EXPECT_EQ(damaged(fletcher32, 5),
            path_ + ": a chunk does not have the checksum that is stored with it");
  EXPECT_NE(damaged(deflate, 0).find("a chunk cannot be inflated"), std::string::npos);
  EXPECT_NE(damaged(all, 9).find("checksum"), std::string::npos);
}

TEST(UnpackChunk, BoundsWhatItMakes) {
  // A megabyte of zeros in a chunk of 16 bytes.
  const std::vector<Bytef> zeros(1 << 20, 0);
  std::vector<std::byte> packed(10000);
  uLongf size = packed.size();
  ASSERT_EQ(::compress(reinterpret_cast<Bytef*>(packed.data()), &size, zeros.data(), zeros.size()),
            Z_OK);
  packed.resize(size);
  Chunking chunks{{4}, {4}, 4, {Chunking::Filter::deflate}, {}};
  EXPECT_THROW(unpack_chunk(chunks, {0, size, 0}, packed), Error);
  chunks.filters = {Chunking::Filter::fletcher32};
  EXPECT_THROW(unpack_chunk(chunks, {0, 3, 0}, std::vector<std::byte>(3)), Error);
  chunks.filters = {};
  EXPECT_THROW(unpack_chunk(chunks, {0, 15, 0}, std::vector<std::byte>(15)), Error);
  EXPECT_EQ(unpack_chunk(chunks, {0, 16, 0}, std::vector<std::byte>(16)).size(), 16U);
}

}  // namespace
}  // namespace reshard::formats
