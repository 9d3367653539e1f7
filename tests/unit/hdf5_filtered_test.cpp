#include "formats/container/hdf5_filtered.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "core/error.hpp"
#include "formats/container/hdf5_chunks.hpp"
#include "formats/container/hdf5_file.hpp"
#include "formats/file.hpp"
#include "support/hdf5_maker.hpp"

namespace reshard::formats {
namespace {

Hdf5Spec spec_of_all() {
  Hdf5Spec spec;
  spec.attributes = {{"names", "hf"}};
  spec.tensors = {
      {{"rows", Dtype::f32, {700, 90}}, {"a"}},  {{"cube", Dtype::bf16, {3, 50, 70}}, {"a", "b"}},
      {{"wide", Dtype::i8, {2, 300000}}, {"c"}}, {{"line", Dtype::c128, {3333}}, {}},
      {{"scalar", Dtype::f64, {}}, {"d"}},       {{"none", Dtype::f32, {0, 4}}, {"e"}},
      {{"one", Dtype::u8, {1, 1, 1}}, {"f"}}};
  spec.contents = {{"config.json", "{}", {}}, {"empty", "", {}}};
  return spec;
}

std::vector<std::byte> bytes_of(const Hdf5Spec::Tensor& tensor) {
  std::vector<std::byte> data(elements(tensor.shape) * bytes(tensor.dtype));
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 7 + i / 999);
  return data;
}

class Hdf5Filtered : public testing::TestWithParam<const char*> {
 protected:
  /// Writes all tensors tile by tile.
  void write() {
    create_filtered_hdf5(path_, spec_, packing_);
    const FileLayout layout = hdf5_filtered_layout(spec_, packing_);
    Hdf5Tensors tensors(path_, spec_, packing_);
    for (std::size_t i = 1; i < layout.borders.size(); ++i) {
      for (const FileLayout::Data& data : layout.data) {
        const std::uint64_t first = std::max(layout.borders[i - 1], data.offset);
        const std::uint64_t last = std::min(layout.borders[i], data.offset + data.bytes);
        if (first >= last) continue;
        const Hdf5Spec::Tensor& tensor = spec_.tensors[data.tensor];
        const std::vector<std::byte> all = bytes_of(tensor);
        const std::uint64_t width = bytes(tensor.dtype);
        tensors.select(data.tensor, (first - data.offset) / width, (last - first) / width);
        tensors.write(std::span(all).subspan(first - data.offset, last - first));
        tensors.select(data.tensor, 0, 0);  // as a rank without a part does
        tensors.write({});
      }
    }
    tensors.close();
  }

  test::Folder folder_;
  const std::string path_ = folder_ / "m.h5";
  const Hdf5Spec spec_ = spec_of_all();
  const Hdf5Packing packing_{GetParam(), 10000};
};

TEST_P(Hdf5Filtered, ComesBack) {
  write();
  const FileIndex index = read_hdf5(path_, "m.h5");
  const File file = File::open_read(path_);
  const hid_t opened = test::done(H5Fopen(path_.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT));
  ChunkReader reader;
  for (std::uint32_t t = 0; t < spec_.tensors.size(); ++t) {
    const Hdf5Spec::Tensor& tensor = spec_.tensors[t];
    const std::vector<std::byte> wanted = bytes_of(tensor);
    const auto entry = std::find_if(index.tensors.begin(), index.tensors.end(),
                                    [&](const TensorEntry& e) { return e.name == tensor.name; });
    ASSERT_NE(entry, index.tensors.end());
    if (!wanted.empty()) {  // by the library
      const hid_t dataset =
          test::done(H5Dopen2(opened, ("/tensors/" + tensor.name).c_str(), H5P_DEFAULT));
      const hid_t type = H5Dget_type(dataset);
      std::vector<std::byte> seen(wanted.size());
      test::done(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, seen.data()));
      EXPECT_EQ(seen, wanted) << tensor.name;
      H5Tclose(type);
      H5Dclose(dataset);
    }
    if (tensor.shape.empty() || wanted.empty()) {
      EXPECT_EQ(entry->chunks, nullptr);
      continue;
    }
    ASSERT_NE(entry->chunks, nullptr) << tensor.name;
    EXPECT_FALSE(entry->chunks->filters.empty());
    EXPECT_EQ(entry->chunks->extent, hdf5_chunk_of(tensor, packing_)) << tensor.name;
    std::vector<std::byte> seen(wanted.size());
    reader.read({t, *entry->chunks, path_,
                 [&](std::uint64_t at, std::span<std::byte> to) { file.read_at(at, to); }},
                0, seen);
    EXPECT_EQ(seen, wanted) << tensor.name;
  }
  H5Fclose(opened);
}

