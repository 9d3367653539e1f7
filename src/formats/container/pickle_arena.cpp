#include "formats/container/pickle_arena.hpp"

#include <limits>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

using Tag = PickleNode::Tag;

std::uint32_t size_of(std::size_t size) {
  if (size > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(Kind::input, "a part of 4 GiB or more");
  }
  return static_cast<std::uint32_t>(size);
}

}  // namespace

PickleNode PickleArena::node(NodeId id) const {
  const Stored& stored = nodes_[id];
  PickleNode node;
  node.tag = stored.tag;
  switch (stored.tag) {
    case Tag::none:
      break;
    case Tag::boolean:
    case Tag::integer:
    case Tag::object:
      node.integer = stored.integer;
      break;
    case Tag::real:
      node.real = stored.real;
      break;
    case Tag::big_integer:
    case Tag::text:
    case Tag::bytes:
    case Tag::global:
      node.text = {stored.text, stored.size};
      break;
    case Tag::tuple:
    case Tag::persistent:
      node.items = std::span(fixed_).subspan(stored.first, stored.size);
      break;
    case Tag::list:
    case Tag::set:
    case Tag::dict:
      node.items = growing_[stored.first];
      break;
  }
  return node;
}

PickleObject PickleArena::object(const PickleNode& node) const {
  const Made& made = objects_[static_cast<std::size_t>(node.integer)];
  return {made.callable, made.arguments, made.state, grown(made.pairs), grown(made.list)};
}

NodeId PickleArena::add(const Stored& stored) {
  static_assert(sizeof(Stored) <= node_cost && sizeof(Made) <= object_cost);
  if (nodes_.size() >= no_list) throw Error(Kind::input, "more than 4 billion values");
  nodes_.push_back(stored);
  return static_cast<NodeId>(nodes_.size() - 1);
}

NodeId PickleArena::add_number(Tag tag, std::int64_t integer) {
  Stored stored;
  stored.tag = tag;
  stored.integer = integer;
  return add(stored);
}

NodeId PickleArena::add_real(double value) {
  Stored stored;
  stored.tag = Tag::real;
  stored.real = value;
  return add(stored);
}

NodeId PickleArena::add_text(Tag tag, std::string_view text) {
  Stored stored;
  stored.tag = tag;
  stored.size = size_of(text.size());
  stored.text = text.data();
  return add(stored);
}

NodeId PickleArena::add_made_text(Tag tag, std::string text) {
  texts_.push_back(std::move(text));
  return add_text(tag, texts_.back());
}

NodeId PickleArena::add_fixed(Tag tag, std::span<const NodeId> items) {
  Stored stored;
  stored.tag = tag;
  stored.size = size_of(items.size());
  stored.first = fixed_.size();
  fixed_.insert(fixed_.end(), items.begin(), items.end());
  return add(stored);
}

NodeId PickleArena::add_growing(Tag tag, std::span<const NodeId> items) {
  Stored stored;
  stored.tag = tag;
  stored.first = growing_.size();
  growing_.emplace_back(items.begin(), items.end());
  return add(stored);
}

NodeId PickleArena::add_object(NodeId callable, NodeId arguments) {
  objects_.push_back({callable, arguments});
  return add_number(Tag::object, static_cast<std::int64_t>(objects_.size() - 1));
}

void PickleArena::extend(NodeId id, std::span<const NodeId> items) {
  std::vector<NodeId>& list = growing_[nodes_[id].first];
  list.insert(list.end(), items.begin(), items.end());
}

std::span<const NodeId> PickleArena::grown(std::uint32_t number) const {
  if (number == no_list) return {};
  return growing_[number];
}

void PickleArena::grow(std::uint32_t& number, std::span<const NodeId> items) {
  if (number == no_list) {
    number = size_of(growing_.size());
    growing_.emplace_back();
  }
  growing_[number].insert(growing_[number].end(), items.begin(), items.end());
}

void PickleArena::extend_pairs(NodeId object, std::span<const NodeId> items) {
  grow(objects_[static_cast<std::size_t>(nodes_[object].integer)].pairs, items);
}

void PickleArena::extend_list(NodeId object, std::span<const NodeId> items) {
  grow(objects_[static_cast<std::size_t>(nodes_[object].integer)].list, items);
}

void PickleArena::set_state(NodeId object, NodeId state) {
  objects_[static_cast<std::size_t>(nodes_[object].integer)].state = state;
}

}  // namespace reshard::formats
