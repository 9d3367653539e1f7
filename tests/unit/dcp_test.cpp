#include "formats/container/dcp.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "formats/container/pickle_writer.hpp"
#include "formats/container/torch_layout.hpp"

namespace reshard::formats {
namespace {

const std::string module_of_classes = "torch.distributed.checkpoint.metadata.";

DcpMetadata read(const std::string& pickle) {
  return read_dcp_metadata(std::as_bytes(std::span(pickle)),
                           [](std::string_view name) { return !name.starts_with("optimizer."); });
}

std::string refusal(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input) << error.what();
    return error.what();
  }
  return "";
}

Json object(const std::string& name, Json state) {
  return {{"!", "object"}, {"class", name}, {"args", Json::array()}, {"state", std::move(state)}};
}

Json size_of(const Json& numbers) {
  const Json tuple = {{"!", "tuple"}, {"items", numbers}};
  return {{"!", "object"}, {"class", "torch.Size"}, {"args", Json::array({tuple})}};
}

Json chunk(const Json& offset, const Json& shape) {
  return object(module_of_classes + "ChunkStorageMetadata",
                {{"offsets", size_of(offset)}, {"sizes", size_of(shape)}});
}

/// [key, item] of storage_data; `offset` is null for bytes.
Json stored(const char* key, const Json& offset, const char* file, const Json& at,
            const Json& bytes) {
  const Json place = offset.is_null() ? offset : size_of(offset);
  return {object(module_of_classes + "MetadataIndex",
                 {{"fqn", key}, {"index", nullptr}, {"offset", place}}),
          object("torch.distributed.checkpoint.filesystem._StorageInfo",
                 {{"relative_path", file}, {"offset", at}, {"length", bytes}})};
}

/// Tensor "w" of shape [4, 2] in two chunks, bytes "b", and an optimizer's tensor, as data.
struct Described {
  Json properties = object(
      module_of_classes + "TensorProperties",
      {{"!", "tuple"}, {"items", {{{"!", "global"}, {"name", "torch.bfloat16"}}, 0, false, 0}}});
  Json w = {{"properties", properties},
            {"size", size_of({4, 2})},
            {"chunks", {chunk({0, 0}, {2, 2}), chunk({2, 0}, {2, 2})}}};
  Json keys = {{"w", object(module_of_classes + "TensorStorageMetadata", w)},
               {"b", object(module_of_classes + "BytesStorageMetadata", Json::object())},
               {"optimizer.m", object("old.TensorStorageMetadata", w)}};
  Json storage = {stored("w", {2, 0}, "__1_0.distcp", 0, 50), stored("w", {0, 0}, "x", 0, 60),
                  stored("b", nullptr, "x", 60, 7), stored("optimizer.m", {0, 0}, "x", 67, 5),
                  stored("optimizer.m", {2, 0}, "x", 72, 6)};
  Json more = Json::object();

  Json& w_state() { return keys["w"]["state"]; }
  Json& item(std::size_t i) { return storage[i][1]["state"]; }
  Json& index(std::size_t i) { return storage[i][0]["state"]; }

  [[nodiscard]] std::string pickle(const std::string& name = "Metadata") const {
    Json fields = {{"state_dict_metadata", keys},
                   {"planner_data", nullptr},
                   {"storage_data", {{"!", "dict"}, {"items", storage}}}};
    fields.update(more);
    return write_pickle(object(module_of_classes + name, fields), {});
  }
};

TEST(Dcp, ReadsWhatAMetadataSays) {
  for (const char* name : {"Metadata", "MCoreMetadata"}) {
    const DcpMetadata made = read(Described().pickle(name));
    EXPECT_EQ(made.files, (std::vector<std::string>{"__1_0.distcp", "x"}));
    EXPECT_EQ(made.ends, (std::vector<std::uint64_t>{50, 78}));
    EXPECT_FALSE(made.nested);
    ASSERT_EQ(made.entries.size(), 3u);
    const DcpEntry& w = made.entries[0];
    EXPECT_EQ(w.name + " " + w.dtype, "w bfloat16");
    EXPECT_EQ(w.shape, (Shape{4, 2}));
    ASSERT_EQ(w.chunks.size(), 2u);
    EXPECT_EQ(w.chunks[1].offset, (Shape{2, 0}));
    EXPECT_EQ(w.chunks[1].shape, (Shape{2, 2}));
    EXPECT_EQ(w.chunks[1].item.file, 0u);
    EXPECT_EQ(w.chunks[1].item.bytes, 50u);
    EXPECT_EQ(w.chunks[0].item.file, 1u);
    EXPECT_EQ(w.bytes, 110u);
    EXPECT_FALSE(made.entries[1].is_tensor);
    EXPECT_EQ(made.entries[1].item.offset, 60u);
    EXPECT_TRUE(made.entries[2].chunks.empty());  // not wanted, counted only
    EXPECT_EQ(made.entries[2].items, 2u);
    EXPECT_EQ(made.entries[2].bytes, 11u);
  }
  Described nested;
  nested.more["planner_data"] = {{"w", {{"!", "tuple"}, {"items", {"model", "w"}}}}};
  EXPECT_TRUE(read(nested.pickle()).nested);
}

