#include <algorithm>
#include <cctype>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "core/box.hpp"
#include "core/error.hpp"
#include "formats/container/dcp.hpp"
#include "formats/container/pickle_machine.hpp"
#include "formats/container/pickle_tensor.hpp"
#include "formats/container/pickle_text.hpp"

namespace reshard::formats {
namespace {

using Tag = PickleNode::Tag;

constexpr std::size_t max_name = 4096, max_file_name = 255;
/// Fields of a class, several times as many as any version has.
constexpr std::size_t max_fields = 64;
/// Memory of an item in a hash map besides what it holds.
constexpr std::uint64_t map_cost = 64;
/// A part of PickleLimits may stand for so many bytes of the pickle: 32 bytes of memory for one,
/// where Megatron's take 12 to 14.
constexpr std::uint64_t bytes_per_part = 2;

/// Memory of a copied shape.
std::uint64_t shape_cost(const Shape& shape) {
  return 16 + sizeof(std::uint64_t) * shape.size();
}

Error bad(const std::string& text) {
  return {Kind::input, text};
}

/// Whether a text is a name in Python.
bool is_word(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_';
  });
}

/// An item, and the key and place that it is of; `offset` is empty for bytes.
struct Stored {
  std::uint32_t entry = 0;
  Shape offset;
  DcpItem item;
};

class MetadataReader {
 public:
  MetadataReader(const PickleArena& arena, PickleBudget& budget,
                 const std::function<bool(std::string_view)>& wanted)
      : arena_(arena), budget_(budget), wanted_(wanted) {}

  DcpMetadata read() {
    const std::string_view name = class_of(arena_.top);
    if (name != "Metadata" && name != "MCoreMetadata") {
      throw bad("it holds " + (name.empty() ? "no object" : "a " + std::string(name)) +
                ", wanted the Metadata of a distributed checkpoint");
    }
    const auto planner = field(arena_.top, "planner_data");
    made_.nested = planner && node(*planner).tag != Tag::none;
    read_entries(required(arena_.top, "state_dict_metadata"));
    read_storage(required(arena_.top, "storage_data"));
    sort_files();
    check_overlaps();
    find_ends();
    give_items();
    return std::move(made_);
  }

 private:
  PickleNode node(NodeId id) const { return arena_.node(id); }

  std::optional<PickleObject> object(NodeId id) const {
    const PickleNode found = node(id);
    return found.tag == Tag::object ? std::optional(arena_.object(found)) : std::nullopt;
  }

  /// The last name of the class that an object is of; "" for anything else.
  std::string_view class_of(NodeId id) const {
    const std::optional<PickleObject> made = object(id);
    if (!made || node(made->callable).tag != Tag::global) return {};
    const std::string_view name = node(made->callable).text;
    return name.substr(name.rfind('.') + 1);
  }

  /// A field that BUILD gave an object.
  std::optional<NodeId> field(NodeId id, std::string_view name) const {
    const std::optional<PickleObject> made = object(id);
    if (!made || made->state == PickleObject::no_state) return std::nullopt;
    const PickleNode state = node(made->state);
    if (state.tag != Tag::dict || state.items.size() > 2 * max_fields) {
      throw bad("a " + std::string(class_of(id)) + " without fields");
    }
    for (std::size_t i = 0; i + 1 < state.items.size(); i += 2) {
      if (node(state.items[i]).tag == Tag::text && node(state.items[i]).text == name) {
        return state.items[i + 1];
      }
    }
    return std::nullopt;
  }

  NodeId required(NodeId id, std::string_view name) const {
    if (const auto found = field(id, name)) return *found;
    const std::string_view class_name = class_of(id);
    throw bad((class_name.empty() ? "something" : "a " + std::string(class_name)) + " without " +
              std::string(name));
  }

  /// key, value, .. of a dict.
  std::span<const NodeId> pairs(NodeId id, const char* what) const {
    if (node(id).tag == Tag::dict) return node(id).items;
    if (class_of(id) == "OrderedDict") return object(id)->pairs;
    throw bad(std::string(what) + " is no dict");
  }

  std::string_view text(NodeId id, std::size_t most, const char* what) const {
    const PickleNode found = node(id);
    const bool fits = found.tag == Tag::text && !found.text.empty() && found.text.size() <= most &&
                      is_utf8(found.text) && found.text.find('\0') == std::string_view::npos;
    if (!fits) {
      throw bad(std::string(what) + " that is no text of 1 to " + std::to_string(most) + " bytes");
    }
    return found.text;
  }

  std::uint64_t natural(NodeId id, const char* what) const {
    if (node(id).tag != Tag::integer || node(id).integer < 0) {
      throw bad(std::string(what) + " that is no number from 0");
    }
    return static_cast<std::uint64_t>(node(id).integer);
  }

