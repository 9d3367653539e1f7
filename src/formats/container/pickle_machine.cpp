#include "formats/container/pickle_machine.hpp"

#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "formats/container/pickle_input.hpp"
#include "formats/container/pickle_stack.hpp"
#include "formats/container/pickle_text.hpp"

namespace reshard::formats {
namespace {

using Tag = PickleNode::Tag;

/// The first nodes, which are made once; behind them the numbers from 0 to 255.
constexpr NodeId none_id = 0, true_id = 1, false_id = 2, empty_tuple_id = 3, zero_id = 4;
constexpr std::uint32_t small_numbers = 256;
/// Far beyond any hash or seed, and cheap to print.
constexpr std::uint64_t max_integer_bytes = 128;
constexpr unsigned char highest_protocol = 5;
/// Bytes that an opcode counts, for one that keeps nothing takes time, too.
constexpr std::uint64_t opcode_cost = 8;

Error malformed(const std::string& text) {
  return {Kind::input, text};
}

/// Python 2's names of two modules, which protocol 2 uses, become those of Python 3.
std::string global_name(std::string_view module, std::string_view name) {
  if (module == "__builtin__") module = "builtins";
  if (module == "copy_reg") module = "copyreg";
  return std::string(module) + "." + std::string(name);
}

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, PickleBudget& budget)
      : input_(bytes), budget_(budget), stack_(budget) {
    budget_.charge(bytes.size());
    arena_.add_number(Tag::none, 0);
    arena_.add_number(Tag::boolean, 1);
    arena_.add_number(Tag::boolean, 0);
    arena_.add_fixed(Tag::tuple, {});
    for (std::int64_t n = 0; n < small_numbers; ++n) arena_.add_number(Tag::integer, n);
  }

  PickleArena run() {
    for (;;) {
      const std::uint64_t at = input_.position();
      const auto opcode = static_cast<unsigned char>(input_.number(1));
      try {
        budget_.charge(opcode_cost);
        if (opcode == '.') return finish();
        if (!scalar(opcode) && !text(opcode) && !container(opcode) && !stack_or_memo(opcode) &&
            !object(opcode)) {
          throw malformed("not an opcode that checkpoints use");
        }
      } catch (const Error& error) {
        char where[64];
        std::snprintf(where, sizeof where, "pickle: opcode 0x%02x at byte %llu", opcode,
                      static_cast<unsigned long long>(at));
        throw error.in(where);
      }
    }
  }

 private:
  PickleArena finish() {
    arena_.top = stack_.pop();
    if (!stack_.empty()) throw malformed("values are left on the stack");
    arena_.bytes = input_.position();
    return std::move(arena_);
  }

  /// Before a node is made.
  PickleArena& room() {
    budget_.charge(PickleArena::node_cost);
    return arena_;
  }

  void charge_items(std::size_t items) { budget_.charge(PickleArena::item_cost * items); }

  void push(NodeId id) { stack_.push(id); }
  void push_integer(std::int64_t value) {
    const bool is_small = value >= 0 && value < small_numbers;
    push(is_small ? zero_id + static_cast<NodeId>(value) : room().add_number(Tag::integer, value));
  }
  void push_real(double value) { push(room().add_real(value)); }
  /// A text that does not stand in the pickle as it is.
  void push_made(Tag tag, std::string value) {
    budget_.charge(sizeof(std::string) + value.size());
    push(room().add_made_text(tag, std::move(value)));
  }
  void push_fixed(Tag tag, const std::vector<NodeId>& items) {
    charge_items(items.size());
    push(room().add_fixed(tag, items));
  }
  void push_growing(Tag tag, const std::vector<NodeId>& items) {
    budget_.charge(PickleArena::list_cost);
    charge_items(items.size());
    push(room().add_growing(tag, items));
  }

  PickleNode node(NodeId id) const { return arena_.node(id); }

  void push_long(std::string_view little_endian) {
    if (little_endian.size() > max_integer_bytes) throw malformed("an integer of too many bytes");
    little_endian = shortest(little_endian);
    if (const auto value = small_integer(little_endian)) return push_integer(*value);
    push_made(Tag::big_integer, std::string(little_endian));
  }