TEST(Dcp, WhatIsWrittenIsReadAgain) {
  DcpMetadata metadata;
  metadata.files = {"__0_0.distcp", "__1_0.distcp"};
  DcpEntry scalar{"s", true, "float32", {}, {{{}, {}, {0, 0, 9}}}, {}, 1, 9};
  DcpEntry wide{"w", true, "bfloat16", {1, 2, 1, 300}, {}, {}, 2, 1ULL << 33U};
  wide.chunks = {{{0, 0, 0, 0}, {1, 1, 1, 300}, {1, 5, 1ULL << 32U}},
                 {{0, 1, 0, 0}, {1, 1, 1, 300}, {1, 1ULL << 40U, 1ULL << 32U}}};
  metadata.entries = {scalar, wide};
  for (int i = 0; i < 300; ++i) {  // more than the short form of the memo holds; all one item
    metadata.entries.push_back({"b" + std::to_string(i), false, "", {}, {}, {0, 9, 4}, 1, 4});
  }
  const std::string pickle = write_dcp_metadata(metadata);
  const DcpMetadata made = read(pickle);
  EXPECT_EQ(made.files, metadata.files);
  ASSERT_EQ(made.entries.size(), metadata.entries.size());
  EXPECT_EQ(made.entries[0].shape, Shape{});
  EXPECT_EQ(made.entries[0].chunks[0].item.bytes, 9u);
  EXPECT_EQ(made.entries[1].shape, wide.shape);
  EXPECT_EQ(made.entries[1].dtype, "bfloat16");
  EXPECT_EQ(made.entries[1].bytes, wide.bytes);
  for (std::size_t c = 0; c < 2; ++c) {
    EXPECT_EQ(made.entries[1].chunks[c].offset, wide.chunks[c].offset);
    EXPECT_EQ(made.entries[1].chunks[c].shape, wide.chunks[c].shape);
    EXPECT_EQ(made.entries[1].chunks[c].item.offset, wide.chunks[c].item.offset);
  }
  EXPECT_EQ(made.entries[301].name, "b299");
  EXPECT_EQ(made.entries[301].item.offset, 9u);
  EXPECT_EQ(write_dcp_metadata(made), pickle);
}

