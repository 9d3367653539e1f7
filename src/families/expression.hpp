#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.hpp"

namespace reshard::families {

/// A chain of scopes that an expression reads; look-ups begin at the innermost. It borrows what it
/// is made from, so it lives on the stack beside the objects that it names.
class Names {
 public:
  Names() = default;
  /// The members of a JSON object, before those of `outer`.
  explicit Names(const Json& object, const Names* outer = nullptr)
      : object_(&object), outer_(outer) {}
  /// One name, before those of `outer`.
  Names(std::string_view name, const Json& value, const Names* outer)
      : name_(name), value_(&value), outer_(outer) {}

  /// The value of a name, nullptr if nothing binds it.
  const Json* find(std::string_view name) const;

 private:
  std::string_view name_;
  const Json* value_ = nullptr;
  const Json* object_ = nullptr;
  const Names* outer_ = nullptr;
};

/// A condition or formula of the tables, parsed once: names, numbers, 'strings', true false null,
/// + - * / // %, one comparison, `in`, `not in`, list[i], object['key'] (null if absent), and or
/// not, parentheses; Python's precedence and truth. `/` of integers must come out even; `x in
/// integers` tells a whole number from all else. Error(input) names the expression.
class Expression {
 public:
  explicit Expression(std::string_view text);

  /// The value; Error(input) for an unbound name, a wrong type, an overflow or an uneven division.
  Json evaluate(const Names& names) const;
  /// Whether the value is true in Python's sense.
  bool holds(const Names& names) const;
  /// The constant keys that it reads of an object: "x" in args['x'].
  std::vector<std::string> members_of(std::string_view object) const;
  /// The names that it reads, each once.
  const std::vector<std::string>& names() const { return names_; }
  const std::string& text() const { return text_; }

 private:
  friend class ExpressionParser;
  friend class ExpressionEvaluator;

  enum class Kind : std::uint8_t {
    literal,
    name,
    subscript,
    any_of,
    all_of,
    negation,
    equal,
    unequal,
    less,
    less_equal,
    greater,
    greater_equal,
    contained,
    not_contained,
    whole_number,
    add,
    subtract,
    multiply,
    divide,
    floor_divide,
    modulo,
  };
  struct Node {
    Kind kind;
    Json literal;                      ///< of a literal
    std::uint32_t name = 0;            ///< of a name: index into names_
    std::vector<std::uint32_t> parts;  ///< indices into nodes_
    std::uint32_t height = 1;          ///< of the tree below, bounded
  };

  [[noreturn]] void fail(const std::string& why) const;

  std::string text_;
  std::vector<std::string> names_;
  std::vector<Node> nodes_;  ///< the last is the root
};

}  // namespace reshard::families
