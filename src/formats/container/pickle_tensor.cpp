#include "formats/container/pickle_tensor.hpp"

#include <array>
#include <utility>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

using Tag = PickleNode::Tag;

constexpr std::array<std::pair<std::string_view, Dtype>, 12> storage_classes = {{
    {"DoubleStorage", Dtype::f64},
    {"FloatStorage", Dtype::f32},
    {"HalfStorage", Dtype::f16},
    {"BFloat16Storage", Dtype::bf16},
    {"BoolStorage", Dtype::boolean},
    {"ComplexFloatStorage", Dtype::c64},
    {"ComplexDoubleStorage", Dtype::c128},
    {"ByteStorage", Dtype::u8},
    {"CharStorage", Dtype::i8},
    {"ShortStorage", Dtype::i16},
    {"IntStorage", Dtype::i32},
    {"LongStorage", Dtype::i64},
}};

/// Wrappers of wrappers of a tensor; torch writes at most two.
constexpr int max_wrappers = 4;
constexpr std::uint64_t storage_cost = 128;
constexpr std::size_t max_rank = 64;      // torch's own limit
constexpr std::size_t max_metadata = 64;  // two flags are known

Error bad(const std::string& text) {
  return {Kind::input, "tensor in the pickle: " + text};
}

std::uint64_t natural(const PickleNode& node, const char* what) {
  if (node.tag != Tag::integer || node.integer < 0) {
    throw bad(std::string(what) + " is no number from 0");
  }
  return static_cast<std::uint64_t>(node.integer);
}

bool is_row_major(const Shape& shape, const std::vector<std::uint64_t>& strides) {
  if (elements(shape) == 0) return true;
  const std::vector<std::uint64_t> dense = row_major(shape);
  for (std::size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] > 1 && strides[d] != dense[d]) return false;
  }
  return true;
}

/// Elements from the storage's begin to one behind the tensor's last element.
std::uint64_t extent(const PickledTensor& tensor, const std::vector<std::uint64_t>& strides) {
  if (elements(tensor.shape) == 0) return tensor.offset;
  std::uint64_t last = tensor.offset;
  for (std::size_t d = 0; d < tensor.shape.size(); ++d) {
    last = checked_sum(last, checked_product(tensor.shape[d] - 1, strides[d]));
  }
  return checked_sum(last, 1);
}

/// metadata {"conj": bool, "neg": bool}: torch would flip the numbers on loading.
void refuse_flips(const PickleArena& arena, NodeId metadata) {
  const std::span<const NodeId> items = arena.node(metadata).items;
  if (items.size() > max_metadata) throw bad("its metadata is too long");
  for (std::size_t i = 1; i < items.size(); i += 2) {
    const PickleNode flag = arena.node(items[i]);
    if (flag.tag == Tag::boolean && flag.integer != 0) {
      throw bad("it is a lazy view (" + std::string(arena.node(items[i - 1]).text) +
                "), which is not supported");
    }
  }
}

Dtype dtype_of_global(const PickleNode& node) {
  constexpr std::string_view prefix = "torch.";
  const std::string_view name = node.text;
  if (node.tag == Tag::global && name.starts_with(prefix)) {
    if (const auto dtype = dtype_of_torch_name(name.substr(prefix.size()))) return *dtype;
  }
  throw bad("dtype " + std::string(node.text) + " is not supported");
}

/// _rebuild_tensor(storage, offset, size, stride), _v2(.., requires_grad, hooks [, metadata]) and
/// _v3(.., requires_grad, hooks, dtype [, metadata]).
PickledTensor rebuild(const PickleArena& arena, std::span<const NodeId> arguments, int version) {
  const std::size_t required = version == 1 ? 4 : version == 2 ? 6 : 7;
  if (arguments.size() < required || arguments.size() > required + 1) {
    throw bad("made of " + std::to_string(arguments.size()) + " arguments");
  }
  const PickleNode persistent = arena.node(arguments[0]);
  if (persistent.tag != Tag::persistent) throw bad("it has no storage");
  const StorageId storage = storage_id(arena, persistent);
  if (version == 2 && arguments.size() == 7) refuse_flips(arena, arguments[6]);
  if (version == 3 && arguments.size() == 8) refuse_flips(arena, arguments[7]);
  if (version < 3 && !storage.dtype)
    throw bad(std::string(storage.class_name) + " is not supported");

  PickledTensor tensor;
  tensor.dtype = version == 3 ? dtype_of_global(arena.node(arguments[6])) : *storage.dtype;
  tensor.storage = storage.key;
  tensor.offset = natural(arena.node(arguments[1]), "its storage offset");
  tensor.shape = naturals(arena, arguments[2], "its size");
  std::vector<std::uint64_t> strides = naturals(arena, arguments[3], "its stride");
  if (strides.size() != tensor.shape.size()) {
    throw bad("size " + to_string(tensor.shape) + " with stride " + to_string(strides));
  }
  const std::uint64_t item = storage.dtype ? bytes(*storage.dtype) : 1;
  const std::uint64_t room = storage.view_elements * item / bytes(tensor.dtype);
  if (extent(tensor, strides) > room) {
    throw bad("size " + to_string(tensor.shape) + ", stride " + to_string(strides) +
              " at element " + std::to_string(tensor.offset) + " do not fit storage \"" +
              tensor.storage + "\" of " + std::to_string(room) + " elements");
  }
  if (storage.view_offset * item % bytes(tensor.dtype) != 0) throw bad("it is not aligned");
  tensor.offset += storage.view_offset * item / bytes(tensor.dtype);
  if (!is_row_major(tensor.shape, strides)) tensor.strides = std::move(strides);
  return tensor;
}

}  // namespace