TEST(Dcp, HostileMetadataIsRefused) {
  struct Case {
    const char* message;
    std::function<void(Described&)> damage;
  };
  const auto file = [](const char* name) {
    return [name](Described& d) { d.item(1)["relative_path"] = name; };
  };
  const std::string long_name(256, 'f'), long_key(4097, 'k');
  const std::vector<Case> cases = {
      {"w: its file \"../x\" is no plain name", file("../x")},
      {"w: its file \"/etc/passwd\" is no plain name", file("/etc/passwd")},
      {"w: its file \"..\" is no plain name", file("..")},
      {"w: its file \".\" is no plain name", file(".")},
      {"w: a file name that is no text of 1 to 255 bytes", file("")},
      {"w: a file name that is no text of 1 to 255 bytes", file(long_name.c_str())},
      {"a file name that is no text", [](auto& d) { d.item(1)["relative_path"] = 7; }},
      {"a file name that is no text",
       [](auto& d) { d.item(1)["relative_path"] = std::string("x\0y", 3); }},
      {"w: an offset that is no number from 0", [](auto& d) { d.item(0)["offset"] = -1; }},
      {"w: a length that is no number from 0", [](auto& d) { d.item(0)["length"] = 1.5; }},
      {"w: a length that is no number from 0", [](auto& d) { d.item(0)["length"] = ~0ULL; }},
      {"w: a _StorageInfo without length", [](auto& d) { d.item(0).erase("length"); }},
      {"w: its item is transformed",
       [](auto& d) { d.item(0)["transform_descriptors"] = {"zstd"}; }},
      {"items of w and of b overlap at byte 59 of x", [](auto& d) { d.item(2)["offset"] = 59; }},
      {"items of b and of optimizer.m overlap", [](auto& d) { d.item(3)["offset"] = 66; }},
      {"items of w and of w overlap", [](auto& d) { d.item(0) = d.item(1); }},
      {"w: its chunks [2, 2] at [0, 0] and [2, 2] at [1, 0] overlap",
       [](auto& d) {
         d.w_state()["chunks"][1] = chunk({1, 0}, {2, 2});
       }},
      {"w: its chunks [2, 2] at [0, 0] and [2, 2] at [0, 0] overlap",
       [](auto& d) {
         d.w_state()["chunks"][1] = chunk({0, 0}, {2, 2});
       }},
      {"w: its chunks hold 6 elements, wanted 8 of shape [4, 2]",
       [](auto& d) {
         d.w_state()["chunks"][1] = chunk({2, 0}, {1, 2});
       }},
      {"w: its chunks hold 4 elements, wanted 8", [](auto& d) { d.w_state()["chunks"].erase(1); }},
      {"w: its chunks hold 8 elements, wanted 10 of shape [5, 2]",
       [](auto& d) {
         d.w_state()["size"] = size_of({5, 2});
       }},
      {"w: its chunk [2, 3] at [2, 0] does not lie in its shape [4, 2]",
       [](auto& d) {
         d.w_state()["chunks"][1] = chunk({2, 0}, {2, 3});
       }},
      {"w: its chunk [2] at [2] does not lie in its shape",
       [](auto& d) { d.w_state()["chunks"][1] = chunk({2}, {2}); }},
      {"does not lie in its shape",
       [](auto& d) {
         d.w_state()["chunks"][1] = chunk({1ULL << 62U, 0}, {1ULL << 62U, 2});
       }},
      {"does not fit",
       [](auto& d) {
         d.w_state()["size"] = size_of({1ULL << 62U, 1ULL << 62U});
       }},
      {"w: its chunks are no list", [](auto& d) { d.w_state()["chunks"] = 1; }},
      {"w: a ChunkStorageMetadata without sizes",
       [](auto& d) { d.w_state()["chunks"][1]["state"].erase("sizes"); }},
      {"w: tensor in the pickle: its size is no number from 0",
       [](auto& d) {
         d.w_state()["size"] = size_of({-4, 2});
       }},
      {"w: tensor in the pickle: its size is no tuple", [](auto& d) { d.w_state()["size"] = 8; }},
      {"its size has too many dimensions",
       [](auto& d) { d.w_state()["size"] = size_of(std::vector<int>(65, 1)); }},
      {"w: has 9 dimensions, at most 8",
       [](auto& d) { d.w_state()["size"] = size_of(std::vector<int>(9, 1)); }},
      {"w: its properties do not tell a dtype", [](auto& d) { d.w_state()["properties"] = 1; }},
      {"w: its properties do not tell a dtype",
       [](auto& d) { d.w_state()["properties"]["state"]["items"][0] = "torch.bfloat16"; }},
      {"w: is described by a Surprise",
       [](auto& d) { d.keys["w"]["class"] = "somewhere.Surprise"; }},
      {"w: is described by no object", [](auto& d) { d.keys["w"] = 3; }},
      {"w: a TensorStorageMetadata without chunks", [](auto& d) { d.w_state().erase("chunks"); }},
      {"w: its chunk [2, 2] at [2, 0] has no item", [](auto& d) { d.storage.erase(0); }},
      {"w: has an item at [3, 0], no chunk",
       [](auto& d) {
         d.storage.push_back(stored("w", {3, 0}, "y", 0, 1));
       }},
      {"w: has an item at [0, 1], no chunk",
       [](auto& d) {
         d.storage.push_back(stored("w", {0, 1}, "y", 0, 1));
       }},
      {"w: has two items at [0, 0]",
       [](auto& d) {
         d.storage.push_back(stored("w", {0, 0}, "y", 0, 1));
       }},
      {"b: has two items", [](auto& d) { d.storage.push_back(stored("b", nullptr, "y", 0, 1)); }},
      {"b: has no item", [](auto& d) { d.storage.erase(2); }},
      {"w: tensor in the pickle: its item's place is no tuple",
       [](auto& d) { d.index(0)["offset"] = nullptr; }},
      {"v: has an item, but no description", [](auto& d) { d.index(0)["fqn"] = "v"; }},
      {"an item's key that is no text of 1 to 4096 bytes",
       [&](auto& d) { d.index(0)["fqn"] = long_key; }},
      {"a MetadataIndex without fqn", [](auto& d) { d.index(0).erase("fqn"); }},
      {"something without fqn", [](auto& d) { d.storage[0][0] = 5; }},
      {"storage_data is no dict", [](auto& d) { d.more["storage_data"] = 5; }},
      {"storage_data is no dict", [](auto& d) { d.more["storage_data"] = nullptr; }},
      {"state_dict_metadata is no dict", [](auto& d) { d.more["state_dict_metadata"] = 5; }},
      {"without fields",
       [](auto& d) {
         for (int i = 0; i < 65; ++i) d.more["f" + std::to_string(i)] = 0;
       }},
  };
  for (const Case& each : cases) {
    Described described;
    each.damage(described);
    const std::string seen = refusal([&] { read(described.pickle()); });
    EXPECT_NE(seen.find(each.message), std::string::npos) << seen << " instead of " << each.message;
  }
  const std::string pickle = Described().pickle();
  EXPECT_NE(refusal([&] { read(pickle.substr(0, pickle.size() - 1)); }).find("does not end"),
            std::string::npos);
  EXPECT_NE(refusal([] {
              read(write_pickle({{"w", 1}}, {}));
            }).find("holds no object"),
            std::string::npos);
  EXPECT_NE(refusal([] { read(Described().pickle("Elsewhere")); }).find("holds a Elsewhere"),
            std::string::npos);
}

