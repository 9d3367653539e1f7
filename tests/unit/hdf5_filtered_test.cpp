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
      {{"rows", Dtype::f32, {700, 900}}, {"a"}},  {{"cube", Dtype::bf16, {3, 5, 7}}, {"a", "b"}},
      {{"wide", Dtype::i8, {2, 3000000}}, {"c"}}, {{"line", Dtype::c128, {333}}, {}},
      {{"scalar", Dtype::f64, {}}, {"d"}},        {{"none", Dtype::f32, {0, 4}}, {"e"}}};
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
  /// Writes all tensors in pieces that do not heed rows or chunks.
  void write() {
    create_filtered_hdf5(path_, spec_, GetParam());
    Hdf5Tensors tensors(path_, spec_, true);
    std::mt19937 random(11);
    for (std::uint32_t t = 0; t < spec_.tensors.size(); ++t) {
      const std::vector<std::byte> data = bytes_of(spec_.tensors[t]);
      const std::uint64_t width = bytes(spec_.tensors[t].dtype);
      for (std::uint64_t at = 0; at < data.size() / width;) {
        const std::uint64_t count = std::min<std::uint64_t>(
            1 + random() % (data.size() / width / 3 + 1), data.size() / width - at);
        tensors.write(t, at, std::span(data).subspan(at * width, count * width));
        at += count;
        tensors.write(t, 0, {});  // as a rank without a part does
      }
    }
    tensors.close();
  }

  test::Folder folder_;
  const std::string path_ = folder_ / "m.h5";
  const Hdf5Spec spec_ = spec_of_all();
};

TEST_P(Hdf5Filtered, ComesBackInEachWay) {
  write();
  const FileIndex index = read_hdf5(path_, "m.h5");
  const File file = File::open_read(path_);
  Hdf5Tensors tensors(path_, spec_, false);
  ChunkReader reader;
  for (std::uint32_t t = 0; t < spec_.tensors.size(); ++t) {
    const Hdf5Spec::Tensor& tensor = spec_.tensors[t];
    const std::vector<std::byte> wanted = bytes_of(tensor);
    std::vector<std::byte> seen(wanted.size());
    tensors.read(t, 0, seen);
    EXPECT_EQ(seen, wanted) << tensor.name;
    const auto entry = std::find_if(index.tensors.begin(), index.tensors.end(),
                                    [&](const TensorEntry& e) { return e.name == tensor.name; });
    ASSERT_NE(entry, index.tensors.end());
    if (tensor.shape.size() < 1 || wanted.empty()) {
      EXPECT_EQ(entry->chunks, nullptr);
      continue;
    }
    ASSERT_NE(entry->chunks, nullptr) << tensor.name;
    EXPECT_FALSE(entry->chunks->filters.empty());
    std::fill(seen.begin(), seen.end(), std::byte{0});
    reader.read({t, *entry->chunks, path_,
                 [&](std::uint64_t at, std::span<std::byte> to) { file.read_at(at, to); }},
                0, seen);
    EXPECT_EQ(seen, wanted) << tensor.name;
  }
}

TEST_P(Hdf5Filtered, IsHeldAgainstItsDescription) {
  write();
  check_filtered_hdf5(path_, spec_);
  const auto refused = [&](const Hdf5Spec& other) {
    try {
      check_filtered_hdf5(path_, other);
    } catch (const Error& error) {
      return error.kind() == Kind::verification;
    }
    return false;
  };
  Hdf5Spec other = spec_;
  other.contents[0].bytes = "[]";
  EXPECT_TRUE(refused(other));
  other = spec_;
  other.contents.push_back({"more", "", {}});
  EXPECT_TRUE(refused(other));
  other = spec_;
  other.tensors[1].dtype = Dtype::f16;
  EXPECT_TRUE(refused(other));
  other = spec_;
  other.tensors.pop_back();
  EXPECT_TRUE(refused(other));
  other = spec_;
  other.attributes["names"] = "canonical";
  EXPECT_TRUE(refused(other));
}

TEST_P(Hdf5Filtered, GetsItsDigests) {
  write();
  put_hdf5_digests(path_, spec_, {{{1, 2}}, {{3, 4}, {5, 6}}, {{7, 8}}, {}, {{9, 10}}, {}});
  const hid_t file = test::done(H5Fopen(path_.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT));
  const hid_t attribute =
      test::done(H5Aopen_by_name(file, "/tensors/cube", "digests", H5P_DEFAULT, H5P_DEFAULT));
  const hid_t type = H5Aget_type(attribute);
  std::string texts(64, '\0');
  test::done(H5Aread(attribute, type, texts.data()));
  EXPECT_EQ(texts, Digest({3, 4}).hex() + Digest({5, 6}).hex());
  H5Tclose(type);
  H5Aclose(attribute);
  H5Fclose(file);
  check_filtered_hdf5(path_, spec_);
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
      EXPECT_NE(std::string(error.what()).find("only deflate, fletcher32"), std::string::npos);
    }
  }
}

TEST(Hdf5FilteredLayout, HasTheTensorsAlone) {
  const FileLayout layout = hdf5_filtered_layout(spec_of_all());
  EXPECT_TRUE(layout.literals.empty() && layout.copies.empty());
  ASSERT_EQ(layout.data.size(), 5U);
  std::uint64_t end = 0;
  for (const FileLayout::Data& data : layout.data) {
    EXPECT_EQ(data.offset % 16, 0U);
    EXPECT_GE(data.offset, end);
    EXPECT_LT(data.offset, end + 16);
    end = data.offset + data.bytes;
  }
  EXPECT_EQ(layout.bytes, (end + 15) / 16 * 16);
}

}  // namespace
}  // namespace reshard::formats
