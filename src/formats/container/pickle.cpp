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
constexpr std::uint64_t text_bytes_per_node = 64;

Json tagged(const char* tag) {
  return Json{{"!", tag}};
}

/// Adds a key that is known to be new, without the search that Json's [] makes.
void append(Json& object, std::string key, Json value) {
  object.get_ref<Json::object_t&>().emplace_back(std::move(key), std::move(value));
}

/// Arena -> JSON. Shared nodes are written out each time, hence the count.
class Converter {
 public:
  Converter(const PickleArena& arena, const PickleLimits& limits)
      : arena_(arena), budget_(limits.nodes), limit_(limits.nodes) {}

  Json convert(NodeId id, int depth = 0) {
    if (depth > max_depth) throw Error(Kind::input, "pickle: nested deeper than 200 levels");
    const PickleNode node = arena_.node(id);
    charge(node.text.size());
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
  void charge(std::uint64_t text_bytes) {
    const std::uint64_t cost = 1 + text_bytes / text_bytes_per_node;
    if (cost > budget_) {
      throw Error(Kind::input,
                  "pickle: its value has more than " + std::to_string(limit_) + " parts");
    }
    budget_ -= cost;
  }

  PickleNode node(NodeId id) const { return arena_.node(id); }

  Json big_integer(std::string_view little_endian) {
    charge(little_endian.size() * text_bytes_per_node);
    if (little_endian.size() == 9 && little_endian.back() == 0) {
      std::uint64_t value = 0;
      for (std::size_t i = 8; i-- > 0;) {
        value = value << 8 | static_cast<unsigned char>(little_endian[i]);
      }
      return value;
    }
    Json json = tagged("int");
    json["value"] = decimal_of(little_endian);
    return json;
  }

  static Json real(double value) {
    if (std::isfinite(value)) return value;
    Json json = tagged("float");
    json["value"] = std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
    return json;
  }

  static Json text(std::string_view value) {
    if (is_utf8(value)) return value;
    Json json = tagged("str");
    json["hex"] = hex_of(value);
    return json;
  }

  static Json bytes(std::string_view value) {
    Json json = tagged("bytes");
    if (value.size() > max_hex_bytes) {
      json["size"] = value.size();
    } else {
      json["hex"] = hex_of(value);
    }
    return json;
  }

  static Json global(std::string_view name) {
    Json json = tagged("global");
    json["name"] = text(name);
    return json;
  }

  Json list(std::span<const NodeId> ids, int depth) {
    Json json = Json::array();
    for (const NodeId id : ids) json.push_back(convert(id, depth + 1));
    return json;
  }

  Json items(const char* tag, std::span<const NodeId> ids, int depth) {
    Json json = tagged(tag);
    json["items"] = list(ids, depth);
    return json;
  }

  Json pairs(std::span<const NodeId> ids, int depth) {
    Json json = Json::array();
    for (std::size_t i = 0; i + 1 < ids.size(); i += 2) {
      charge(0);
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
      if (!class_name.empty()) json["class"] = class_name;
      json["items"] = pairs(ids, depth);
      return json;
    }
    Json json = Json::object();
    std::unordered_map<std::string_view, std::size_t> places;
    for (std::size_t i = 0; i + 1 < ids.size(); i += 2) {
      const std::string_view key = node(ids[i]).text;
      charge(key.size());
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
    charge(id.key.size() + id.class_name.size());
    Json json = tagged("storage");
    json["class"] = text(id.class_name);
    json["key"] = text(id.key);
    json["numel"] = id.elements;
    return json;
  }

  Json tensor(const PickledTensor& tensor) {
    for (std::size_t d = 0; d <= 2 * tensor.shape.size(); ++d) charge(tensor.storage.size());
    Json json = tagged("tensor");
    json["dtype"] = name(tensor.dtype);
    json["shape"] = tensor.shape;
    if (!tensor.strides.empty()) json["strides"] = tensor.strides;
    json["storage"] = text(tensor.storage);
    json["offset"] = tensor.offset;
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
        charge(0);
        const std::span<const NodeId> key_value = node(pair).items;
        if (key_value.size() == 2) all.insert(all.end(), key_value.begin(), key_value.end());
      }
    }
    all.insert(all.end(), object.pairs.begin(), object.pairs.end());
    return all;
  }

  Json object(const PickleObject& object, int depth) {
    if (node(object.callable).tag == Tag::global) {
      if (std::optional<Json> value = known(object, depth)) return std::move(*value);
    }
    Json json = tagged("object");
    const std::span<const NodeId> arguments = node(object.arguments).items;
    if (is_getattr(object)) {
      json["class"] = class_name(arguments[0]);
      json["args"] = Json::array({convert(arguments[1], depth + 1)});
      json["by"] = "getattr";
      return json;
    }
    json["class"] = class_name(object.callable);
    json["args"] = list(arguments, depth);
    if (object.state != PickleObject::no_state) json["state"] = convert(object.state, depth + 1);
    if (!object.pairs.empty()) json["items"] = pairs(object.pairs, depth);
    if (!object.list.empty()) json["list"] = list(object.list, depth);
    return json;
  }

  const PickleArena& arena_;
  std::uint64_t budget_;
  std::uint64_t limit_;
};

}  // namespace

std::optional<PickleValue> try_read_pickle(std::span<const std::byte> bytes,
                                           const PickleLimits& limits) {
  try {
    const PickleArena arena = run_pickle(bytes, limits);
    PickleValue result;
    result.storages = storages_of(arena);
    result.value = Converter(arena, limits).convert(arena.top);
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