  /// INT and LONG are lines of decimal text; "00" and "01" are protocol 0's booleans.
  void push_decimal(std::string_view line, bool booleans) {
    if (booleans && (line == "00" || line == "01")) return push(line == "01" ? true_id : false_id);
    if (line.ends_with('L')) line.remove_suffix(1);
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
    if (error == std::errc{} && end == line.data() + line.size()) return push_integer(value);
    push_long(integer_bytes(line));
  }

  bool scalar(unsigned char opcode) {
    switch (opcode) {
      case 'N':
        push(none_id);
        return true;
      case 0x88:
        push(true_id);
        return true;
      case 0x89:
        push(false_id);
        return true;
      case 'J':
        push_integer(input_.int32());
        return true;
      case 'K':
        push_integer(static_cast<std::int64_t>(input_.number(1)));
        return true;
      case 'M':
        push_integer(static_cast<std::int64_t>(input_.number(2)));
        return true;
      case 0x8a:
        push_long(input_.take(input_.number(1)));
        return true;
      case 0x8b:
        push_long(input_.take(input_.length32()));
        return true;
      case 'G':
        push_real(input_.big_endian_double());
        return true;
      case 'I':
        push_decimal(input_.line(), true);
        return true;
      case 'L':
        push_decimal(input_.line(), false);
        return true;
      case 'F':
        push_real(real_of_text(input_.line()));
        return true;
      default:
        return false;
    }
  }

  void push_taken(Tag tag, std::uint64_t length) {
    push(room().add_text(tag, input_.take(length)));
  }

  bool text(unsigned char opcode) {
    switch (opcode) {
      case 'X':
        push_taken(Tag::text, input_.number(4));
        return true;
      case 0x8c:
        push_taken(Tag::text, input_.number(1));
        return true;
      case 0x8d:
        push_taken(Tag::text, input_.number(8));
        return true;
      case 'V':
        push_made(Tag::text, unescape_unicode(input_.line()));
        return true;
      case 'T':
        push_taken(Tag::text, input_.length32());
        return true;
      case 'U':
        push_taken(Tag::text, input_.number(1));
        return true;
      case 'S':
        push_made(Tag::text, unescape_string(input_.line()));
        return true;
      case 'B':
        push_taken(Tag::bytes, input_.number(4));
        return true;
      case 'C':
        push_taken(Tag::bytes, input_.number(1));
        return true;
      case 0x8e:
        push_taken(Tag::bytes, input_.number(8));
        return true;
      case 0x96:
        push_taken(Tag::bytes, input_.number(8));
        return true;
      default:
        return false;
    }
  }

  /// SETITEMS on a dict, or on an object that may be one.
  void set_items(const std::vector<NodeId>& items) {
    const NodeId target = stack_.top();
    charge_items(items.size());
    if (node(target).tag == Tag::dict) return arena_.extend(target, items);
    budget_.charge(PickleArena::list_cost);
    if (node(target).tag == Tag::object) return arena_.extend_pairs(target, items);
    throw malformed("items are set in something that is no dict");
  }

  void append_items(const std::vector<NodeId>& items) {
    const NodeId target = stack_.top();
    charge_items(items.size());
    if (node(target).tag == Tag::list) return arena_.extend(target, items);
    budget_.charge(PickleArena::list_cost);
    if (node(target).tag == Tag::object) return arena_.extend_list(target, items);
    throw malformed("items are appended to something that is no list");
  }

  static std::vector<NodeId> even(std::vector<NodeId> items) {
    if (items.size() % 2 != 0) throw malformed("a key without a value");
    return items;
  }

