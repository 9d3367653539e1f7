#include "formats/container/torch_file.hpp"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "core/error.hpp"
#include "core/shape.hpp"
#include "formats/container/torch_legacy.hpp"
#include "formats/container/zip.hpp"

namespace reshard::formats {
namespace {

constexpr std::string_view zip_begin = "PK\3\4";
constexpr std::uint64_t head_size = 512, tar_magic_at = 257;
constexpr std::uint64_t max_small_record = 64, max_name_bytes = std::uint64_t{64} << 20;
constexpr int first_version = 1, last_version = 10;

/// The records of an archive by name without its folder.
class Archive {
 public:
  explicit Archive(const ByteSource& source) : source_(source), records_(read_zip(source)) {
    const std::string& first = records_.front().name;
    const std::size_t slash = first.find('/');
    if (slash == std::string::npos) {
      throw Error(Kind::input, "zip: record " + first + " lies in no folder: not a file of torch");
    }
    const std::string folder = first.substr(0, slash + 1);
    for (const ZipRecord& record : records_) {
      if (!record.name.starts_with(folder)) {
        throw Error(Kind::input, "zip: record " + record.name + " lies outside folder " + folder);
      }
      by_name_.emplace(std::string_view(record.name).substr(folder.size()), &record);
    }
  }

  const ZipRecord* find(std::string_view name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }

  std::string content(const ZipRecord& record, std::uint64_t limit) const {
    if (record.bytes > limit) {
      throw Error(Kind::input, "zip: record " + record.name + " has " +
                                   std::to_string(record.bytes) + " bytes, at most " +
                                   std::to_string(limit) + " are accepted");
    }
    return read_bytes(source_, record.offset, record.bytes, "zip: record " + record.name);
  }

  /// The text of a small record without white space at its end; empty when there is none.
  std::string text(std::string_view name) const {
    const ZipRecord* record = find(name);
    std::string text = record == nullptr ? "" : content(*record, max_small_record);
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    return text;
  }

 private:
  const ByteSource& source_;
  std::vector<ZipRecord> records_;
  std::unordered_map<std::string_view, const ZipRecord*> by_name_;
};

void check_kind(const Archive& archive) {
  if (archive.find("constants.pkl") != nullptr) {
    throw Error(Kind::input, "a TorchScript archive (it has constants.pkl), not a checkpoint");
  }
  if (archive.find("data.pkl") == nullptr) {
    throw Error(Kind::input, "zip: no record data.pkl: not a file of torch.save");
  }
  const std::string order = archive.text("byteorder");
  if (order != "" && order != "little") {
    throw Error(Kind::input, "its byte order is \"" + order + "\", only little is supported");
  }
  const std::string version =
      archive.text(archive.find(".data/version") != nullptr ? ".data/version" : "version");
  const bool numeric = !version.empty() && version.size() < 4 &&
                       version.find_first_not_of("0123456789") == std::string::npos;
  if (!numeric || std::stoi(version) < first_version || std::stoi(version) > last_version) {
    throw Error(Kind::input, "format version \"" + version + "\", 1 to 10 are supported");
  }
}

TorchContent read_archive(const ByteSource& source, const PickleLimits& limits) {
  const Archive archive(source);
  check_kind(archive);
  const std::string pickle = archive.content(*archive.find("data.pkl"), limits.bytes);
  TorchContent content{
      with_context("data.pkl",
                   [&] { return read_pickle(std::as_bytes(std::span(pickle)), limits); }),
      {}};
  for (const auto& [key, use] : content.pickle.storages) {
    const ZipRecord* record = archive.find("data/" + key);
    if (record == nullptr) continue;
    if (record->bytes != use.bytes) {
      throw Error(Kind::input, "record " + record->name + " has " + std::to_string(record->bytes) +
                                   " bytes, its storage needs " + std::to_string(use.bytes));
    }
    content.offsets.emplace(key, record->offset);
  }
  return content;
}

/// Collects the tensors below a value and leaves dtype and shape of each in their place.
class TensorWalk {
 public:
  TensorWalk(const TorchContent& content, FileIndex& index) : content_(content), index_(index) {}

