#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"

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
  std::int64_t integer = 0;  ///< boolean, integer; object: index into PickleArena::objects
  double real = 0;           ///< real
  /// text, bytes, global "module.name"; big_integer: little-endian. In the pickle's own bytes where
  /// it stands there as it is, else in PickleArena::texts.
  std::string_view text;
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

/// All values of a pickle, whose bytes must outlive them. Nothing moves when more come.
struct PickleArena {
  std::deque<PickleNode> nodes;
  std::deque<PickleObject> objects;
  std::deque<std::string> texts;
  NodeId top = 0;
  std::uint64_t bytes = 0;  ///< of the pickle
};

/// Counts the memory that a pickle takes, from its bytes to its JSON; Error(input) beyond the
/// limit.
class PickleBudget {
 public:
  explicit PickleBudget(const PickleLimits& limits) : parts_(limits.nodes) {}
  void charge(std::uint64_t bytes) {
    spent_ += bytes;
    if (spent_ > parts_ * 64) {
      throw Error(Kind::input,
                  "pickle: its value has more than " + std::to_string(parts_) + " parts");
    }
  }

 private:
  std::uint64_t parts_, spent_ = 0;
};

/// Thrown by run_pickle when the bytes end before the pickle.
struct PickleTruncated {};

/// Runs the stack machine of containers.md section 2.8 over one pickle; every length and index is
/// checked, and what is kept is charged. Error(input) with the byte offset; PickleTruncated.
PickleArena run_pickle(std::span<const std::byte> bytes, PickleBudget& budget);

}  // namespace reshard::formats