TEST_P(Hdf5Filtered, IsHeldAgainstItsDescription) {
  write();
  check_filtered_hdf5(path_, spec_, packing_, nullptr);
  const auto refusal = [&](const Hdf5Spec& other, const Hdf5Packing& packing) -> std::string {
    try {
      check_filtered_hdf5(path_, other, packing, nullptr);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Kind::verification) << error.what();
      return error.what();
    }
    return "";
  };
  const auto changed = [&](const auto& change) {
    Hdf5Spec other = spec_;
    change(other);
    return refusal(other, packing_);
  };
  const std::pair<std::string, std::string> cases[] = {
      {changed([](Hdf5Spec& s) { s.contents[0].bytes = "[]"; }), "config.json: its content"},
      {changed([](Hdf5Spec& s) { s.contents[0].bytes = "[] "; }), "config.json: its shape"},
      {changed([](Hdf5Spec& s) {
         s.contents.push_back({"more", "", {}});
       }),
       "/metadata"},
      {changed([](Hdf5Spec& s) { s.tensors[1].dtype = Dtype::f16; }), "cube: its type"},
      {changed([](Hdf5Spec& s) {
         s.tensors[0].shape = {90, 700};
       }),
       "rows: its shape"},
      {changed([](Hdf5Spec& s) { s.tensors.pop_back(); }), "/tensors"},
      {changed([](Hdf5Spec& s) { s.tensors[0].name = "columns"; }), "columns: H5Dopen2"},
      {changed([](Hdf5Spec& s) { s.tensors[1].roles[1] = "c"; }), "cube: attribute roles"},
      {changed([](Hdf5Spec& s) { s.attributes["names"] = "canonical"; }), "attribute names"},
      {refusal(spec_, {packing_.filter, 5000}), "its chunks"},
      {refusal(spec_, {packing_.filter == "deflate" ? "fletcher32" : "deflate", 10000}),
       "its filter"}};
  for (const auto& [text, part] : cases) {
    EXPECT_NE(text.find(part), std::string::npos) << text << " without " << part;
  }
}

TEST_P(Hdf5Filtered, GetsItsDigests) {
  write();
  Hdf5Digests digests = {{{1, 2}}, {{3, 4}, {5, 6}}, {{7, 8}}, {}, {{9, 10}}, {}, {{1, 1}}};
  put_hdf5_digests(path_, spec_, digests);
  check_filtered_hdf5(path_, spec_, packing_, &digests);
  digests[1][1] = {5, 7};
  EXPECT_THROW(check_filtered_hdf5(path_, spec_, packing_, &digests), Error);
  EXPECT_THROW(check_filtered_hdf5(path_, spec_, packing_, nullptr), Error);
}

INSTANTIATE_TEST_SUITE_P(Filters, Hdf5Filtered, testing::Values("deflate", "fletcher32"));

TEST(Hdf5Filters, AreThoseOfTheLibrary) {
  check_hdf5_filter("deflate");
  check_hdf5_filter("fletcher32");
  for (const char* other : {"zstd", "szip", ""}) {
    try {
      check_hdf5_filter(other);
      ADD_FAILURE() << other;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Kind::usage);
      EXPECT_NE(std::string(error.what()).find("only: deflate, fletcher32"), std::string::npos);
    }
  }
}