/// A chunk that a list of two megabytes names a million times takes no memory of a million.
TEST(Dcp, RepeatedChunksAreRefused) {
  Described described;
  described.w_state()["chunks"][1] = "here";
  std::string pickle = described.pickle();
  const std::string text("X\x04\0\0\0here", 9);
  const std::size_t at = pickle.find(text);
  ASSERT_NE(at, std::string::npos);
  std::string fetches("q\0", 2);  // the first chunk, kept as number 0
  for (int i = 0; i < 1'000'000; ++i) fetches += std::string_view("h\0", 2);
  pickle.replace(at, text.size(), fetches);
  EXPECT_NE(refusal([&] { read(pickle); }).find("more than 2000000 parts"), std::string::npos);
}

std::vector<DcpChunk> chunks_of(const std::vector<std::pair<Shape, Shape>>& boxes) {
  std::vector<DcpChunk> chunks;
  for (const auto& [offset, shape] : boxes) chunks.push_back({offset, shape, {}});
  return chunks;
}

TEST(Dcp, ChunksMustTile) {
  check_tiling(chunks_of({{{}, {}}}), {});
  check_tiling({}, {0, 4});
  check_tiling(chunks_of({{{0}, {0}}, {{0}, {3}}}), {3});
  // cut in turn along both dimensions, and the vanes of a pinwheel, which no plane parts
  check_tiling(chunks_of({{{0, 0}, {2, 3}}, {{2, 0}, {1, 1}}, {{2, 1}, {1, 2}}}), {3, 3});
  const std::vector<std::pair<Shape, Shape>> pinwheel = {
      {{0, 0}, {1, 2}}, {{0, 2}, {2, 1}}, {{2, 1}, {1, 2}}, {{1, 0}, {2, 1}}, {{1, 1}, {1, 1}}};
  check_tiling(chunks_of(pinwheel), {3, 3});
  auto hole = pinwheel, overlap = pinwheel;
  hole.pop_back();
  EXPECT_NE(refusal([&] {
              check_tiling(chunks_of(hole), {3, 3});
            }).find("hold 8 elements"),
            std::string::npos);
  overlap.back() = {{1, 1}, {2, 1}};
  EXPECT_NE(refusal([&] {
              check_tiling(chunks_of(overlap), {3, 3});
            }).find("overlap"),
            std::string::npos);
  EXPECT_NE(refusal([] {
              check_tiling(chunks_of({{{}, {}}, {{}, {}}}), {});
            }).find("overlap"),
            std::string::npos);
}

/// 200,000 chunks in any order, and as many that all overlap, take no time that grows with squares.
TEST(Dcp, TilingIsQuick) {
  std::vector<DcpChunk> chunks;
  for (std::uint64_t i = 0; i < 200'000; ++i) {
    const std::uint64_t k = i * 77'773 % 200'000;
    chunks.push_back({{k / 1000, k % 1000, 0}, {1, 1, 4}, {}});
  }
  check_tiling(chunks, {200, 1000, 4});
  for (DcpChunk& chunk : chunks) chunk.offset = {0, 0, 0};
  EXPECT_NE(refusal([&] {
              check_tiling(chunks, {200, 1000, 4});
            }).find("overlap"),
            std::string::npos);
}

