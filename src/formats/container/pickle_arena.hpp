#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace reshard::formats {

using NodeId = std::uint32_t;

/// One Python value; values refer to each other by number, so shared and cyclic ones cost nothing.
/// A view into the arena that holds it.
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
  std::int64_t integer = 0;       ///< boolean, integer; object: its number
  double real = 0;                ///< real
  std::string_view text;          ///< text, bytes, global "module.name"; big_integer: little-endian
  std::span<const NodeId> items;  ///< list, tuple, set; dict: key, value, ..; persistent: its id
};

/// callable(*arguments) with what BUILD, SETITEMS and APPENDS did to it. A view, too.
struct PickleObject {
  static constexpr NodeId no_state = UINT32_MAX;
  NodeId callable = 0;
  NodeId arguments = 0;  ///< a tuple
  NodeId state = no_state;
  std::span<const NodeId> pairs;  ///< key, value, ..
  std::span<const NodeId> list;
};

/// All values of a pickle, some 30 bytes each, for a checkpoint's index has millions. Texts of the
/// pickle itself are not copied: its bytes must outlive the arena.
class PickleArena {
 public:
  /// Bytes that these take at most: a node, an object, a list, and an item of a list or tuple.
  static constexpr std::uint64_t node_cost = 16, object_cost = 24, list_cost = 40, item_cost = 16;

  PickleArena() = default;
  PickleArena(const PickleArena&) = delete;  // nodes point into texts that it keeps
  PickleArena& operator=(const PickleArena&) = delete;
  PickleArena(PickleArena&&) = default;
  PickleArena& operator=(PickleArena&&) = default;

  NodeId top = 0;
  std::uint64_t bytes = 0;  ///< of the pickle

  [[nodiscard]] std::size_t size() const { return nodes_.size(); }
  [[nodiscard]] PickleNode node(NodeId id) const;
  /// The object that a node is, which must be one.
  [[nodiscard]] PickleObject object(const PickleNode& node) const;

  NodeId add_number(PickleNode::Tag tag, std::int64_t integer);
  NodeId add_real(double value);
  /// A text within the pickle.
  NodeId add_text(PickleNode::Tag tag, std::string_view text);
  /// A text that the arena keeps.
  NodeId add_made_text(PickleNode::Tag tag, std::string text);
  /// A tuple or a persistent id, which never change.
  NodeId add_fixed(PickleNode::Tag tag, std::span<const NodeId> items);
  /// A list, set or dict.
  NodeId add_growing(PickleNode::Tag tag, std::span<const NodeId> items);
  NodeId add_object(NodeId callable, NodeId arguments);

  /// Appends to a list, set or dict.
  void extend(NodeId id, std::span<const NodeId> items);
  void extend_pairs(NodeId object, std::span<const NodeId> items);
  void extend_list(NodeId object, std::span<const NodeId> items);
  void set_state(NodeId object, NodeId state);

 private:
  struct Stored {
    PickleNode::Tag tag = PickleNode::Tag::none;
    std::uint32_t size = 0;  ///< of a text or of fixed items
    union {
      std::int64_t integer = 0;
      double real;
      const char* text;
      std::uint64_t first;  ///< of fixed items; which of the growing lists
    };
  };
  static constexpr std::uint32_t no_list = UINT32_MAX;
  struct Made {
    NodeId callable = 0, arguments = 0, state = PickleObject::no_state;
    std::uint32_t pairs = no_list, list = no_list;  ///< of the growing lists
  };

  NodeId add(const Stored& stored);
  [[nodiscard]] std::span<const NodeId> grown(std::uint32_t number) const;
  void grow(std::uint32_t& number, std::span<const NodeId> items);

  std::deque<Stored> nodes_;   // deques, for what grows takes twice its memory
  std::vector<NodeId> fixed_;  ///< items of tuples, one behind another
  std::deque<std::vector<NodeId>> growing_;
  std::deque<Made> objects_;
  std::deque<std::string> texts_;
};

}  // namespace reshard::formats
