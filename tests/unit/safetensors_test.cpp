#include "formats/container/safetensors.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "formats/file.hpp"

namespace reshard::formats {
namespace {

const std::string data_folder = std::string(RESHARD_TEST_DATA) + "/safetensors/";

/// A file with this header, padded as given, and so many bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data_bytes, 'x');
}

FileIndex read(const std::string& file) {
  return read_safetensors(memory_source(std::as_bytes(std::span(file))), "some.safetensors");
}

std::string object(const std::string& members) {
  return "{" + members + "}";
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

template <class Work>
void expect_error(Kind kind, const std::vector<std::string>& parts, Work&& work) {
  try {
    work();
    ADD_FAILURE() << "no error, wanted " << parts.front();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

void expect_refused(const std::string& file, std::vector<std::string> parts) {
  parts.push_back("some.safetensors");
  expect_error(Kind::input, parts, [&] { read(file); });
}

std::vector<TensorSpec> specs_of(const FileIndex& index) {
  std::vector<TensorSpec> specs;
  for (const TensorEntry& t : index.tensors) specs.push_back({t.name, t.dtype, t.shape});
  std::ranges::reverse(specs);  // the writer sorts
  return specs;
}

/// The file that a layout describes, its data taken from `original` by the tensors' names.
std::string rewrite(const std::string& original, const FileIndex& index) {
  const std::vector<TensorSpec> specs = specs_of(index);
  const FileLayout layout = safetensors_layout(specs, index.facts.at("metadata"));
  std::string file(layout.bytes, '?');
  for (const FileLayout::Literal& l : layout.literals)
    file.replace(l.offset, l.bytes.size(), l.bytes);
  for (const FileLayout::Data& d : layout.data) {
    const auto from = std::ranges::find(index.tensors, specs[d.tensor].name, &TensorEntry::name);
    file.replace(d.offset, d.bytes, original, from->offset, d.bytes);
  }
  return file;
}

TEST(Safetensors, RewritesTheReferenceWritersFilesByteForByte) {
  int files = 0;
  for (const auto& item : std::filesystem::directory_iterator(data_folder)) {
    if (item.path().extension() != ".safetensors") continue;
    const File file = File::open_read(item.path().string());
    const std::string original = read_text(item.path().string(), 1 << 20);
    const FileIndex index = read_safetensors(source_of(file), "x");
    EXPECT_EQ(rewrite(original, index), original) << item.path();
    ++files;
  }
  EXPECT_EQ(files, 7);
}

TEST(Safetensors, ReadsEveryDtype) {
  const File file = File::open_read(data_folder + "dtypes.safetensors");
  const FileIndex index = read_safetensors(source_of(file), "folder/dtypes.safetensors");
  EXPECT_EQ(index.path, "folder/dtypes.safetensors");
  EXPECT_EQ(index.container, "safetensors");
  EXPECT_EQ(index.bytes, file.size());
  EXPECT_EQ(index.facts, Json::parse(R"({"metadata": {"format": "pt"}})"));
  ASSERT_EQ(index.tensors.size(), 20u);
  for (const TensorEntry& t : index.tensors) {
    if (t.dtype == Dtype::f4) continue;
    EXPECT_EQ(t.name.substr(2), torch_name(t.dtype));
    EXPECT_EQ(t.shape, (Shape{2, 3}));
  }
  EXPECT_EQ(index.tensors[18].shape, (Shape{2, 8}));  // f4: torch counts pairs
  EXPECT_EQ(index.tensors.front().offset + 368, file.size());
}

TEST(Safetensors, ReadsScalarsEmptyTensorsAndWhiteSpace) {
  const std::string header = " \t\r\n{" + entry("a", "F32", "[]", "[0, 4]") + " , " +
                             entry("e", "F32", "[0,3]", "[4,4]") + ", " +
                             entry("b", "U8", "[2]", "[4,6]") + ",\"__metadata__\":null} \n\t  ";
  const FileIndex index = read(file_of(header, 6));
  ASSERT_EQ(index.tensors.size(), 3u);
  EXPECT_EQ(index.tensors[0].shape, Shape{});
  EXPECT_EQ(index.tensors[1].name, "e");
  EXPECT_EQ(index.tensors[2].offset, 8 + header.size() + 4);
  EXPECT_TRUE(index.facts.at("metadata").is_null());
}

TEST(Safetensors, IgnoresUnknownKeysOfATensor) {
  const std::string header =
      R"({"a":{"note":{"dtype":[1,{"shape":[2]}]},"dtype":"U8","more":-1.5e3,"shape":[1],)"
      R"("x":null,"y":true,"z":"text","data_offsets":[0,1]}})";
  EXPECT_EQ(read(file_of(header, 1)).tensors.size(), 1u);
}

TEST(Safetensors, RefusesABadFrame) {
  expect_refused("", {"0 bytes", "at least 8"});
  expect_refused("1234567", {"7 bytes"});
  expect_refused(file_of("{}", 0).substr(0, 9), {"header of 2 bytes", "at most 1"});
  std::string bomb = file_of("{}", 0);
  bomb[4] = 1;
  expect_refused(bomb, {"header of 4294967298 bytes", "at most 2"});
  expect_refused(file_of("{}", 1), {"file of 11 bytes", "describes 10"});
  expect_refused(file_of(object(entry("a", "U8", "[4]", "[0,4]")), 3), {"describes"});
  const std::uint64_t limit = 100'000'000;
  const ByteSource huge = {limit + 9, [&](std::uint64_t, std::span<std::byte> into) {
                             const std::uint64_t length = limit + 1;
                             std::memcpy(into.data(), &length, 8);
                           }};
  expect_error(Kind::input, {"header of 100000001 bytes", "at most 100000000"},
               [&] { read_safetensors(huge, "x"); });
}

TEST(Safetensors, RefusesWhatIsNotAJsonObject) {
  using namespace std::string_literals;
  for (const std::string& header : {""s, "  "s, "[]"s, "1"s, "null"s, "{"s, "{}{}"s, "{} x"s,
                                    "{,}"s, "{'a':1}"s, "\xef\xbb\xbf{}"s, "{}\0"s, "{}\0{"s,
                                    "{\"\xff\":{}}"s, "{\"\\ud800\":{}}"s, "{\"a\":nan}"s}) {
    expect_refused(file_of(header, 0), {"header is not"});
  }
  for (const std::string value : {"1", "null", "\"x\"", "[]", "true", "1.5", "-1"}) {
    expect_refused(file_of("{\"a\":" + value + "}", 0), {"a: ", "wanted an object"});
  }
}

TEST(Safetensors, RefusesBadMetadata) {
  for (const std::string value : {"1", "\"x\"", "[]", "{\"k\":1}", "{\"k\":null}", "{\"k\":{}}",
                                  "{\"k\":[\"x\"]}", "{\"k\":true}", "{\"k\":1.5}"}) {
    expect_refused(file_of("{\"__metadata__\":" + value + "}", 0), {"__metadata__", "wanted"});
  }
  expect_refused(file_of(R"({"__metadata__":{"k":"1","j":"","k":"1"}})", 0), {"duplicate", "k"});
  expect_refused(file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), {"duplicate"});
  expect_refused(file_of(R"({"__metadata__":null,"__metadata__":{}})", 0), {"duplicate"});
}

TEST(Safetensors, RefusesABadEntry) {
  const auto refused = [](const std::string& text, std::vector<std::string> parts) {
    parts.push_back("a: ");
    expect_refused(file_of(object(text), 4), parts);
  };
  refused(R"("a":{"shape":[4],"data_offsets":[0,4]})", {"no dtype"});
  refused(R"("a":{"dtype":"U8","data_offsets":[0,4]})", {"no shape"});
  refused(R"("a":{"dtype":"U8","shape":[4]})", {"data_offsets"});
  refused(R"("a":{})", {"data_offsets"});
  refused(entry("a", "U9", "[4]", "[0,4]"), {"dtype", "\"U9\" is unknown"});
  refused(entry("a", "C128", "[0]", "[0,0]"), {"C128"});
  refused(R"("a":{"dtype":8,"shape":[4],"data_offsets":[0,4]})", {"dtype", "wanted a string"});
  refused(R"("a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]})", {"duplicate"});
  refused(R"("a":{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]})", {"duplicate"});
  for (const std::string bad : {"4", "null", "\"4\"", "{}", "[-4]", "[4.0]", "[\"4\"]", "[[4]]",
                                "[{}]", "[null]", "[true]", "[18446744073709551616]"}) {
    refused(entry("a", "U8", bad, "[0,4]"), {"shape", "wanted unsigned integers"});
    refused(entry("a", "U8", "[4]", bad), {"data_offsets", "wanted"});
  }
  for (const std::string bad : {"[]", "[0]", "[0,4,4]"}) {
    refused(entry("a", "U8", "[4]", bad), {"data_offsets", "two"});
  }
}

TEST(Safetensors, RefusesWrongSizes) {
  const auto refused = [](const std::string& text, const std::vector<std::string>& parts) {
    expect_refused(file_of(object(text), 4), parts);
  };
  refused(entry("a", "F32", "[2]", "[0,4]"), {"a: ", "F32", "[2]", "need 8 bytes"});
  refused(entry("a", "U8", "[4]", "[4,0]"), {"wanted a begin of 0"});
  refused(entry("a", "U8", "[0]", "[0,0]") + "," + entry("b", "U8", "[4]", "[4,0]"), {"b: "});
  refused(entry("a", "U8", "[3]", "[1,4]"), {"a: ", "wanted a begin of 0", "hole or overlap"});
  refused(entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "U8", "[2]", "[2,4]"),
          {"b: ", "wanted a begin of 1"});
  refused(entry("a", "U8", "[3]", "[0,3]") + "," + entry("b", "U8", "[2]", "[2,4]"),
          {"b: ", "wanted a begin of 3"});
  refused(entry("a", "F4", "[3]", "[0,1]"), {"a: ", "12 bits"});
  refused(entry("a", "U8", "[4294967296,4294967296]", "[0,4]"), {"a: ", "64 bits"});
  refused(entry("a", "F32", "[4611686018427387904,0]", "[0,4]"), {"a: ", "need 0 bytes"});
  refused(entry("a", "F32", "[4611686018427387904]", "[0,4]"), {"a: ", "64 bits"});
}

