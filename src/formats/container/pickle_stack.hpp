#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/error.hpp"
#include "formats/container/pickle_arena.hpp"
#include "formats/container/pickle_machine.hpp"

namespace reshard::formats {

/// The stack of a pickle machine, which marks cut in parts, and its memo. What they keep is
/// charged; Error(input) for what is not there.
class PickleStack {
 public:
  explicit PickleStack(PickleBudget& budget) : budget_(budget) {}

  [[nodiscard]] bool empty() const { return stack_.empty() && marks_.empty(); }

  void push(NodeId id) {
    if (stack_.size() == highest_) {
      ++highest_;
      budget_.charge(4 * sizeof(NodeId));  // it is copied when it grows, and when it is gathered
    }
    stack_.push_back(id);
  }

  /// Of the part above the last mark.
  [[nodiscard]] NodeId top() const {
    if (stack_.size() <= floor()) throw missing();
    return stack_.back();
  }

  NodeId pop() {
    const NodeId id = top();
    stack_.pop_back();
    return id;
  }

  std::vector<NodeId> pop_count(std::size_t count) {
    if (stack_.size() - floor() < count) throw missing();
    const auto begin = stack_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<NodeId> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    return items;
  }

  void mark() {
    budget_.charge(2 * sizeof(std::size_t));
    marks_.push_back(stack_.size());
  }

  /// All above the last mark, which goes, too.
  std::vector<NodeId> pop_mark() {
    if (marks_.empty()) throw Error(Kind::input, "no mark on the stack");
    std::vector<NodeId> items = pop_count(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }

  /// The top, a value or a mark.
  void drop() {
    if (!marks_.empty() && stack_.size() == marks_.back()) {
      marks_.pop_back();
    } else {
      pop();
    }
  }

  /// Puts the top into the memo. Picklers count from 0: those are in a list, the rest in a map.
  void put(std::uint64_t index) {
    constexpr std::uint64_t far_cost = 256;
    const NodeId id = top();
    if (index < memo_.size()) {
      memo_[index] = id;
    } else if (index == memo_.size()) {
      budget_.charge(2 * sizeof(NodeId));
      memo_.push_back(id);
    } else if (far_memo_.insert_or_assign(index, id).second) {
      budget_.charge(far_cost);
    }
  }

  /// The same, numbered by what the memo holds.
  void put_next() { put(memo_.size() + far_memo_.size()); }

  /// Pushes what the memo holds.
  void get(std::uint64_t index) {
    if (index < memo_.size()) return push(memo_[index]);
    const auto found = far_memo_.find(index);
    if (found == far_memo_.end()) {
      throw Error(Kind::input, "memo " + std::to_string(index) + " is not set");
    }
    push(found->second);
  }

 private:
  static Error missing() { return {Kind::input, "the stack is empty"}; }
  [[nodiscard]] std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  PickleBudget& budget_;
  std::vector<NodeId> stack_;
  std::vector<std::size_t> marks_;
  std::size_t highest_ = 0;                             ///< that the stack was
  std::vector<NodeId> memo_;                            ///< numbered without a gap
  std::unordered_map<std::uint64_t, NodeId> far_memo_;  ///< all others
};

}  // namespace reshard::formats
