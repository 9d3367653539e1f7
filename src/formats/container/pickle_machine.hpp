#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/container/pickle.hpp"

namespace reshard::formats {

using NodeId = std::uint32_t;

/// One Python value; nodes refer to each other by number, so shared and cyclic values cost nothing.
struct PickleNode {
  enum class Tag : std::uint8_t {
    none,
    boolean,
    integer,
    big_integer,
    real,
    text,
    bytes,
    list,
    tuple,
    set,
    dict,
    global,
    object,
    persistent,
  };
  Tag tag = Tag::none;
  std::int64_t integer = 0;   ///< boolean, integer; object: index into PickleArena::objects
  double real = 0;            ///< real
  std::string text;           ///< text, bytes, global "module.name"; big_integer: little-endian
  std::vector<NodeId> items;  ///< list, tuple, set; dict: key, value, ..; persistent: its id
};

/// callable(*arguments) with what BUILD, SETITEMS and APPENDS did to it.
struct PickleObject {
  static constexpr NodeId no_state = UINT32_MAX;
  NodeId callable = 0;
  NodeId arguments = 0;  ///< a tuple
  NodeId state = no_state;
  std::vector<NodeId> pairs;  ///< key, value, ..
  std::vector<NodeId> list;
};

/// All values of a pickle.
struct PickleArena {
  std::vector<PickleNode> nodes;
  std::vector<PickleObject> objects;
  NodeId top = 0;
  std::uint64_t bytes = 0;  ///< of the pickle
};

/// Thrown by run_pickle when the bytes end before the pickle.
struct PickleTruncated {};

/// Runs the stack machine of containers.md section 2.8 over one pickle; every length and index is
/// checked. Error(input) with the byte offset; PickleTruncated.
PickleArena run_pickle(std::span<const std::byte> bytes, const PickleLimits& limits);

}  // namespace reshard::formats
