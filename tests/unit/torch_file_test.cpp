#include "formats/container/torch_file.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "formats/container/crc32.hpp"
#include "formats/container/torch_layout.hpp"
#include "formats/container/zip.hpp"
#include "formats/container/zip_writer.hpp"

namespace reshard::formats {
namespace {

/// Written by torch.save: views.pt by torch 2.13, legacy.pt by torch 1.13 without its zip format.
std::string data_file(const std::string& name) {
  std::ifstream file(std::filesystem::path(RESHARD_TEST_DATA) / "torch" / name, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  EXPECT_FALSE(bytes.empty()) << name;
  return bytes;
}

FileIndex read(const std::string& file, const PickleLimits& limits = {}) {
  return read_torch_file(memory_source(std::as_bytes(std::span(file))), "m.pt", limits);
}

std::string refusal(const std::string& file) {
  try {
    read(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input);
    EXPECT_TRUE(std::string(error.what()).starts_with("m.pt: ")) << error.what();
    return error.what();
  }
  return "";
}

const TensorEntry& entry(const FileIndex& index, const std::string& name) {
  for (const TensorEntry& tensor : index.tensors) {
    if (tensor.name == name) return tensor;
  }
  throw Error(Kind::internal, "no tensor " + name);
}

float float_at(const std::string& file, std::uint64_t offset) {
  float value = 0;
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

/// Both files hold a 4 x 6 tensor of 0, 1, .., views of it and more.
void check_values(const std::string& file, const FileIndex& index) {
  const TensorEntry& base = entry(index, "model.base");
  EXPECT_EQ(base.shape, (Shape{4, 6}));
  EXPECT_TRUE(base.strides.empty());
  EXPECT_EQ(float_at(file, base.offset + 23 * 4), 23.0f);
  EXPECT_EQ(entry(index, "model.transposed").strides, (Shape{1, 6}));
  EXPECT_EQ(entry(index, "model.transposed").offset, base.offset);
  EXPECT_EQ(entry(index, "model.row").offset, base.offset + 12 * 4);
  EXPECT_EQ(entry(index, "model.half").dtype, Dtype::bf16);
  EXPECT_EQ(file.substr(entry(index, "model.half").offset, 6),
            std::string("\0\0\x80\x3f\0\x40", 6));
  EXPECT_EQ(entry(index, "list.0").dtype, Dtype::boolean);
  EXPECT_EQ(entry(index, "list.0").shape, Shape{});
  EXPECT_EQ(file[entry(index, "list.1.1").offset], 5);
  EXPECT_EQ(entry(index, "(torch.float32,torch.int64)").shape, (Shape{2, 0}));
  const Json& args = index.facts.at("items").at(0).at(1);
  EXPECT_EQ(args.dump(),
            R"({"!":"object","class":"argparse.Namespace","args":[],"state":{"hidden_size":6,)"
            R"("params_dtype":{"!":"global","name":"torch.bfloat16"}}})");
  EXPECT_EQ(index.facts.at("items").at(2).at(1).at("base").dump(),
            R"({"!":"tensor","dtype":"F32","shape":[4,6]})");
}

TEST(TorchFile, ReadsWhatTorchWrote) {
  const std::string file = data_file("views.pt");
  const FileIndex index = read(file);
  EXPECT_EQ(index.container, "torch-zip");
  EXPECT_EQ(index.bytes, file.size());
  EXPECT_EQ(index.tensors.size(), 8u);
  EXPECT_EQ(entry(index, "fp8").dtype, Dtype::f8_e4m3);
  check_values(file, index);
}

TEST(TorchFile, ReadsTheLegacyStream) {
  const std::string file = data_file("legacy.pt");
  const FileIndex index = read(file);
  EXPECT_EQ(index.container, "torch-legacy");
  EXPECT_EQ(index.tensors.size(), 7u);
  check_values(file, index);
}

TEST(TorchFile, EveryPrefixIsRefused) {
  for (const char* name : {"views.pt", "legacy.pt"}) {
    const std::string file = data_file(name);
    for (std::size_t size = 0; size < file.size(); ++size) {
      EXPECT_NE(refusal(file.substr(0, size)), "") << name << " cut to " << size;
    }
    EXPECT_NE(refusal(file + "x"), "") << name;
  }
}

TEST(TorchFile, OtherKindsAreRefusedByName) {
  std::string tar(512, '\0');
  tar.replace(257, 5, "ustar");
  EXPECT_NE(refusal(tar).find("tar"), std::string::npos);
  EXPECT_NE(refusal("{}").find("neither"), std::string::npos);
  EXPECT_NE(refusal("").find("neither"), std::string::npos);
}

using Contents = std::vector<std::pair<std::string, std::string>>;

std::string archive(const Contents& contents) {
  std::string file, directory;
  for (const auto& [name, content] : contents) {
    const ZipPlace place = place_record(name, content.size(), file.size());
    const std::uint32_t crc = crc32_of(std::as_bytes(std::span(content)));
    file += local_header(name, place) + content + data_descriptor(place, crc);
    directory += central_entry(name, place, crc);
  }
  return file + directory + end_records(file.size(), directory.size(), contents.size());
}

TEST(TorchFile, RecordsAreChecked) {
  const std::string pickle =
      "}(U\1actorch._utils\n_rebuild_tensor_v2\n((U\7storagectorch\nFloatStorage\nU\0010U\3cpu"
      "K\2tQK\1K\1\x85K\1\x85\x89"
      "ccollections\nOrderedDict\n)RtRu.";
  const std::pair<std::string, std::string> pkl = {"a/data.pkl", pickle},
                                            version = {"a/version", "3\n"},
                                            data = {"a/data/0", "12345678"};
  EXPECT_EQ(read(archive({pkl, data, version})).tensors.size(), 1u);
  const std::vector<std::pair<Contents, const char*>> cases = {
      {{pkl, data, version, {"a/byteorder", "big"}}, "byte order"},
      {{pkl, data, {"a/version", "11\n"}}, "format version \"11\""},
      {{pkl, data, {"a/version", "x"}}, "format version"},
      {{pkl, data, version, {"a/.data/version", "0"}}, "format version \"0\""},
      {{pkl, data, {"a/version", std::string(100, '1')}}, "at most 64"},
      {{pkl, data, version, {"a/constants.pkl", ""}}, "TorchScript"},
      {{data, version}, "no record data.pkl"},
      {{pkl, data, version, {"b/x", ""}}, "outside folder a/"},
      {{{"data.pkl", pickle}}, "lies in no folder"},
      {{pkl, version}, "tensor a: its storage \"0\" is not in the file"},
      {{pkl, {"a/data/0", "1234567"}, version}, "has 7 bytes, its storage needs 8"},
  };
  for (const auto& [contents, message] : cases) {
    EXPECT_NE(refusal(archive(contents)).find(message), std::string::npos)
        << refusal(archive(contents));
  }
  std::string ambiguous = pickle;
  ambiguous.pop_back();
  ambiguous = "}(U\1x}U\1y" + ambiguous.substr(5, ambiguous.size() - 6) + "sU\3x.y" +
              ambiguous.substr(5, ambiguous.size() - 6) + "u.";
  EXPECT_NE(refusal(archive({{"a/data.pkl", ambiguous}, data, version})).find("two tensors"),
            std::string::npos);
}

TEST(TorchFile, LegacyStreamsAreChecked) {
  const std::string file = data_file("legacy.pt");
  const auto changed = [&](std::size_t at, char byte) {
    std::string copy = file;
    copy[at] = byte;
    return copy;
  };
  EXPECT_NE(refusal(changed(2, 'x')), "");
  EXPECT_NE(refusal(changed(18, '\2')).find("1001"), std::string::npos);
  const std::size_t little = file.find("little_endian");
  EXPECT_NE(refusal(changed(file.find('\x88', little), '\x89')).find("byte order"),
            std::string::npos);
  const FileIndex index = read(file);
  const std::size_t count = entry(index, "model.base").offset - 8;
  EXPECT_NE(refusal(changed(count, 25)).find("25 elements, the pickle says 24"), std::string::npos);
}

/// Torch's own file, taken apart and put together again by our writer, is the same.
TEST(TorchLayout, ZipStyleIsTorchs) {
  const std::string file = data_file("views.pt");
  Contents contents;
  for (const ZipRecord& record : read_zip(memory_source(std::as_bytes(std::span(file))))) {
    contents.emplace_back(record.name, file.substr(record.offset, record.bytes));
  }
  EXPECT_EQ(archive(contents), file);
}

TorchFileSpec sample() {
  TorchFileSpec spec{"model_optim_rng", Json::object(), {}};
  spec.tensors = {{"a", Dtype::bf16, {3, 5}}, {"b", Dtype::f32, {0, 2}}, {"c", Dtype::u16, {7}}};
  spec.value["iteration"] = 3;
  for (std::size_t i = 0; i < 3; ++i) {
    spec.value["model"][spec.tensors[i].name] = {{"!", "tensor"}, {"index", i}};
  }
  return spec;
}

/// The file of a spec with every tensor byte `fill`; each position must be given exactly once.
std::string written(const TorchFileSpec& spec, char fill) {
  const FileLayout layout = torch_layout(spec);
  std::string file(layout.bytes, '\0');
  std::vector<int> covered(layout.bytes);
  const auto put = [&](std::uint64_t offset, const std::string& bytes) {
    file.replace(offset, bytes.size(), bytes);
    for (std::size_t i = 0; i < bytes.size(); ++i) ++covered.at(offset + i);
  };
  std::vector<std::uint32_t> crcs(spec.tensors.size());
  std::uint64_t last = 0;
  for (const auto& literal : layout.literals) {
    EXPECT_GE(literal.offset, last);
    last = literal.offset + literal.bytes.size();
    put(literal.offset, literal.bytes);
  }
  for (const auto& data : layout.data) {
    const std::string bytes(data.bytes, fill);
    crcs[data.tensor] = crc32_of(std::as_bytes(std::span(bytes)));
    put(data.offset, bytes);
  }
  for (const auto& literal : torch_trailer(spec, crcs)) put(literal.offset, literal.bytes);
  EXPECT_EQ(file.size(), layout.bytes);
  for (const int times : covered) EXPECT_EQ(times, 1);
  return file;
}

TEST(TorchLayout, WhatIsWrittenIsRead) {
  const TorchFileSpec spec = sample();
  const std::string file = written(spec, 'x');
  const FileIndex index = read(file);
  ASSERT_EQ(index.tensors.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    const TensorEntry& tensor = index.tensors[i];
    EXPECT_EQ(tensor.name, "model." + spec.tensors[i].name);
    EXPECT_EQ(tensor.dtype, spec.tensors[i].dtype);
    EXPECT_EQ(tensor.shape, spec.tensors[i].shape);
    const std::uint64_t size = elements(tensor.shape) * bytes(tensor.dtype);
    EXPECT_EQ(file.substr(tensor.offset, size), std::string(size, 'x'));
    EXPECT_EQ(tensor.offset % zip_alignment, 0u);
  }
  EXPECT_EQ(index.facts.at("iteration"), 3);
  EXPECT_EQ(written(spec, 'x'), file);
}

TEST(TorchLayout, RecordsLieInTorchsOrder) {
  const std::string file = written(sample(), 'x');
  std::string names;
  for (const ZipRecord& record : read_zip(memory_source(std::as_bytes(std::span(file))))) {
    names += record.name.substr(record.name.find('/')) + " ";
    EXPECT_EQ(record.crc,
              crc32_of(std::as_bytes(std::span(file)).subspan(record.offset, record.bytes)));
  }
  EXPECT_EQ(names,
            "/data.pkl /.format_version /.storage_alignment /byteorder /data/0 /data/1 "
            "/data/2 /version /.data/serialization_id ");
}

TEST(TorchLayout, EveryTensorMustBeNamed) {
  TorchFileSpec spec = sample();
  spec.value["model"].erase("c");
  EXPECT_THROW(torch_layout(spec), Error);
  const std::vector<std::uint32_t> too_few(2);
  EXPECT_THROW(torch_trailer(sample(), too_few), Error);
}

}  // namespace
}  // namespace reshard::formats
