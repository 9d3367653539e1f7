#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/error.hpp"
#include "families/dialect_table.hpp"
#include "families/pattern.hpp"
#include "formats/container/dcp.hpp"
#include "formats/container/torch_file.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron_dist.hpp"
#include "formats/file.hpp"

// Which folder is a checkpoint, what its .metadata says, and the headers of one file's items.

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view metadata_name = ".metadata", config_name = "metadata.json",
                           common_name = "common.pt", common_key = "common_state/shard_0_1";
constexpr std::uint64_t max_metadata = std::uint64_t{4} << 30;

bool has_items(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return false;
  if (fs::exists(fs::path(folder) / metadata_name, error)) return true;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".distcp") return true;
  }
  return false;
}

/// .metadata is written after the items, metadata.json after it.
void check_complete(const fs::path& unit, const SourceOptions& options) {
  if (!fs::exists(unit / metadata_name)) {
    throw Error(Kind::incomplete, unit.string() +
                                      ": has .distcp files but no .metadata, which is "
                                      "written after them");
  }
  const fs::path config = unit / config_name;
  if (fs::exists(config)) {
    const Json json = read_json(config.string());
    const Json backend = json.is_object() ? json.value("sharded_backend", Json()) : Json();
    if (backend == "torch_dist") return;
    throw Error(Kind::input, config.string() + ": sharded_backend is " + backend.dump() +
                                 ", wanted \"torch_dist\"");
  }
  if (options.from.empty()) {
    throw Error(
        Kind::incomplete,
        unit.string() +
            ": has no metadata.json, which Megatron writes last; --from megatron-dist reads "
            "it anyway");
  }
}

/// The pattern of names without weights that a key fits; "" if it is of the model.
std::string left_out_as(const families::DialectTable& table, std::string_view key) {
  for (const std::string& pattern : table.ignored) {
    if (families::matches(pattern, dist_key(key))) return pattern;
  }
  return "";
}

/// The same for an entry; bytes are never weights: their key without its shard.
std::string left_out_as(const families::DialectTable& table, const DcpEntry& entry) {
  const std::string pattern = left_out_as(table, std::string_view(entry.name));
  if (entry.is_tensor || !pattern.empty()) return pattern;
  return entry.name.substr(0, entry.name.find("/shard_"));
}

DcpMetadata read_metadata(const fs::path& unit, const families::DialectTable& table) {
  const std::string path = (unit / metadata_name).string();
  const std::string bytes = read_text(path, max_metadata);
  DcpMetadata metadata = with_context(path, [&] {
    return read_dcp_metadata(std::as_bytes(std::span(bytes)),
                             [&](std::string_view key) { return left_out_as(table, key).empty(); });
  });
  if (metadata.nested) {
    throw Error(Kind::input, path +
                                 ": its keys are paths in nested dicts: a checkpoint of "
                                 "torch.distributed.checkpoint (FSDP), not of torch_dist");
  }
  return metadata;
}

/// Tensors of the model, and for each file that holds some its chunks: [tensor, byte, bytes,
/// offset, shape], ascending by byte.
void add_tensors(const DcpMetadata& metadata, const families::DialectTable& table, Found& found) {
  Json tensors = Json::array();
  std::map<std::uint32_t, std::vector<std::pair<std::uint64_t, Json>>> files;
  for (const DcpEntry& entry : metadata.entries) {
    if (!left_out_as(table, entry).empty()) continue;
    for (const DcpChunk& chunk : entry.chunks) {
      files[chunk.item.file].emplace_back(
          chunk.item.offset,
          Json({tensors.size(), chunk.item.offset, chunk.item.bytes, chunk.offset, chunk.shape}));
    }
    tensors.push_back({entry.name, entry.dtype, entry.shape});
  }
  Json chunks = Json::array();
  for (auto& [number, items] : files) {
    found.files.push_back(metadata.files[number]);
    std::sort(items.begin(), items.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    Json list = Json::array();
    for (auto& [byte, chunk] : items) list.push_back(std::move(chunk));
    chunks.push_back(std::move(list));
  }
  found.facts["tensors"] = std::move(tensors);
  found.facts["chunks"] = std::move(chunks);
}

/// What is not carried, by pattern: [entries, bytes].
Json left_out(const DcpMetadata& metadata, const families::DialectTable& table) {
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> sums;
  for (const DcpEntry& entry : metadata.entries) {
    const std::string pattern = left_out_as(table, entry);
    if (pattern.empty() || dist_key(entry.name) == common_key) continue;
    ++sums[pattern].first;
    sums[pattern].second += entry.bytes;
  }
  Json json = Json::object();
  for (const auto& [pattern, sum] : sums) json[pattern] = {sum.first, sum.second};
  return json;
}

/// Every file that is named is there and as long as its items; those without a chunk of the model
/// are the optimizer's.
void check_files(const fs::path& unit, const DcpMetadata& metadata, Found& found) {
  std::set<std::string> missing(metadata.files.begin(), metadata.files.end());
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(unit)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file(error) || missing.erase(name) == 0) continue;
    const auto at = std::lower_bound(metadata.files.begin(), metadata.files.end(), name);
    const std::uint64_t end = metadata.ends[static_cast<std::size_t>(at - metadata.files.begin())];
    if (entry.file_size() < end) {
      throw Error(Kind::input, entry.path().string() + ": " + std::to_string(entry.file_size()) +
                                   " bytes, but .metadata has items up to byte " +
                                   std::to_string(end));
    }
    const bool opened = std::binary_search(found.files.begin(), found.files.end(), name);
    if (!opened) found.optimizer.push_back({name, entry.file_size()});
  }
  if (!missing.empty()) {
    const fs::path path = unit / *missing.begin();
    const bool is_there = fs::is_symlink(path) || fs::exists(path);
    throw Error(Kind::input, path.string() + (is_there ? ": is no file" : ": missing") + ", as " +
                                 std::to_string(missing.size()) + " of " +
                                 std::to_string(metadata.files.size()) +
                                 " files that .metadata names");
  }
  std::sort(found.optimizer.begin(), found.optimizer.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
}

