#include "formats/container/hdf5_layout.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <map>
#include <utility>

#include "core/error.hpp"
#include "formats/container/hdf5_file.hpp"
#include "formats/file.hpp"
#include "support/hdf5_maker.hpp"

namespace reshard::formats {
namespace {

constexpr Dtype all_dtypes[] = {
    Dtype::boolean, Dtype::u8,          Dtype::i8,          Dtype::f8_e5m2, Dtype::f8_e4m3,
    Dtype::f8_e8m0, Dtype::f8_e4m3fnuz, Dtype::f8_e5m2fnuz, Dtype::i16,     Dtype::u16,
    Dtype::f16,     Dtype::bf16,        Dtype::i32,         Dtype::u32,     Dtype::f32,
    Dtype::c64,     Dtype::f64,         Dtype::i64,         Dtype::u64,     Dtype::c128};

/// A tensor of every dtype, of few elements, of none, and of no dimension; large ones among them.
Hdf5Spec varied() {
  Hdf5Spec spec;
  spec.attributes = {{"names", "hf"}, {"training", "{\"iteration\": 7}"}};
  for (const Dtype dtype : all_dtypes) {
    const std::string type(name(dtype));
    spec.tensors.push_back({{type + ".few", dtype, {3}}, {"layers.0." + type}});
    spec.tensors.push_back({{type + ".many", dtype, {5, 1001}}, {"a", "layers.0.b"}});
    spec.tensors.push_back({{type + ".none", dtype, {2, 0, 3}}, {"c"}});
    spec.tensors.push_back({{type + ".scalar", dtype, {}}, {}});
  }
  spec.contents = {{"config.json", "{\"a\": 1}", {}}, {"empty", "", {}}};
  return spec;
}

/// Byte i of a tensor's data.
std::byte byte_of(std::uint32_t tensor, std::uint64_t i) {
  return static_cast<std::byte>(tensor * 41 + i * 7 + i / 256);
}

void put(const FileLayout::Literal& literal, std::string& bytes) {
  std::copy(literal.bytes.begin(), literal.bytes.end(),
            bytes.begin() + static_cast<std::ptrdiff_t>(literal.offset));
}

/// The file that a layout says, with data.
std::string file_of(const FileLayout& layout) {
  std::string bytes(layout.bytes, '\0');
  for (const FileLayout::Literal& literal : layout.literals) put(literal, bytes);
  for (const FileLayout::Data& data : layout.data) {
    for (std::uint64_t i = 0; i < data.bytes; ++i) {
      bytes[data.offset + i] = static_cast<char>(byte_of(data.tensor, i));
    }
  }
  return bytes;
}

std::string refusal(const Hdf5Spec& spec) {
  try {
    hdf5_layout(spec);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input);
    return error.what();
  }
  return "";
}

class Hdf5Layout : public testing::Test {
 protected:
  /// Writes a file and opens it.
  void open(const std::string& bytes) {
    write_text(folder_ / "m.h5", bytes);
    file_ = H5Fopen((folder_ / "m.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    ASSERT_GE(file_, 0);
  }
  /// What our reader, for which the library must not have the file open, says of it.
  FileIndex index() {
    H5Fclose(std::exchange(file_, H5I_INVALID_HID));
    return read_hdf5(folder_ / "m.h5", "m.h5");
  }
  void TearDown() override {
    if (file_ >= 0) H5Fclose(file_);
  }

  /// The raw bytes of a dataset as HDF5 reads them.
  std::string data_of(const std::string& path) const {
    const hid_t dataset = test::done(H5Dopen2(file_, path.c_str(), H5P_DEFAULT));
    const hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    std::string bytes(
        static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)) * H5Tget_size(type), '\0');
    test::done(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()));
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(dataset);
    return bytes;
  }
  /// A dataset's attribute of texts, one behind the other.
  std::string texts_of(const std::string& path, const char* name) const {
    const hid_t attribute =
        test::done(H5Aopen_by_name(file_, path.c_str(), name, H5P_DEFAULT, H5P_DEFAULT));
    const hid_t type = H5Aget_type(attribute);
    std::string texts(H5Aget_storage_size(attribute), '\0');
    test::done(H5Aread(attribute, type, texts.data()));
    H5Tclose(type);
    H5Aclose(attribute);
    return texts;
  }

  test::Folder folder_;
  hid_t file_ = H5I_INVALID_HID;
};

TEST_F(Hdf5Layout, FindsAPlaceForSmallTensorsBehindAnyStructure) {
  Hdf5Spec spec = varied();
  for (std::size_t size = 1; size < 200'000; size += 4099) {
    spec.attributes["args"] = std::string(size, 'x');
    const FileLayout layout = hdf5_layout(spec);
    ASSERT_EQ(layout.data.size(), 3 * std::size(all_dtypes));
    std::uint64_t end = 0;
    for (const FileLayout::Data& data : layout.data) {
      ASSERT_EQ(data.offset % bytes(spec.tensors[data.tensor].dtype), 0U) << size;
      ASSERT_GE(data.offset, end);
      end = data.offset + data.bytes;
    }
    open(file_of(layout));
    EXPECT_GE(H5Fclose(std::exchange(file_, H5I_INVALID_HID)), 0);
  }
}

