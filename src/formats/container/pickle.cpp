#include "formats/container/pickle.hpp"

#include <cmath>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/error.hpp"
#include "core/shape.hpp"
#include "formats/container/pickle_machine.hpp"
#include "formats/container/pickle_tensor.hpp"
#include "formats/container/pickle_text.hpp"

namespace reshard::formats {
namespace {

using Tag = PickleNode::Tag;

/// Deeper than any checkpoint, shallow enough for every recursion over the JSON.
constexpr int max_depth = 200;
constexpr std::uint64_t max_hex_bytes = 4096;
/// Bytes in memory of a text or a list besides its content, of a key with its value, of an object
/// with one key, and for the time that a digit takes.
constexpr std::uint64_t text_cost = 48, member_cost = 112, tagged_cost = 160, digit_cost = 64;

/// Adds a key that is known to be new, without the search that Json's [] makes.
void append(Json& object, std::string key, Json value) {
  object.get_ref<Json::object_t&>().emplace_back(std::move(key), std::move(value));
}

/// Arena -> JSON. Shared nodes are written out each time, hence the count.
class Converter {
 public:
  Converter(const PickleArena& arena, PickleBudget& budget) : arena_(arena), budget_(budget) {}

  Json convert(NodeId id, int depth = 0) {
    if (depth > max_depth) throw Error(Kind::input, "pickle: nested deeper than 200 levels");
    const PickleNode node = arena_.node(id);
    charge(2 * sizeof(Json) + node.text.size());
    switch (node.tag) {
      case Tag::none:
        return nullptr;
      case Tag::boolean:
        return node.integer != 0;
      case Tag::integer:
        return node.integer;
      case Tag::big_integer:
        return big_integer(node.text);
      case Tag::real:
        return real(node.real);
      case Tag::text:
        return text(node.text);
      case Tag::bytes:
        return bytes(node.text);
      case Tag::list:
        return list(node.items, depth);
      case Tag::tuple:
        return items("tuple", node.items, depth);
      case Tag::set:
        return items("set", node.items, depth);
      case Tag::dict:
        return dict("", node.items, depth);
      case Tag::global:
        return global(node.text);
      case Tag::object:
        return object(arena_.object(node), depth);
      case Tag::persistent:
        return storage(node);
    }
    throw Error(Kind::internal, "pickle: a node without a tag");
  }

 private:
  void charge(std::uint64_t bytes) { budget_.charge(bytes); }

  /// An object that stands for what JSON lacks.
  Json tagged(const char* tag) {
    charge(tagged_cost);
    Json json = Json::object();
    append(json, "!", tag);
    return json;
  }

  PickleNode node(NodeId id) const { return arena_.node(id); }

  Json big_integer(std::string_view little_endian) {
    charge(little_endian.size() * digit_cost);
    if (little_endian.size() == 9 && little_endian.back() == 0) {
      std::uint64_t value = 0;
      for (std::size_t i = 8; i-- > 0;) {
        value = value << 8 | static_cast<unsigned char>(little_endian[i]);
      }
      return value;
    }
    Json json = tagged("int");
    append(json, "value", decimal_of(little_endian));
    return json;
  }

