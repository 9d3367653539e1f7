#include "families/expression.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

bool truth(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return false;
    case Json::value_t::boolean:
      return value.get<bool>();
    case Json::value_t::number_float:
      return value.get<double>() != 0.0;
    case Json::value_t::number_integer:
      return value.get<std::int64_t>() != 0;
    case Json::value_t::number_unsigned:
      return value.get<std::uint64_t>() != 0;
    case Json::value_t::string:
      return !value.get_ref<const std::string&>().empty();
    default:
      return !value.empty();
  }
}

std::string type_name(const Json& value) {
  return value.type_name();
}

/// A number of the language: whole (truth values count as 0 and 1) or floating.
struct Number {
  bool whole = true;
  std::int64_t integer = 0;
  double real = 0;
};

/// Whether a value is a number, and then which.
bool to_number(const Json& value, Number& number) {
  if (value.is_boolean()) {
    number = {true, value.get<bool>() ? 1 : 0, 0};
  } else if (value.is_number_unsigned()) {
    const auto unsigned_value = value.get<std::uint64_t>();
    if (unsigned_value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return false;
    }
    number = {true, static_cast<std::int64_t>(unsigned_value), 0};
  } else if (value.is_number_integer()) {
    number = {true, value.get<std::int64_t>(), 0};
  } else if (value.is_number_float()) {
    number = {false, 0, value.get<double>()};
  } else {
    return false;
  }
  if (number.whole) number.real = static_cast<double>(number.integer);
  return true;
}

/// Python's ==: truth values are 0 and 1, whole and floating numbers compare by value.
bool equal(const Json& a, const Json& b) {
  Number x;
  Number y;
  if (to_number(a, x) && to_number(b, y)) {
    return x.whole && y.whole ? x.integer == y.integer : x.real == y.real;
  }
  if (a.is_array() && b.is_array()) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), equal);
  }
  return a == b;
}

std::int64_t floor_divided(std::int64_t a, std::int64_t b) {
  const std::int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

}  // namespace

const Json* Names::find(std::string_view name) const {
  for (const Names* scope = this; scope != nullptr; scope = scope->outer_) {
    if (scope->value_ != nullptr && scope->name_ == name) return scope->value_;
    if (scope->object_ == nullptr || !scope->object_->is_object()) continue;
    const auto found = scope->object_->find(name);
    if (found != scope->object_->end()) return &*found;
  }
  return nullptr;
}

/// Evaluates a tree; a value is borrowed where it is bound to a name, else held in the scratch that
/// the caller gives.
class ExpressionEvaluator {
 public:
  ExpressionEvaluator(const Expression& expression, const Names& names)
      : expression_(expression), names_(names) {}

  const Json& value(std::size_t index, Json& scratch) const {
    const Expression::Node& node = expression_.nodes_[index];
    switch (node.kind) {
      case Kind::literal:
        return node.literal;
      case Kind::name:
        return bound(node);
      case Kind::subscript:
        return element(node, scratch);
      case Kind::any_of:
      case Kind::all_of:
        return scratch = truth_of_all(node);
      case Kind::negation:
        return scratch = !holds(node.parts[0]);
      case Kind::whole_number: {
        Json held;
        return scratch = value(node.parts[0], held).is_number_integer();
      }
      default:
        return scratch = combined(node);
    }
  }

  bool holds(std::size_t index) const {
    Json scratch;
    return truth(value(index, scratch));
  }

 private:
  using Kind = Expression::Kind;
  using Node = Expression::Node;

  [[noreturn]] void refuse(const std::string& why) const { expression_.fail(why); }

  const Json& bound(const Node& node) const {
    const std::string& name = expression_.names_[node.name];
    const Json* const found = names_.find(name);
    if (found == nullptr) refuse("nothing is called " + name);
    return *found;
  }

  bool truth_of_all(const Node& node) const {
    const bool wanted = node.kind == Kind::any_of;
    for (const std::uint32_t part : node.parts) {
      if (holds(part) == wanted) return wanted;
    }
    return !wanted;
  }

  const Json& element(const Node& node, Json& scratch) const {
    static const Json absent;
    Json held_index;
    Json held;
    const Json& index = value(node.parts[1], held_index);
    const Json& whole = value(node.parts[0], held);
    if (whole.is_object() && index.is_string()) {
      const auto found = whole.find(index.get_ref<const std::string&>());
      if (found == whole.end()) return absent;
      return &whole == &held ? scratch = *found : *found;
    }
    if (!whole.is_array() || !index.is_number_integer()) {
      refuse("no element " + shown(index) + " of " + type_name(whole));
    }
    Number at;
    if (!to_number(index, at) || at.integer < 0 ||
        static_cast<std::uint64_t>(at.integer) >= whole.size()) {
      refuse("element " + index.dump() + " of a list of " + std::to_string(whole.size()));
    }
    const Json& found = whole[static_cast<std::size_t>(at.integer)];
    if (&whole != &held) return found;
    Json kept = found;
    return scratch = std::move(kept);
  }

