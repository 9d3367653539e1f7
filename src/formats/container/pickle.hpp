#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "core/dtype.hpp"
#include "core/json.hpp"

// Python pickles, protocols 0 to 5, read as data: nothing is ever called or imported
// (containers.md sections 2.4, 2.8). Values are JSON, and what JSON lacks is an object whose first
// key is "!":
//   None, bool, int of 64 bits, finite float, str, list, dict with only str keys other than "!"
//                     the JSON value; OrderedDict, defaultdict and Counter count as dict
//   any other dict    {"!":"dict", "class":"collections.OrderedDict" if not plain,
//   "items":[[k,v]..]} tuple, torch.Size {"!":"tuple", "items":[..]} set, frozenset    {"!":"set",
//   "items":[..]} larger int        {"!":"int", "value":"123.."} nan, inf, -inf    {"!":"float",
//   "value":"nan"} str, not UTF-8    {"!":"str", "hex":".."} bytes             {"!":"bytes",
//   "hex":".."}, above 4 KiB {"!":"bytes", "size":n} global            {"!":"global",
//   "name":"torch.bfloat16"} object            {"!":"object", "class":"argparse.Namespace",
//   "args":[..], "state":..} and, if
//                     it has any, "items":[[k,v]..] or "list":[..]; an enum member is its class and
//                     args [value], or args [name] and "by":"getattr" where it was pickled by name
//   tensor            {"!":"tensor", "dtype":"BF16", "shape":[..], "strides":[..] unless row-major,
//                     "storage":"key", "offset":elements}; Parameter and subclasses count as tensor
//   storage alone     {"!":"storage", "class":"torch.FloatStorage", "key":"0", "numel":n}

namespace reshard::formats {

/// What a pickle may cost; beyond it is Error(input).
struct PickleLimits {
  std::uint64_t bytes = std::uint64_t{128} << 20;
  /// Parts of 64 bytes of memory, of the pickle itself, what it is read into and the JSON together:
  /// room for 50,000 tensors.
  std::uint64_t nodes = 2'000'000;
};

/// A storage that a pickle's persistent ids name.
struct StorageUse {
  std::optional<Dtype> dtype;  ///< none: bytes without a type (UntypedStorage)
  std::uint64_t elements = 0;  ///< bytes when there is no dtype
  std::uint64_t bytes = 0;     ///< size of its record
};

/// The value of one pickle.
struct PickleValue {
  Json value;
  std::map<std::string, StorageUse> storages;  ///< those with tensors, by key
  std::uint64_t bytes = 0;                     ///< of the pickle, its STOP included
};

/// Reads the pickle at the begin of bytes; Error(input) with the byte offset when it is malformed,
/// ends early, exceeds the limits or has a tensor that we cannot read.
PickleValue read_pickle(std::span<const std::byte> bytes, const PickleLimits& limits = {});

/// The same, but nothing when the bytes end before the pickle does.
std::optional<PickleValue> try_read_pickle(std::span<const std::byte> bytes,
                                           const PickleLimits& limits = {});

}  // namespace reshard::formats