  Json real(double value) {
    if (std::isfinite(value)) return value;
    Json json = tagged("float");
    append(json, "value", std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
    return json;
  }

  Json text(std::string_view value) {
    charge(text_cost + value.size());
    if (is_utf8(value)) return std::string(value);
    Json json = tagged("str");
    append(json, "hex", hex_of(value));
    return json;
  }

  Json bytes(std::string_view value) {
    Json json = tagged("bytes");
    if (value.size() > max_hex_bytes) {
      append(json, "size", value.size());
    } else {
      append(json, "hex", hex_of(value));
    }
    return json;
  }

  Json global(std::string_view name) {
    Json json = tagged("global");
    append(json, "name", text(name));
    return json;
  }

  Json list(std::span<const NodeId> ids, int depth) {
    charge(text_cost);
    Json json = Json::array();
    for (const NodeId id : ids) json.push_back(convert(id, depth + 1));
    return json;
  }

  Json items(const char* tag, std::span<const NodeId> ids, int depth) {
    Json json = tagged(tag);
    append(json, "items", list(ids, depth));
    return json;
  }

  Json pairs(std::span<const NodeId> ids, int depth) {
    Json json = Json::array();
    for (std::size_t i = 0; i + 1 < ids.size(); i += 2) {
      charge(text_cost + 2 * sizeof(Json));
      Json pair = Json::array({convert(ids[i], depth + 1)});
      pair.push_back(convert(ids[i + 1], depth + 1));
      json.push_back(std::move(pair));
    }
    return json;
  }

  bool is_plain_key(NodeId id) const {
    return node(id).tag == Tag::text && node(id).text != "!" && is_utf8(node(id).text);
  }

  Json dict(const std::string& class_name, std::span<const NodeId> ids, int depth) {
    bool plain = true;
    for (std::size_t i = 0; i < ids.size() && plain; i += 2) plain = is_plain_key(ids[i]);
    if (!plain) {
      Json json = tagged("dict");
      if (!class_name.empty()) append(json, "class", class_name);
      append(json, "items", pairs(ids, depth));
      return json;
    }
    Json json = Json::object();
    std::unordered_map<std::string_view, std::size_t> places;
    for (std::size_t i = 0; i + 1 < ids.size(); i += 2) {
      const std::string_view key = node(ids[i]).text;
      charge(member_cost + key.size());
      Json value = convert(ids[i + 1], depth + 1);
      const auto [place, is_new] = places.emplace(key, places.size());
      if (is_new) {
        append(json, std::string(key), std::move(value));
      } else {
        auto& members = json.get_ref<Json::object_t&>();
        members.begin()[static_cast<std::ptrdiff_t>(place->second)].second = std::move(value);
      }
    }
    return json;
  }

  /// The name of what an object was made by: a global, or a class nested in one.
  std::string class_name(NodeId callable) {
    std::string suffix;
    for (int nesting = 0; nesting < 8; ++nesting) {
      const PickleNode made_by = node(callable);
      charge(made_by.text.size());
      if (made_by.tag == Tag::global) {
        return is_utf8(made_by.text) ? std::string(made_by.text) + suffix
                                     : "(a name that is not UTF-8)";
      }
      if (made_by.tag != Tag::object) break;
      const PickleObject outer = arena_.object(made_by);
      const std::span<const NodeId> arguments = node(outer.arguments).items;
      if (!is_getattr(outer)) break;
      charge(node(arguments[1]).text.size());
      suffix = "." + std::string(node(arguments[1]).text) + suffix;
      callable = arguments[0];
    }
    return "(not a global)";
  }

  bool is_getattr(const PickleObject& object) const {
    const std::span<const NodeId> arguments = node(object.arguments).items;
    return node(object.callable).text == "builtins.getattr" && arguments.size() == 2 &&
           is_plain_key(arguments[1]);
  }

  Json storage(const PickleNode& persistent) {
    const StorageId id = storage_id(arena_, persistent);
    charge(3 * member_cost + id.key.size() + id.class_name.size());
    Json json = tagged("storage");
    append(json, "class", text(id.class_name));
    append(json, "key", text(id.key));
    append(json, "numel", id.elements);
    return json;
  }

  Json tensor(const PickledTensor& tensor) {
    charge(5 * member_cost + tensor.storage.size());
    charge((tensor.shape.size() + tensor.strides.size()) * 2 * sizeof(Json));
    Json json = tagged("tensor");
    append(json, "dtype", name(tensor.dtype));
    append(json, "shape", tensor.shape);
    if (!tensor.strides.empty()) append(json, "strides", tensor.strides);
    append(json, "storage", text(tensor.storage));
    append(json, "offset", tensor.offset);
    return json;
  }

  /// Callables with a meaning of their own; nothing for all others.
  std::optional<Json> known(const PickleObject& object, int depth) {
    const std::string_view callable = node(object.callable).text;
    const std::span<const NodeId> arguments = node(object.arguments).items;
    if (callable == "collections.OrderedDict" || callable == "collections.Counter" ||
        callable == "collections.defaultdict") {
      return dict(std::string(callable), dict_pairs(object), depth);
    }
    if (const auto found = rebuilt_tensor(arena_, callable, arguments)) return tensor(*found);
    if (callable == "builtins.bytes" && arguments.empty()) return bytes("");
    if (arguments.empty()) return std::nullopt;
    const PickleNode first = node(arguments[0]);
    const bool sequence = first.tag == Tag::tuple || first.tag == Tag::list;
    if (callable == "torch.Size" && sequence) return items("tuple", first.items, depth);
    if ((callable == "builtins.set" || callable == "builtins.frozenset") && sequence) {
      return items("set", first.items, depth);
    }
    if (callable == "_codecs.encode" && first.tag == Tag::text) {
      charge(first.text.size());
      if (const auto latin1 = utf8_to_latin1(first.text)) return bytes(*latin1);
    }
    return std::nullopt;
  }

  /// Pairs set by SETITEMS, behind those of Python 2's OrderedDict([[k, v], ..]).
  std::vector<NodeId> dict_pairs(const PickleObject& object) {
    std::vector<NodeId> all;
    for (const NodeId argument : node(object.arguments).items) {
      for (const NodeId pair : node(argument).items) {
        charge(4 * sizeof(NodeId));
        const std::span<const NodeId> key_value = node(pair).items;
        if (key_value.size() == 2) all.insert(all.end(), key_value.begin(), key_value.end());
      }
    }
    charge(sizeof(NodeId) * object.pairs.size());
    all.insert(all.end(), object.pairs.begin(), object.pairs.end());
    return all;
  }

  Json object(const PickleObject& object, int depth) {
    if (node(object.callable).tag == Tag::global) {
      if (std::optional<Json> value = known(object, depth)) return std::move(*value);
    }
    charge(4 * member_cost);
    Json json = tagged("object");
    const std::span<const NodeId> arguments = node(object.arguments).items;
    if (is_getattr(object)) {
      append(json, "class", class_name(arguments[0]));
      append(json, "args", Json::array({convert(arguments[1], depth + 1)}));
      append(json, "by", "getattr");
      return json;
    }
    append(json, "class", class_name(object.callable));
    append(json, "args", list(arguments, depth));
    if (object.state != PickleObject::no_state)
      append(json, "state", convert(object.state, depth + 1));
    if (!object.pairs.empty()) append(json, "items", pairs(object.pairs, depth));
    if (!object.list.empty()) append(json, "list", list(object.list, depth));
    return json;
  }

  const PickleArena& arena_;
  PickleBudget& budget_;
};

}  // namespace

std::optional<PickleValue> try_read_pickle(std::span<const std::byte> bytes,
                                           const PickleLimits& limits) {
  try {
    if (bytes.size() > limits.bytes) bytes = bytes.first(limits.bytes);
    PickleBudget budget(limits);
    const PickleArena arena = run_pickle(bytes, budget);
    PickleValue result;
    result.storages = storages_of(arena, budget);
    result.value = Converter(arena, budget).convert(arena.top);
    result.bytes = arena.bytes;
    return result;
  } catch (const PickleTruncated&) {
    return std::nullopt;
  }
}

PickleValue read_pickle(std::span<const std::byte> bytes, const PickleLimits& limits) {
  if (auto value = try_read_pickle(bytes, limits)) return std::move(*value);
  throw Error(
      Kind::input,
      "pickle: it does not end within " + std::to_string(bytes.size()) + " bytes" +
          (bytes.size() > limits.bytes ? " (at most " + std::to_string(limits.bytes) + " are read)"
                                       : ""));
}

}  // namespace reshard::formats