TEST(Safetensors, RefusesDuplicateTensors) {
  const std::string twice = entry("a", "U8", "[0]", "[0,0]") + "," +
                            entry("b", "U8", "[4]", "[0,4]") + "," +
                            entry("a", "U8", "[0]", "[0,0]");
  expect_refused(file_of(object(twice), 4), {"duplicate tensor a"});
}

TEST(Safetensors, RefusesEndlessNesting) {
  std::string deep = "{\"a\":{\"x\":";
  for (int i = 0; i < 100000; ++i) deep += '[';
  expect_refused(file_of(deep, 0), {"a", "nested deeper"});
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  expect_refused(file_of(object(entry("a", "U8", "[" + ones + "]", "[0,1]")), 1),
                 {"a: shape", "more than 64"});
}

TEST(SafetensorsLayout, RefusesWhatReadersWould) {
  const auto refused = [](const std::vector<TensorSpec>& tensors, const Json& metadata,
                          const std::vector<std::string>& parts) {
    expect_error(Kind::input, parts, [&] { safetensors_layout(tensors, metadata); });
  };
  refused({{"a", Dtype::f32, {1}}, {"a", Dtype::u8, {1}}}, nullptr, {"duplicate tensor a"});
  refused({{"__metadata__", Dtype::f32, {1}}}, nullptr, {"duplicate tensor __metadata__"});
  refused({{"a", Dtype::c128, {1}}}, nullptr, {"a: ", "C128"});
  refused({{"a", Dtype::f4, {3}}}, nullptr, {"a: ", "12 bits"});
  refused({{"a", Dtype::u8, {1ull << 40, 1ull << 40}}}, nullptr, {"a: ", "64 bits"});
  refused({{"\xff", Dtype::u8, {1}}}, nullptr, {"not UTF-8"});
  refused({}, Json::parse(R"({"k": 1})"), {"metadata: k"});
  refused({}, Json::parse("[]"), {"metadata"});
  refused({{std::string(100'000'000, 'a'), Dtype::u8, {1}}}, nullptr, {"at most 100000000"});
}