  bool container(unsigned char opcode) {
    switch (opcode) {
      case ')':
        push(empty_tuple_id);
        return true;
      case 't':
        push_fixed(Tag::tuple, stack_.pop_mark());
        return true;
      case 0x85:
      case 0x86:
      case 0x87:
        push_fixed(Tag::tuple, stack_.pop_count(opcode - 0x84u));
        return true;
      case ']':
        push_growing(Tag::list, {});
        return true;
      case 'l':
        push_growing(Tag::list, stack_.pop_mark());
        return true;
      case '}':
        push_growing(Tag::dict, {});
        return true;
      case 'd':
        push_growing(Tag::dict, even(stack_.pop_mark()));
        return true;
      case 0x8f:
        push_growing(Tag::set, {});
        return true;
      case 0x91:
        push_growing(Tag::set, stack_.pop_mark());
        return true;
      case 'a':
      case 'e':
        append_items(opcode == 'a' ? stack_.pop_count(1) : stack_.pop_mark());
        return true;
      case 's':
      case 'u':
        set_items(opcode == 's' ? stack_.pop_count(2) : even(stack_.pop_mark()));
        return true;
      case 0x90: {
        const std::vector<NodeId> items = stack_.pop_mark();
        if (node(stack_.top()).tag != Tag::set) throw malformed("items are added to no set");
        charge_items(items.size());
        arena_.extend(stack_.top(), items);
        return true;
      }
      default:
        return false;
    }
  }

  std::uint64_t memo_index(std::string_view line) const {
    std::uint64_t index = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), index);
    if (error != std::errc{} || end != line.data() + line.size()) {
      throw malformed("a memo index that is no number");
    }
    return index;
  }

  bool stack_or_memo(unsigned char opcode) {
    switch (opcode) {
      case 0x80:
        if (input_.number(1) > highest_protocol) throw malformed("protocol above 5");
        return true;
      case 0x95:
        input_.number(8);
        return true;
      case '(':
        stack_.mark();
        return true;
      case '1':
        stack_.pop_mark();
        return true;
      case '2':
        push(stack_.top());
        return true;
      case '0':
        stack_.drop();
        return true;
      case 'q':
        stack_.put(input_.number(1));
        return true;
      case 'r':
        stack_.put(input_.number(4));
        return true;
      case 'p':
        stack_.put(memo_index(input_.line()));
        return true;
      case 0x94:
        stack_.put_next();
        return true;
      case 'h':
        stack_.get(input_.number(1));
        return true;
      case 'j':
        stack_.get(input_.number(4));
        return true;
      case 'g':
        stack_.get(memo_index(input_.line()));
        return true;
      default:
        return false;
    }
  }

  void call(NodeId callable, NodeId arguments) {
    if (node(arguments).tag != Tag::tuple) throw malformed("arguments that are no tuple");
    budget_.charge(PickleArena::object_cost);
    push(room().add_object(callable, arguments));
  }

  bool object(unsigned char opcode) {
    switch (opcode) {
      case 'c': {
        const std::string_view module = input_.line(), name = input_.line();
        push_made(Tag::global, global_name(module, name));
        return true;
      }
      case 0x93: {
        const std::vector<NodeId> names = stack_.pop_count(2);
        if (node(names[0]).tag != Tag::text || node(names[1]).tag != Tag::text) {
          throw malformed("a global whose name is no text");
        }
        push_made(Tag::global, global_name(node(names[0]).text, node(names[1]).text));
        return true;
      }
      case 'R':
      case 0x81: {
        const std::vector<NodeId> parts = stack_.pop_count(2);
        call(parts[0], parts[1]);
        return true;
      }
      case 0x92: {
        const std::vector<NodeId> parts = stack_.pop_count(3);
        if (!node(parts[2]).items.empty()) throw malformed("an object made with keyword arguments");
        call(parts[0], parts[1]);
        return true;
      }
      case 'b': {
        const NodeId state = stack_.pop();
        if (node(stack_.top()).tag != Tag::object)
          throw malformed("state for something that is no object");
        arena_.set_state(stack_.top(), state);
        return true;
      }
      case 'Q':
        push_fixed(Tag::persistent, stack_.pop_count(1));
        return true;
      default:
        return false;
    }
  }

  PickleInput input_;
  PickleBudget& budget_;
  PickleArena arena_;
  PickleStack stack_;
};

}  // namespace

PickleArena run_pickle(std::span<const std::byte> bytes, PickleBudget& budget) {
  return Machine(bytes, budget).run();
}

}  // namespace reshard::formats