/// Shapes of up to four dimensions, of any size and none.
Hdf5Spec random_spec(std::mt19937& random) {
  Hdf5Spec spec;
  for (std::size_t t = 0; t < 1 + random() % 5; ++t) {
    Shape shape;
    for (std::size_t d = random() % 5; d > 0; --d) {
      shape.push_back(random() % 20 == 0 ? 0 : 1 + random() % 30);
    }
    constexpr Dtype dtypes[] = {Dtype::i8, Dtype::bf16, Dtype::f32, Dtype::c128};
    spec.tensors.push_back({{"t" + std::to_string(t), dtypes[random() % 4], shape}, {}});
  }
  return spec;
}

TEST(Hdf5FilteredLayout, CutsTilesOfWholeChunks) {
  std::mt19937 random(5);
  for (int round = 0; round < 500; ++round) {
    const Hdf5Spec spec = random_spec(random);
    const bool packs = random() % 2 == 0;
    const Hdf5Packing packing{packs ? "deflate" : "fletcher32", 16 + random() % 3000};
    const std::uint64_t most = (packs ? 1 : 4) * packing.chunk_bytes;
    const FileLayout layout = hdf5_filtered_layout(spec, packing);
    EXPECT_TRUE(layout.literals.empty() && layout.copies.empty());
    if (layout.bytes == 0) {
      EXPECT_TRUE(layout.borders.empty());
      continue;
    }
    EXPECT_EQ(layout.borders.front(), 0U);
    EXPECT_EQ(layout.borders.back(), layout.bytes);
    for (std::size_t i = 1; i < layout.borders.size(); ++i) {
      EXPECT_LT(layout.borders[i - 1], layout.borders[i]);
      EXPECT_LE(layout.borders[i] - layout.borders[i - 1], most + 15);
    }
    std::uint64_t end = 0;
    for (const FileLayout::Data& data : layout.data) {
      EXPECT_EQ(data.offset, (end + 15) / 16 * 16);
      end = data.offset + data.bytes;
      const Hdf5Spec::Tensor& tensor = spec.tensors[data.tensor];
      const std::uint64_t width = bytes(tensor.dtype);
      const Shape chunk = hdf5_chunk_of(tensor, packing);
      if (tensor.shape.empty()) continue;
      EXPECT_LE(elements(chunk) * width, packing.chunk_bytes);
      std::uint64_t at = 0;  // chunks follow one another, each in one tile
      for (std::uint64_t n = 0; at < elements(tensor.shape); ++n) {
        const ChunkElements held = elements_of_chunk(tensor.shape, chunk, n);
        EXPECT_EQ(held.first, at);
        EXPECT_EQ(chunk_holding(tensor.shape, chunk, at), n);
        EXPECT_EQ(chunk_holding(tensor.shape, chunk, at + held.count - 1), n);
        const std::uint64_t first = data.offset + at * width;
        const auto border = std::upper_bound(layout.borders.begin(), layout.borders.end(), first);
        EXPECT_LE(first + held.count * width, *border);
        at += held.count;
      }
      EXPECT_EQ(at, elements(tensor.shape));
    }
    EXPECT_EQ(layout.bytes, end);
  }
}

TEST(Hdf5FilteredLayout, RefusesTooManyChunks) {
  Hdf5Spec spec;
  spec.tensors = {{{"t", Dtype::i8, {std::uint64_t{1} << 40}}, {}}};
  EXPECT_THROW(static_cast<void>(hdf5_filtered_layout(spec, {"deflate", 4096})), Error);
  EXPECT_EQ(hdf5_filtered_layout(spec, {"deflate", 1 << 20}).borders.size(), (1U << 20) + 1);
  EXPECT_EQ(hdf5_filtered_layout(spec, {"fletcher32", 1 << 20}).borders.size(), (1U << 18) + 1);
}

}  // namespace
}  // namespace reshard::formats