/// What is common to all ranks: of common.pt, or of the entry that newer versions have instead.
Json common_facts(const fs::path& unit, const DcpMetadata& metadata) {
  if (fs::exists(unit / common_name)) {
    const File file = File::open_read((unit / common_name).string());
    const std::string name(common_name);
    const FileIndex index = read_torch_file(source_of(file), name);
    return run_facts(index.facts, name);
  }
  for (const DcpEntry& entry : metadata.entries) {
    if (dist_key(entry.name) != common_key || entry.is_tensor) continue;
    const std::string& name = metadata.files[entry.item.file];
    const File file = File::open_read((unit / name).string());
    return with_context(name, [&] {
      const Json list = read_dcp_bytes(in_blocks(source_of(file)), entry.item, entry.name);
      if (!list.is_array() || list.size() != 1 || !list[0].is_object()) {
        throw Error(Kind::input, entry.name + ": is no list of one dict");
      }
      return run_facts(list[0], entry.name);
    });
  }
  return {{"keys", Json::array()}};
}

}  // namespace

std::optional<Found> MegatronDist::detect(const SourceOptions& options) const {
  const std::optional<std::string> unit = megatron_unit(options, has_items);
  if (!unit || !has_items(*unit)) return std::nullopt;
  check_complete(*unit, options);
  Found found{std::string(name()), *unit, {}, Json::object()};
  const families::DialectTable table = families::load_dialect("megatron_dist");
  const DcpMetadata metadata = read_metadata(*unit, table);
  add_tensors(metadata, table, found);
  check_files(*unit, metadata, found);
  found.facts["left_out"] = left_out(metadata, table);
  found.facts["common"] = common_facts(*unit, metadata);
  find_kept_files(options, found);
  return found;
}

FileIndex MegatronDist::index(const Found& found, const std::string& name) const {
  const auto place = std::lower_bound(found.files.begin(), found.files.end(), name);
  const auto number = static_cast<std::size_t>(place - found.files.begin());
  const Json& tensors = found.facts.at("tensors");
  const File file = File::open_read((fs::path(found.unit) / name).string());
  const ByteSource source = in_blocks(source_of(file));
  FileIndex index{name, "dcp", source.size, {}, Json::object()};
  for (const Json& chunk : found.facts.at("chunks").at(number)) {
    const Json& tensor = tensors.at(chunk[0].get<std::size_t>());
    const auto key = tensor[0].get<std::string>(), dtype_name = tensor[1].get<std::string>();
    const auto shape = chunk[4].get<Shape>();
    const bool whole = tensor[2] == chunk[4];
    const std::string chunk_of = whole ? key : chunk_name(key, chunk[3].get<Shape>(), shape);
    with_context(name, [&] {
      const std::optional<Dtype> dtype = dtype_of_torch_name(dtype_name);
      if (!dtype) throw Error(Kind::input, key + ": dtype " + dtype_name + " is not supported");
      const DcpItem item{0, chunk[1].get<std::uint64_t>(), chunk[2].get<std::uint64_t>()};
      index.tensors.push_back(read_dcp_chunk(source, item, chunk_of, *dtype, shape));
    });
  }
  return index;
}

}  // namespace reshard::formats
