#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "families/expression.hpp"
#include "families/family.hpp"

namespace reshard::families {

/// Which unit (see DialectTable::unit) holds the tensors of which roles.
struct Places {
  std::optional<Expression> when;
  /// Pattern of roles -> "first", "last", "own", or an expression with l; the first that fits.
  std::vector<std::pair<std::string, std::string>> units;
};

/// How a framework names, cuts and places a model, for all families at once.
struct DialectTable {
  /// A constant between canonical and stored weights: stored = canonical + value.
  struct Add {
    std::string roles;  ///< pattern
    Expression value;
  };

  /// Layers that lie together in one tensor when `when` holds: `from` in its name becomes `to`, and
  /// the layers are its first dimension.
  struct Stack {
    Expression when;
    std::string from, to;
  };

  std::string name;
  /// What the record does not say -> the values allowed, the default first.
  std::vector<std::pair<std::string, std::vector<Json>>> choices;
  std::string unit;  ///< what `places` speaks of: "stage"
  std::vector<Places> places;
  std::vector<std::string> nested;  ///< names that are levels of dicts
  std::vector<std::pair<std::string, std::vector<std::string>>>
      spellings;  ///< written -> also read
  std::optional<Add> add;
  std::optional<Stack> stack;
  std::vector<Row> rows;
  std::vector<std::string> ignored;  ///< patterns of names without weights

  /// The default of every choice, with those of `chosen` in place; Error(input) for a choice or a
  /// value that there is not.
  Json complete_choices(const Json& chosen) const;
  /// The unit of a role: the text of the first place that fits; Error(input) if none does.
  const std::string& place_of(std::string_view role, const Names& names) const;
};

/// The embedded table of this name ("megatron_mcore"); Error(internal) if there is none.
DialectTable load_dialect(std::string_view name);
DialectTable parse_dialect(const Json& table, std::string_view where);

}  // namespace reshard::families