TEST(SafetensorsLayout, CoversTheWholeFile) {
  const std::vector<TensorSpec> tensors = {
      {"b", Dtype::bf16, {3}}, {"a", Dtype::f32, {2, 2}}, {"e", Dtype::f32, {0}}};
  const FileLayout layout = safetensors_layout(tensors, Json::parse(R"({"format": "pt"})"));
  ASSERT_EQ(layout.literals.size(), 1u);
  std::uint64_t end = layout.literals[0].bytes.size();
  EXPECT_EQ(end % 8, 0u);
  for (const FileLayout::Data& d : layout.data) {
    EXPECT_EQ(d.offset, end);
    end += d.bytes;
  }
  EXPECT_EQ(end, layout.bytes);
  EXPECT_EQ(layout.data[0].tensor, 1u);
  EXPECT_EQ(layout.data[2].tensor, 0u);
}

/// The model that tests/data/safetensors/split.index.json was written for, 48 bytes a file.
std::vector<TensorSpec> split_model() {
  std::vector<TensorSpec> tensors;
  for (const std::uint64_t n : {6u, 6u, 30u, 2u, 6u, 2u, 2u, 25u, 0u, 1u}) {
    const std::string number = std::to_string(tensors.size());
    tensors.push_back({"w" + number, Dtype::f32, {n}});
  }
  tensors.push_back({"b.\xc3\xa9\x7f", Dtype::f32, {3}});
  return tensors;
}