TEST_F(Hdf5Layout, IsOfTheParallelLibrary) {
  Dl_info told = {};
  ASSERT_NE(dladdr(reinterpret_cast<const void*>(&H5Fopen), &told), 0);
  EXPECT_NE(std::string(told.dli_fname).find("openmpi"), std::string::npos) << told.dli_fname;
#ifndef H5_HAVE_PARALLEL
  ADD_FAILURE() << "the headers are those of a serial library";
#endif
  open(file_of(hdf5_layout({})));
}

TEST_F(Hdf5Layout, IsReadByTheLibrary) {
  const Hdf5Spec spec = varied();
  const FileLayout layout = hdf5_layout(spec);
  open(file_of(layout));
  std::map<std::uint32_t, std::uint64_t> sizes;
  for (const FileLayout::Data& data : layout.data) {
    sizes[data.tensor] = data.bytes;
    EXPECT_EQ(data.offset % bytes(spec.tensors[data.tensor].dtype), 0U);
    EXPECT_TRUE(data.bytes < 4096 || data.offset % 4096 == 0) << data.offset;
  }
  for (std::uint32_t t = 0; t < spec.tensors.size(); ++t) {
    const std::string path = "/tensors/" + spec.tensors[t].name;
    const std::string data = data_of(path);
    ASSERT_EQ(data.size(), elements(spec.tensors[t].shape) * bytes(spec.tensors[t].dtype));
    EXPECT_EQ(data.size(), sizes[t]) << path;
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < data.size(); ++i) {
      wrong += data[i] != static_cast<char>(byte_of(t, i)) ? 1U : 0U;
    }
    EXPECT_EQ(wrong, 0U) << path;
  }
  EXPECT_EQ(data_of("/metadata/config.json"), "{\"a\": 1}");
  EXPECT_EQ(data_of("/metadata/empty"), "");
  EXPECT_EQ(texts_of("/tensors/BF16.few", "dtype"), "BF16");
  EXPECT_EQ(texts_of("/tensors/BF16.many", "roles"),
            std::string("a\0\0\0\0\0\0\0\0\0layers.0.b", 20));
  EXPECT_EQ(texts_of("/tensors/BF16.few", "digests").substr(0, 13), "not computed ");
  EXPECT_EQ(texts_of("/", "training"), "{\"iteration\": 7}");
}

TEST_F(Hdf5Layout, IsReadByOurReader) {
  const Hdf5Spec spec = varied();
  const FileLayout layout = hdf5_layout(spec);
  open(file_of(layout));
  const FileIndex index = this->index();
  ASSERT_EQ(index.tensors.size(), spec.tensors.size());
  std::map<std::string, std::uint64_t> offsets;
  for (const FileLayout::Data& data : layout.data) {
    offsets[spec.tensors[data.tensor].name] = data.offset;
  }
  for (const Hdf5Spec::Tensor& tensor : spec.tensors) {
    const auto found = std::find_if(index.tensors.begin(), index.tensors.end(),
                                    [&](const TensorEntry& e) { return e.name == tensor.name; });
    ASSERT_NE(found, index.tensors.end()) << tensor.name;
    EXPECT_EQ(found->dtype, tensor.dtype) << tensor.name;
    EXPECT_EQ(found->shape, tensor.shape) << tensor.name;
    EXPECT_EQ(found->offset, offsets[tensor.name]) << tensor.name;
    EXPECT_EQ(found->chunks, nullptr) << tensor.name;
  }
  EXPECT_EQ(index.facts.at("attributes").at("training"), "{\"iteration\": 7}");
  const Json& place = index.facts.at("metadata").at("config.json");
  EXPECT_EQ(test::content_of(folder_ / "m.h5")
                .substr(place[0].get<std::size_t>(), place[1].get<std::size_t>()),
            "{\"a\": 1}");
  EXPECT_EQ(index.facts.at("metadata").at("empty")[1], 0);
}

TEST_F(Hdf5Layout, IsAPureFunction) {
  const Hdf5Spec spec = varied();
  const std::string file = file_of(hdf5_layout(spec));
  EXPECT_EQ(file, file_of(hdf5_layout(spec)));
  {
    const test::Hdf5Maker other(folder_ /
                                "other.h5");  // what else the library does does not matter
    other.counted("x", {3, 4});
    EXPECT_EQ(file, file_of(hdf5_layout(spec)));
  }
  open(file);
}