  Json combined(const Node& node) const {
    Json held_left;
    Json held_right;
    const Json& left = value(node.parts[0], held_left);
    const Json& right = value(node.parts[1], held_right);
    switch (node.kind) {
      case Kind::equal:
        return equal(left, right);
      case Kind::unequal:
        return !equal(left, right);
      case Kind::contained:
        return contains(right, left);
      case Kind::not_contained:
        return !contains(right, left);
      case Kind::less:
      case Kind::less_equal:
      case Kind::greater:
      case Kind::greater_equal:
        return ordered(node.kind, left, right);
      default:
        return arithmetic(node.kind, left, right);
    }
  }

  bool contains(const Json& list, const Json& wanted) const {
    if (!list.is_array()) refuse("`in` needs a list, not " + type_name(list));
    return std::any_of(list.begin(), list.end(),
                       [&](const Json& each) { return equal(each, wanted); });
  }

  bool ordered(Kind kind, const Json& left, const Json& right) const {
    Number a;
    Number b;
    if (!to_number(left, a) || !to_number(right, b)) {
      refuse("cannot order " + type_name(left) + " and " + type_name(right));
    }
    const bool whole = a.whole && b.whole;
    switch (kind) {
      case Kind::less:
        return whole ? a.integer < b.integer : a.real < b.real;
      case Kind::less_equal:
        return whole ? a.integer <= b.integer : a.real <= b.real;
      case Kind::greater:
        return whole ? a.integer > b.integer : a.real > b.real;
      default:
        return whole ? a.integer >= b.integer : a.real >= b.real;
    }
  }

  Json arithmetic(Kind kind, const Json& left, const Json& right) const {
    Number a;
    Number b;
    if (!to_number(left, a) || !to_number(right, b)) {
      refuse("cannot calculate with " + type_name(left) + " and " + type_name(right));
    }
    const bool divides = kind == Kind::divide || kind == Kind::floor_divide || kind == Kind::modulo;
    if (divides && b.real == 0.0) refuse("division by zero");
    if (!a.whole || !b.whole) return real_arithmetic(kind, a.real, b.real);
    return whole_arithmetic(kind, a.integer, b.integer);
  }

  Json whole_arithmetic(Kind kind, std::int64_t a, std::int64_t b) const {
    std::int64_t result = 0;
    bool overflow = false;
    switch (kind) {
      case Kind::add:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
      case Kind::subtract:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
      case Kind::multiply:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
      default:
        // The one quotient that does not fit: -2^63 / -1.
        if (b == -1) {
          overflow = kind != Kind::modulo && __builtin_sub_overflow(std::int64_t{0}, a, &result);
        } else if (kind == Kind::divide && a % b != 0) {
          refuse(std::to_string(a) + " / " + std::to_string(b) + " is not whole");
        } else if (kind == Kind::modulo) {
          result = a % b;
          if (result != 0 && (result < 0) != (b < 0)) result += b;
        } else {
          result = floor_divided(a, b);
        }
    }
    if (overflow) refuse("a number beyond 64 bits");
    return result;
  }

  Json real_arithmetic(Kind kind, double a, double b) const {
    switch (kind) {
      case Kind::add:
        return a + b;
      case Kind::subtract:
        return a - b;
      case Kind::multiply:
        return a * b;
      case Kind::divide:
        return a / b;
      default:
        break;
    }
    double rest = std::fmod(a, b);
    double quotient = (a - rest) / b;
    if (rest != 0.0 && (rest < 0) != (b < 0)) {
      rest += b;
      quotient -= 1.0;
    }
    if (kind == Kind::modulo) return rest;
    quotient = std::nearbyint(quotient);
    if (!(std::abs(quotient) < 0x1p63)) refuse("a number beyond 64 bits");
    return static_cast<std::int64_t>(quotient);
  }

  const Expression& expression_;
  const Names& names_;
};

void Expression::fail(const std::string& why) const {
  throw Error(reshard::Kind::input, "expression " + shown(text_) + ": " + why);
}

Json Expression::evaluate(const Names& names) const {
  Json scratch;
  return ExpressionEvaluator(*this, names).value(nodes_.size() - 1, scratch);
}

std::vector<std::string> Expression::members_of(std::string_view object) const {
  std::vector<std::string> members;
  for (const Node& node : nodes_) {
    if (node.kind != Kind::subscript) continue;
    const Node& whole = nodes_[node.parts[0]];
    const Node& key = nodes_[node.parts[1]];
    if (whole.kind == Kind::name && names_[whole.name] == object && key.literal.is_string()) {
      members.push_back(key.literal.get<std::string>());
    }
  }
  return members;
}

bool Expression::holds(const Names& names) const {
  return ExpressionEvaluator(*this, names).holds(nodes_.size() - 1);
}

}  // namespace reshard::families