  void visit(Json& value, const std::string& name) {
    if (value.is_array()) return visit_items(value, name);
    if (!value.is_object()) return;
    const auto tag = value.find("!");
    if (tag == value.end()) {
      for (auto& [key, member] : value.items()) visit_below(member, name, key);
    } else if (*tag == "tensor") {
      take(value, name);
    } else if (*tag == "dict") {
      visit_pairs(value["items"], name);
    } else if (*tag == "tuple" || *tag == "set") {
      visit_items(value["items"], name);
    } else if (*tag == "object") {
      visit_items(value["args"], name);
      if (value.contains("items")) visit_pairs(value["items"], name);
      if (value.contains("list")) visit_items(value["list"], name);
      if (value.contains("state")) visit(value["state"], name);
    }
  }

 private:
  /// Visits what a key leads to. Long keys far up would make every name below them long.
  void visit_below(Json& value, const std::string& name, const std::string& key) {
    if (!value.is_structured()) return;
    charge(name.size() + key.size());
    visit(value, name.empty() ? key : name + "." + key);
  }

  void charge(std::uint64_t bytes) {
    name_bytes_ += bytes;
    if (name_bytes_ > max_name_bytes) {
      throw Error(Kind::input, "the names of its tensors are too long");
    }
  }

  void visit_items(Json& items, const std::string& name) {
    std::size_t i = 0;
    for (Json& item : items) visit_below(item, name, std::to_string(i++));
  }

  void visit_pairs(Json& pairs, const std::string& name) {
    for (Json& pair : pairs) visit_below(pair[1], name, key_name(pair[0]));
  }

  void take(Json& value, const std::string& name) {
    if (!names_.insert(name).second) {
      throw Error(Kind::input, "two tensors are called \"" + name + "\"");
    }
    TensorEntry entry;
    entry.name = name;
    entry.dtype = *dtype_of_name(value["dtype"].get<std::string>());
    entry.shape = value["shape"].get<Shape>();
    if (value.contains("strides")) entry.strides = value["strides"].get<Shape>();
    const auto storage = value["storage"].is_string()
                             ? content_.offsets.find(value["storage"].get_ref<const std::string&>())
                             : content_.offsets.end();
    if (storage == content_.offsets.end()) {
      throw Error(Kind::input, "tensor " + name + ": its storage " + value["storage"].dump() +
                                   " is not in the file");
    }
    entry.offset = storage->second + value["offset"].get<std::uint64_t>() * bytes(entry.dtype);
    index_.tensors.push_back(std::move(entry));
    value.erase("strides");
    value.erase("storage");
    value.erase("offset");
  }

  const TorchContent& content_;
  FileIndex& index_;
  std::uint64_t name_bytes_ = 0;
  std::unordered_set<std::string> names_;
};

FileIndex read_any(const ByteSource& source, const std::string& path, const PickleLimits& limits) {
  FileIndex index;
  index.path = path;
  index.bytes = source.size;
  const std::string head = read_bytes(source, 0, std::min(source.size, head_size), "begin");
  TorchContent content;
  if (head.starts_with(zip_begin)) {
    index.container = "torch-zip";
    content = read_archive(source, limits);
  } else if (is_torch_legacy(head)) {
    index.container = "torch-legacy";
    content = read_torch_legacy(source, limits);
  } else if (head.substr(std::min<std::size_t>(head.size(), tar_magic_at)).starts_with("ustar")) {
    throw Error(Kind::input, "a tar file (torch before 0.1.10): not supported");
  } else {
    throw Error(Kind::input, "neither a zip archive nor a stream of torch.save");
  }
  index.facts = std::move(content.pickle.value);
  TensorWalk(content, index).visit(index.facts, "");
  return index;
}

}  // namespace

std::string key_name(const Json& key) {
  if (key.is_string()) return key.get<std::string>();
  if (!key.is_object() || !key.contains("!")) return key.dump();
  if (key["!"] == "global") return key_name(key["name"]);
  if (key["!"] != "tuple") return key.dump();
  std::string name;
  for (const Json& item : key["items"]) name += (name.empty() ? "" : ",") + key_name(item);
  return "(" + name + ")";
}

FileIndex read_torch_file(const ByteSource& source, const std::string& path,
                          const PickleLimits& limits) {
  return with_context(path, [&] { return read_any(source, path, limits); });
}

}  // namespace reshard::formats