  void read_entries(NodeId dict) {
    const std::span<const NodeId> items = pairs(dict, "state_dict_metadata");
    made_.entries.reserve(items.size() / 2);
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      const std::string_view name = text(items[i], max_name, "a key");
      const auto number = static_cast<std::uint32_t>(made_.entries.size());
      if (!numbers_.emplace(name, number).second) throw bad(std::string(name) + ": occurs twice");
      budget_.charge(2 * sizeof(DcpEntry) + name.size() + map_cost);
      made_.entries.push_back(
          with_context(name, [&] { return read_entry(std::string(name), items[i + 1]); }));
    }
  }

  DcpEntry read_entry(std::string name, NodeId id) {
    DcpEntry entry;
    entry.name = std::move(name);
    const std::string_view kind = class_of(id);
    if (kind == "BytesStorageMetadata") return entry;
    if (kind != "TensorStorageMetadata") {
      throw bad("is described by " + (kind.empty() ? "no object" : "a " + std::string(kind)));
    }
    entry.is_tensor = true;
    entry.shape = naturals(arena_, required(id, "size"), "its size");
    entry.dtype = dtype_of(required(id, "properties"));
    if (!wanted_(entry.name)) return entry;
    if (entry.shape.size() > max_rank) {
      throw bad("has " + std::to_string(entry.shape.size()) + " dimensions, at most " +
                std::to_string(max_rank) + " are supported");
    }
    const NodeId chunks = required(id, "chunks");
    if (node(chunks).tag != Tag::list) throw bad("its chunks are no list");
    for (const NodeId chunk : node(chunks).items) {
      budget_.charge(2 * sizeof(DcpChunk) + 2 * shape_cost(entry.shape));
      entry.chunks.push_back({naturals(arena_, required(chunk, "offsets"), "a chunk's offset"),
                              naturals(arena_, required(chunk, "sizes"), "a chunk's size"),
                              {}});
    }
    check_tiling(entry.chunks, entry.shape);
    std::sort(entry.chunks.begin(), entry.chunks.end(),
              [](const DcpChunk& a, const DcpChunk& b) { return a.offset < b.offset; });
    return entry;
  }

  /// TensorProperties has a state of five: dtype, layout, requires_grad, memory format, pinned.
  std::string dtype_of(NodeId properties) const {
    constexpr std::string_view prefix = "torch.";
    constexpr std::size_t longest = 64;
    const std::optional<PickleObject> made = object(properties);
    const bool has_state = made && made->state != PickleObject::no_state;
    if (has_state && node(made->state).tag == Tag::tuple && !node(made->state).items.empty()) {
      const PickleNode dtype = node(node(made->state).items.front());
      const std::string_view name = dtype.text;
      const bool fits = dtype.tag == Tag::global && name.size() < longest &&
                        name.starts_with(prefix) && is_word(name.substr(prefix.size()));
      if (fits) return std::string(name.substr(prefix.size()));
    }
    throw bad("its properties do not tell a dtype");
  }

  void read_storage(NodeId dict) {
    const std::span<const NodeId> items = pairs(dict, "storage_data");
    stored_.reserve(items.size() / 2);
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      const std::string_view name = text(required(items[i], "fqn"), max_name, "an item's key");
      const auto entry = numbers_.find(name);
      if (entry == numbers_.end()) {
        throw bad(std::string(name) + ": has an item, but no description");
      }
      with_context(name, [&] {
        Stored stored{entry->second, {}, read_item(items[i + 1])};
        if (made_.entries[stored.entry].is_tensor) {
          stored.offset = naturals(arena_, required(items[i], "offset"), "its item's place");
        }
        budget_.charge(2 * sizeof(Stored) + shape_cost(stored.offset));
        stored_.push_back(std::move(stored));
      });
    }
  }

  DcpItem read_item(NodeId id) {
    const std::string_view file = text(required(id, "relative_path"), max_file_name, "a file name");
    if (file.find('/') != std::string_view::npos || file == "." || file == "..") {
      throw bad("its file \"" + std::string(file) + "\" is no plain name");
    }
    const auto transforms = field(id, "transform_descriptors");
    if (transforms && node(*transforms).tag != Tag::none && !node(*transforms).items.empty()) {
      throw bad("its item is transformed (compressed or the like), which is not supported");
    }
    const auto [number, is_new] =
        file_numbers_.emplace(file, static_cast<std::uint32_t>(file_numbers_.size()));
    DcpItem item{number->second, natural(required(id, "offset"), "an offset"),
                 natural(required(id, "length"), "a length")};
    checked_sum(item.offset, item.bytes);
    return item;
  }

  /// Numbers the files by name.
  void sort_files() {
    std::vector<std::uint32_t> places(file_numbers_.size());
    for (const auto& [name, number] : file_numbers_) made_.files.emplace_back(name);
    std::sort(made_.files.begin(), made_.files.end());
    for (std::uint32_t i = 0; i < made_.files.size(); ++i) {
      places[file_numbers_.at(made_.files[i])] = i;
    }
    for (Stored& stored : stored_) stored.item.file = places[stored.item.file];
  }

  /// Byte entries may be one and the same item.
  void check_overlaps() {
    std::vector<const Stored*> order;
    for (const Stored& stored : stored_) order.push_back(&stored);
    const auto place = [](const Stored* s) {
      return std::tuple(s->item.file, s->item.offset, s->item.bytes);
    };
    std::sort(order.begin(), order.end(),
              [&](const Stored* a, const Stored* b) { return place(a) < place(b); });
    const auto is_bytes = [&](const Stored* s) { return !made_.entries[s->entry].is_tensor; };
    for (std::size_t i = 1; i < order.size(); ++i) {
      const Stored *a = order[i - 1], *b = order[i];
      if (a->item.file != b->item.file || a->item.offset + a->item.bytes <= b->item.offset)
        continue;
      if (place(a) == place(b) && is_bytes(a) && is_bytes(b)) continue;
      throw bad("items of " + made_.entries[a->entry].name + " and of " +
                made_.entries[b->entry].name + " overlap at byte " +
                std::to_string(b->item.offset) + " of " + made_.files[a->item.file]);
    }
  }

  void find_ends() {
    made_.ends.resize(made_.files.size());
    for (const Stored& stored : stored_) {
      std::uint64_t& end = made_.ends[stored.item.file];
      end = std::max(end, stored.item.offset + stored.item.bytes);
    }
  }

  /// Gives each chunk and each byte entry its item; one for each.
  void give_items() {
    std::sort(stored_.begin(), stored_.end(), [](const Stored& a, const Stored& b) {
      return std::tie(a.entry, a.offset) < std::tie(b.entry, b.offset);
    });
    auto at = stored_.begin();
    for (std::uint32_t e = 0; e < made_.entries.size(); ++e) {
      const auto first = at;
      while (at != stored_.end() && at->entry == e) ++at;
      with_context(made_.entries[e].name, [&] { give(made_.entries[e], {first, at}); });
    }
  }

  void give(DcpEntry& entry, std::span<const Stored> items) {
    entry.items = items.size();
    for (const Stored& stored : items) entry.bytes = checked_sum(entry.bytes, stored.item.bytes);
    for (std::size_t i = 1; i < items.size(); ++i) {
      if (items[i].offset != items[i - 1].offset) continue;
      throw bad("has two items" +
                (entry.is_tensor ? " at " + to_string(items[i].offset) : std::string()));
    }
    if (!entry.is_tensor) {
      if (items.empty()) throw bad("has no item");
      entry.item = items.front().item;
    } else if (wanted_(entry.name)) {
      give_chunks(entry, items);
    }
  }

  static void give_chunks(DcpEntry& entry, std::span<const Stored> items) {
    auto item = items.begin();
    for (DcpChunk& chunk : entry.chunks) {
      if (item != items.end() && item->offset < chunk.offset) break;
      if (item == items.end() || item->offset != chunk.offset) {
        throw bad("its chunk " + to_string(chunk.shape) + " at " + to_string(chunk.offset) +
                  " has no item");
      }
      chunk.item = (item++)->item;
    }
    if (item != items.end()) throw bad("has an item at " + to_string(item->offset) + ", no chunk");
  }

  const PickleArena& arena_;
  PickleBudget& budget_;
  const std::function<bool(std::string_view)>& wanted_;
  DcpMetadata made_;
  std::unordered_map<std::string_view, std::uint32_t> numbers_, file_numbers_;
  std::vector<Stored> stored_;
};

}  // namespace

DcpMetadata read_dcp_metadata(std::span<const std::byte> pickle,
                              const std::function<bool(std::string_view)>& wanted) {
  PickleLimits limits;
  limits.bytes = pickle.size();
  limits.nodes = std::max<std::uint64_t>(limits.nodes, pickle.size() / bytes_per_part);
  try {
    PickleBudget budget(limits);
    const PickleArena arena = run_pickle(pickle, budget);
    return MetadataReader(arena, budget, wanted).read();
  } catch (const PickleTruncated&) {
    throw bad("its pickle does not end within " + std::to_string(pickle.size()) + " bytes");
  }
}

std::string chunk_name(std::string_view tensor, const Shape& offset, const Shape& shape) {
  std::string name(tensor);
  for (std::size_t d = 0; d < shape.size(); ++d) {
    name += (d == 0 ? "[" : ",") + std::to_string(offset[d]) + ":" +
            std::to_string(offset[d] + shape[d]);
  }
  return shape.empty() ? name : name + "]";
}

}  // namespace reshard::formats