std::vector<std::uint64_t> naturals(const PickleArena& arena, NodeId id, const char* what) {
  // torch.Size is pickled as a call with the tuple
  PickleNode node = arena.node(id);
  if (node.tag == Tag::object) {
    const std::span<const NodeId> arguments = arena.node(arena.object(node).arguments).items;
    if (arguments.size() == 1) node = arena.node(arguments[0]);
  }
  if (node.tag != Tag::tuple && node.tag != Tag::list) {
    throw bad(std::string(what) + " is no tuple");
  }
  if (node.items.size() > max_rank) throw bad(std::string(what) + " has too many dimensions");
  std::vector<std::uint64_t> values;
  for (const NodeId item : node.items) values.push_back(natural(arena.node(item), what));
  return values;
}

std::optional<Dtype> dtype_of_storage(std::string_view class_name) {
  for (const std::string_view module : {"torch.cuda.", "torch."}) {
    if (!class_name.starts_with(module)) continue;
    for (const auto& [name, dtype] : storage_classes) {
      if (class_name.substr(module.size()) == name) return dtype;
    }
  }
  return std::nullopt;
}

std::string_view storage_of_dtype(Dtype dtype) {
  for (const auto& [name, candidate] : storage_classes) {
    if (candidate == dtype) return name;
  }
  return {};
}

StorageId storage_id(const PickleArena& arena, const PickleNode& persistent) {
  const PickleNode id = arena.node(persistent.items[0]);
  const auto part = [&](std::size_t i) { return arena.node(id.items[i]); };
  if (id.tag != Tag::tuple || id.items.size() < 5 || id.items.size() > 6 ||
      part(0).text != "storage" || part(1).tag != Tag::global || part(2).tag != Tag::text) {
    throw Error(Kind::input, "pickle: a persistent id that names no storage");
  }
  StorageId storage;
  storage.class_name = part(1).text;
  storage.dtype = dtype_of_storage(storage.class_name);
  storage.key = part(2).text;
  storage.elements = natural(part(4), "the size of its storage");
  checked_product(storage.elements, storage.dtype ? bytes(*storage.dtype) : 1);
  storage.view_elements = storage.elements;
  if (id.items.size() == 6 && part(5).tag != Tag::none) {
    const std::span<const NodeId> view = part(5).items;
    if (part(5).tag != Tag::tuple || view.size() != 3)
      throw bad("a storage view that is no triple");
    storage.view_offset = natural(arena.node(view[1]), "its storage view's offset");
    storage.view_elements = natural(arena.node(view[2]), "its storage view's size");
    if (checked_sum(storage.view_offset, storage.view_elements) > storage.elements) {
      throw bad("a view of storage \"" + std::string(storage.key) + "\" lies outside it");
    }
  }
  return storage;
}

std::map<std::string, StorageUse> storages_of(const PickleArena& arena, PickleBudget& budget) {
  std::map<std::string, StorageUse> storages;
  for (NodeId i = 0; i < arena.size(); ++i) {
    const PickleNode node = arena.node(i);
    if (node.tag != Tag::persistent) continue;
    const StorageId id = storage_id(arena, node);
    budget.charge(storage_cost + id.key.size());  // with the time to copy and to find it
    const StorageUse use{id.dtype, id.elements, id.elements * (id.dtype ? bytes(*id.dtype) : 1)};
    const auto [known, is_new] = storages.emplace(id.key, use);
    if (!is_new && known->second.bytes != use.bytes) {
      throw Error(Kind::input, "pickle: storage \"" + known->first + "\" has " +
                                   std::to_string(known->second.bytes) + " bytes and also " +
                                   std::to_string(use.bytes));
    }
  }
  return storages;
}

std::optional<PickledTensor> rebuilt_tensor(const PickleArena& arena, std::string_view callable,
                                            std::span<const NodeId> arguments) {
  constexpr std::string_view utils = "torch._utils.";
  std::string_view name = callable;
  std::span<const NodeId> values = arguments;
  for (int wrapper = 0; wrapper < max_wrappers; ++wrapper) {
    if (name == "torch._tensor._rebuild_from_type_v2" && values.size() == 4) {
      // (function, type, arguments, attributes)
      name = arena.node(values[0]).text;
      values = arena.node(values[2]).items;
      continue;
    }
    if (!name.starts_with(utils)) return std::nullopt;
    const std::string_view function = name.substr(utils.size());
    if (function == "_rebuild_tensor") return rebuild(arena, values, 1);
    if (function == "_rebuild_tensor_v2") return rebuild(arena, values, 2);
    if (function == "_rebuild_tensor_v3") return rebuild(arena, values, 3);
    if (!function.starts_with("_rebuild_parameter") || values.empty()) return std::nullopt;
    const PickleNode inner = arena.node(values[0]);
    if (inner.tag != Tag::object) return std::nullopt;
    const PickleObject object = arena.object(inner);
    name = arena.node(object.callable).text;
    values = arena.node(object.arguments).items;
  }
  return std::nullopt;
}

}  // namespace reshard::formats