TEST_F(Hdf5Layout, TakesNoMemoryForData) {
  Hdf5Spec spec;
  for (int i = 0; i < 100; ++i) {
    spec.tensors.push_back({{std::to_string(i), Dtype::bf16, {1 << 20, 1 << 20}}, {"role"}});
  }
  const FileLayout layout = hdf5_layout(spec);
  EXPECT_GT(layout.bytes, std::uint64_t{200} << 40);
  std::uint64_t known = 0;
  for (const FileLayout::Literal& literal : layout.literals) known += literal.bytes.size();
  EXPECT_LT(known, 1U << 20);
  open(file_of(hdf5_layout({})));
}

TEST_F(Hdf5Layout, HasTheDigestsInItsTrailer) {
  const Hdf5Spec spec = varied();
  const FileLayout layout = hdf5_layout(spec);
  std::string file = file_of(layout);
  Hdf5Digests digests;
  for (std::uint64_t t = 0; t < spec.tensors.size(); ++t) {
    const bool empty = elements(spec.tensors[t].shape) == 0;
    digests.emplace_back(empty ? 0 : spec.tensors[t].roles.size(), Digest{t + 1, t << 50});
  }
  const auto trailer = hdf5_trailer(spec, layout, digests);
  ASSERT_FALSE(trailer.empty());
  std::uint64_t end = 0;
  for (const FileLayout::Literal& literal : trailer) {
    EXPECT_GE(literal.offset, end);
    end = literal.offset + literal.bytes.size();
    put(literal, file);
  }
  open(file);
  EXPECT_EQ(texts_of("/tensors/BOOL.few", "digests"), digests[0][0].hex());
  EXPECT_EQ(texts_of("/tensors/C128.many", "digests"),
            digests[77].at(0).hex() + digests[77].at(1).hex());
  EXPECT_EQ(texts_of("/tensors/F32.none", "digests"), std::string(32, '0'));
  // Where there is no digest the bytes stay what they were: the data too.
  EXPECT_EQ(data_of("/tensors/C128.many")[5], static_cast<char>(byte_of(77, 5)));
  EXPECT_EQ(index().tensors.size(), spec.tensors.size());
}

TEST_F(Hdf5Layout, TakesOddNamesAndManyDimensions) {
  Hdf5Spec spec;
  const std::vector<std::string> names = {"..",    "a b",  ".hidden", "\xc3\xa4\xe6\x97\xa5",
                                          "\"q\"", "x\ny", "100%",    std::string(3000, 'n')};
  for (const std::string& name : names) {
    spec.tensors.push_back({{name, Dtype::f32, Shape(32, 1)}, {}});
  }
  open(file_of(hdf5_layout(spec)));
  const FileIndex index = this->index();
  std::vector<std::string> found;
  for (const TensorEntry& entry : index.tensors) {
    EXPECT_EQ(entry.shape, Shape(32, 1));
    found.push_back(entry.name);
  }
  EXPECT_TRUE(std::is_permutation(found.begin(), found.end(), names.begin(), names.end()));
}

#ifndef __SANITIZE_ADDRESS__  // which keeps what was freed
TEST_F(Hdf5Layout, TakesLittleMemoryForManyTensors) {
  Hdf5Spec spec;
  constexpr std::size_t tensors = 30000;
  for (std::size_t i = 0; i < tensors; ++i) {
    spec.tensors.push_back({{"layers." + std::to_string(i), Dtype::bf16, {4096, 4096}}, {"a"}});
  }
  const auto peak = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  };
  const std::uint64_t before = peak();
  EXPECT_EQ(hdf5_layout(spec).data.size(), tensors);
  EXPECT_LT((peak() - before) / tensors, 10000U);  // a dataset that is open takes twice that
}
#endif

TEST(Hdf5LayoutRefuses, WhatHdf5CannotHold) {
  const auto of = [](const std::string& name, Dtype dtype, const Shape& shape) {
    Hdf5Spec spec;
    spec.tensors.push_back({{name, dtype, shape}, {}});
    return refusal(spec);
  };
  EXPECT_EQ(of("a/b", Dtype::f32, {2}), "a/b: 'a/b': HDF5 cannot have a dataset of this name");
  EXPECT_NE(of("", Dtype::f32, {2}), "");
  EXPECT_NE(of(".", Dtype::f32, {2}), "");
  EXPECT_NE(of(std::string("a\0b", 3), Dtype::f32, {2}), "");
  EXPECT_NE(of("a", Dtype::f4, {2}).find("smaller than a byte"), std::string::npos);
  EXPECT_NE(of("a", Dtype::f32, Shape(33, 1)).find("H5Screate_simple"), std::string::npos);
  EXPECT_NE(of("a", Dtype::f32, {1ULL << 40, 1ULL << 40}), "");
  Hdf5Spec twice;
  twice.tensors = {{{"a", Dtype::f32, {2}}, {}}, {{"a", Dtype::f32, {2}}, {}}};
  EXPECT_NE(refusal(twice).find("a: H5Olink: "), std::string::npos) << refusal(twice);
}

}  // namespace
}  // namespace reshard::formats