TEST(Shards, AreThoseOfHuggingFace) {
  const std::vector<TensorSpec> tensors = split_model();
  const ShardSplit split = split_shards(tensors, 48, WeightFiles::safetensors);
  ASSERT_EQ(split.shards.size(), 5u);
  EXPECT_EQ(split.shards[0].file, "model-00001-of-00005.safetensors");
  EXPECT_EQ(split.shards[0].tensors, std::vector<std::uint32_t>{2});
  EXPECT_EQ(split.shards[3].tensors, (std::vector<std::uint32_t>{3, 4, 5, 6, 8}));
  const std::string wanted = read_text(data_folder + "split.index.json", 10000);
  EXPECT_EQ(index_json(split, tensors, 85), wanted);
  EXPECT_EQ(index_file_name(WeightFiles::safetensors), "model.safetensors.index.json");

  const auto map = read_weight_map(wanted, "x");
  ASSERT_EQ(map.size(), split.shards.size());
  for (const ShardSplit::Shard& shard : split.shards) {
    std::set<std::string> names;
    for (const std::uint32_t t : shard.tensors) names.insert(tensors[t].name);
    const std::vector<std::string>& found = map.at(shard.file);
    EXPECT_EQ(std::set<std::string>(found.begin(), found.end()), names) << shard.file;
  }
}

TEST(Shards, OneFileHasNoNumbers) {
  const std::vector<TensorSpec> tensors = split_model();
  const ShardSplit one = split_shards(tensors, 1000, WeightFiles::safetensors);
  ASSERT_EQ(one.shards.size(), 1u);
  EXPECT_EQ(one.shards[0].file, "model.safetensors");
  EXPECT_EQ(one.shards[0].tensors.size(), tensors.size());
  EXPECT_EQ(one.total_size, 332u);
  EXPECT_EQ(split_shards({}, 5, WeightFiles::bin).shards.at(0).file, "pytorch_model.bin");
  EXPECT_EQ(split_shards(tensors, 100, WeightFiles::bin).shards.at(1).file,
            "pytorch_model-00002-of-00004.bin");
  EXPECT_EQ(index_file_name(WeightFiles::bin), "pytorch_model.bin.index.json");
}

TEST(Shards, FollowPlainNamesOnly) {
  const auto map_to = [](const std::string& file) {
    return R"({"weight_map": {"a": )" + file + "}}";
  };
  EXPECT_EQ(read_weight_map(map_to("\"pytorch_model_00001-of-00072.bin\""), "x").size(), 1u);
  for (const std::string bad : {"\"../a\"", "\"/a\"", "\"b/a\"", "\"..\"", "\".\"", "\"\"", "1",
                                "null", "\"a\\\\b\"", "\"a\\u0000b\"", "[\"a\"]"}) {
    expect_error(Kind::input, {"index.json", "weight_map: a"},
                 [&] { read_weight_map(map_to(bad), "index.json"); });
  }
  for (const std::string bad : {"", "[]", "{}", "{\"weight_map\": []}", "{\"weight_map\": {}} x"}) {
    EXPECT_THROW(read_weight_map(bad, "x"), Error) << bad;
  }
  expect_error(Kind::input, {"duplicate key a"},
               [] { read_weight_map(R"({"weight_map": {"a": "f", "b": "f", "a": "g"}})", "x"); });
  expect_error(Kind::input, {"nested"},
               [] { read_weight_map("{\"x\":" + std::string(1000, '['), "x"); });
}

TEST(Sizes, AreDecimalOrBinary) {
  EXPECT_EQ(parse_size("5GB"), 5'000'000'000u);
  EXPECT_EQ(parse_size("2.5MB"), 2'500'000u);
  EXPECT_EQ(parse_size("60 kb"), 60'000u);
  EXPECT_EQ(parse_size("2GiB"), 2147483648u);
  EXPECT_EQ(parse_size("1TiB"), 1099511627776u);
  EXPECT_EQ(parse_size("1.5KiB"), 1536u);
  EXPECT_EQ(parse_size("4096"), 4096u);
  EXPECT_EQ(parse_size("7B"), 7u);
  for (const std::string bad : {"", "GB", "-1GB", "0", "0GB", "5XB", "5G", "5GBB", "1K", "inf",
                                "nan", "1e9", "99999999TB", "+5GB", " 5GB", "5 G B", "0x10"}) {
    expect_error(Kind::usage, {"size \"" + bad + "\"", "KB, MB, GB, TB", "KiB, MiB, GiB, TiB"},
                 [&] { parse_size(bad); });
  }
}

}  // namespace
}  // namespace reshard::formats
