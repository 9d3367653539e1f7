#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "families/expression.hpp"

namespace reshard::families {

/// How a line gets its value when no key holds it.
struct Definition {
  enum class Kind { none, literal, formula, per_layer, list, torch_dtype };
  Kind kind = Kind::none;
  bool fixed = false;                   ///< a literal that keys must not contradict
  std::optional<Expression> when;       ///< of a case
  Json literal;                         ///< of a literal
  std::vector<Expression> expressions;  ///< one, or those of a list

  /// The value; per_layer evaluates for l = 0 .. layers - 1, a list each of its expressions.
  Json evaluate(const Names& names) const;
};

/// One line of the record, of a choice, a degree or a written argument: keys whose first value
/// that is not null wins, then the first case that holds, then the definition.
struct Line {
  std::string name;
  std::vector<std::string> keys;              ///< dotted; the first is the one written
  std::vector<std::pair<Json, Json>> values;  ///< theirs -> ours; empty: taken as it is
  bool nullable = false;                      ///< null is a value, not an absence
  bool agree = false;                         ///< all keys that are there must be equal
  std::optional<Expression> when;  ///< false: the line is null, an argument is not written
  std::string enumeration;         ///< class of the enum whose member a written argument is
  std::vector<Definition> cases;
  Definition definition;

  /// Ours for theirs, element by element in a list; Error(input) for a value of no row.
  Json translate(const Json& theirs) const;
  /// Theirs for ours; Error(input) for a value of no row.
  Json translate_back(const Json& ours) const;
};

/// A line from its JSON; Error(input) for members that a line does not have.
Line parse_line(std::string_view name, const Json& json);

/// Equality as the tables mean it (Python's): 1 equals 1.0, lists element by element; unlike
/// Python's a truth value equals only truth values.
bool same_value(const Json& a, const Json& b);

/// The value below a dotted key, nullptr if there is none.
const Json* find_dotted(const Json& object, std::string_view dotted);

}  // namespace reshard::families