/// Bytes of a torch file with one tensor of zeros.
std::string torch_file(const std::string& root, Dtype dtype, const Shape& shape, Json value) {
  const TorchFileSpec spec{root, std::move(value), {{"t", dtype, shape}}};
  const FileLayout layout = torch_layout(spec);
  std::string file(layout.bytes, '\0');
  const std::uint32_t crc = 0;
  for (const auto& literals : {layout.literals, torch_trailer(spec, {&crc, 1})}) {
    for (const auto& literal : literals) {
      file.replace(literal.offset, literal.bytes.size(), literal.bytes);
    }
  }
  return file;
}

TEST(Dcp, ReadsItemsOfAFile) {
  const Json tensor = {{"!", "tensor"}, {"index", 0}};
  const std::string first = torch_file("archive", Dtype::bf16, {1, 6}, tensor);
  const std::string second = torch_file("archive", Dtype::f32, {3}, {{"w", tensor}});
  const std::string file = first + "..." + first + second;
  const ByteSource source = in_blocks(memory_source(std::as_bytes(std::span(file))));
  const DcpItem item{0, first.size() + 3, first.size()};
  const TensorEntry entry = read_dcp_chunk(source, item, "w[0:1,0:6]", Dtype::bf16, {1, 6});
  EXPECT_EQ(entry.name, "w[0:1,0:6]");
  EXPECT_EQ(
      entry.offset,
      read_dcp_chunk(source, {0, 0, first.size()}, "w", Dtype::bf16, {1, 6}).offset + item.offset);
  EXPECT_EQ(entry.offset % 64, item.offset % 64);  // aligned within its item
  const DcpItem last{0, file.size() - second.size(), second.size()};
  EXPECT_EQ(read_dcp_bytes(source, last, "b").at("w").at("dtype"), "F32");

  const auto says = [&](const DcpItem& at, Dtype dtype, const Shape& shape) {
    return refusal([&] { read_dcp_chunk(source, at, "w", dtype, shape); });
  };
  EXPECT_EQ(says(item, Dtype::f16, {1, 6}), "w: its item holds BF16 [1, 6], wanted F16 [1, 6]");
  EXPECT_EQ(says(item, Dtype::bf16, {6}), "w: its item holds BF16 [1, 6], wanted BF16 [6]");
  EXPECT_EQ(says(last, Dtype::f32, {3}), "w: its item holds 1 tensors, wanted nothing but one");
  EXPECT_NE(says({0, item.offset, file.size()}, Dtype::bf16, {1, 6}).find("outside the file"),
            std::string::npos);
  EXPECT_NE(says({0, file.size() + 1, 0}, Dtype::bf16, {1, 6}).find("outside the file"),
            std::string::npos);
  EXPECT_NE(says({0, item.offset + 1, item.bytes}, Dtype::bf16, {1, 6}), "");
  EXPECT_NE(says({0, item.offset, item.bytes - 1}, Dtype::bf16, {1, 6}), "");
  EXPECT_NE(says({0, item.offset, 0}, Dtype::bf16, {1, 6}), "");
}

TEST(Dcp, ReadsMegatronsOwn) {
  const std::filesystem::path data = std::filesystem::path(RESHARD_TEST_DATA) / "megatron";
  const auto path = data / "llama-core012/torch_dist-dopt-tp2-pp1-dp2/iter_0000003/.metadata";
  std::ifstream stream(path, std::ios::binary);
  const std::string pickle{std::istreambuf_iterator<char>(stream), {}};
  const DcpMetadata made = read(pickle);
  EXPECT_EQ(made.files.size(), 8u);
  EXPECT_FALSE(made.nested);
  std::size_t tensors = 0, chunks = 0, bytes = 0;
  for (const DcpEntry& entry : made.entries) {
    if (!entry.is_tensor) ++bytes;
    if (entry.chunks.empty()) continue;
    ++tensors;
    chunks += entry.chunks.size();
  }
  EXPECT_EQ(tensors, 9u);
  EXPECT_EQ(chunks, 53u);
  EXPECT_EQ(bytes, 20u);
  EXPECT_EQ(chunk_name("w", {0, 14}, {1, 14}), "w[0:1,14:28]");
  EXPECT_EQ(chunk_name("w", {}, {}), "w");
}

}  // namespace
}  // namespace reshard::formats
