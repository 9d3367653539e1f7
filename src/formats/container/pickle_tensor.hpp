#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.hpp"
#include "core/shape.hpp"
#include "formats/container/pickle_machine.hpp"

// How torch pickles tensors (containers.md section 2.4): a call of torch._utils._rebuild_* on a
// storage, which is a persistent id ('storage', class, key, location, numel [, view]).

namespace reshard::formats {

/// A storage as a persistent id names it.
struct StorageId {
  std::string_view class_name, key;
  std::optional<Dtype> dtype;     ///< none: untyped, or of a class that we cannot read
  std::uint64_t elements = 0;     ///< of the whole storage; bytes when untyped
  std::uint64_t view_offset = 0;  ///< legacy views of storages: first element
  std::uint64_t view_elements = 0;
};

/// A tensor over a storage, bounds checked against the storage's size.
struct PickledTensor {
  Dtype dtype = Dtype::f32;
  Shape shape;
  std::vector<std::uint64_t> strides;  ///< empty = row-major
  std::string storage;
  std::uint64_t offset = 0;  ///< elements of dtype from the begin of the storage
};

/// "torch.BFloat16Storage" -> bf16; nothing for untyped, quantized and unknown classes.
std::optional<Dtype> dtype_of_storage(std::string_view class_name);
/// The class to write for a dtype; empty where torch has none (_rebuild_tensor_v3 is used).
std::string_view storage_of_dtype(Dtype dtype);

/// The numbers of a tuple, a list or a torch.Size; Error(input) naming `what` when it is something
/// else.
std::vector<std::uint64_t> naturals(const PickleArena& arena, NodeId id, const char* what);
/// Reads a persistent id; Error(input) when it names no storage.
StorageId storage_id(const PickleArena& arena, const PickleNode& persistent);
/// Every storage of a pickle by key; Error(input) when two ids disagree about one's size.
std::map<std::string, StorageUse> storages_of(const PickleArena& arena, PickleBudget& budget);
/// The tensor that callable(*arguments) makes, nothing when callable makes no tensor that we know;
/// Error(input) naming what is wrong with it.
std::optional<PickledTensor> rebuilt_tensor(const PickleArena& arena, std::string_view callable,
                                            std::span<const NodeId> arguments);

}  // namespace reshard::formats
