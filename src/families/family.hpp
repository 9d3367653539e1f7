#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "core/shape.hpp"
#include "families/expression.hpp"
#include "families/line.hpp"

namespace reshard::families {

/// All that changes the function computed: an object, one member a hyperparameter.
using Record = Json;

/// One stored tensor (or one for each layer and expert) of a family or dialect, as its table says
/// (DESIGN.md section 1.1).
struct Row {
  std::string name;  ///< with {l} layer, {e} expert; dialects also {L}, {E} counted locally
  /// Part of the layout's braces -> role template; a single role has the part "".
  std::vector<std::pair<std::string, std::string>> parts;
  std::string layout;
  std::string view;          ///< the shape that labels the layout's memory, if it differs
  std::string split;         ///< the factor that tp restricts
  std::string expert_split;  ///< the factor that etp restricts
  std::vector<std::pair<std::string, std::string>> pad;  ///< factor -> name of its stored size
  std::optional<Expression> when;
  bool optional = false;  ///< may be absent, a copy of a tied tensor; never written
  bool seen = true;       ///< false: known from code, in no file
  std::string form;       ///< rows of one form belong together; empty: of all forms
  std::string at;         ///< the copy lies where this role would
};

/// A row from its JSON; Error(input) for unknown members or roles, and for words of the layout
/// that are neither a factor nor a part.
Row parse_row(const Json& json);

/// A row for one layer and expert.
struct Instance {
  std::string name;  ///< with the indices put in
  const Row* row = nullptr;
  std::optional<std::uint64_t> layer;   ///< if the name has {l}
  std::optional<std::uint64_t> expert;  ///< if the name has {e}
};

/// Every row whose `when` holds, for every value of {l} and {e} in its name, in the rows' order;
/// the rows must outlive the result.
std::vector<Instance> instances(std::span<const Row> rows, const Record& record);

/// A name or role with {l} and {e} put in.
std::string concrete(std::string_view pattern, const Instance& instance);

/// What config.json's `model_type` selects of a family.
struct ModelType {
  std::string name;
  std::string architecture;
  std::optional<Expression> when;  ///< the record fits it
  std::vector<Line> lines;         ///< all lines of the record, in order
};

/// An architecture: its Hugging Face side and how its config.json spells the record.
struct Family {
  std::string name;
  std::vector<ModelType> model_types;
  std::string base;                                    ///< prefix that bare models leave out
  std::vector<std::pair<std::string, Json>> required;  ///< config key -> only value supported
  std::vector<std::string> unused_keys;                ///< config keys that change nothing
  Json written;                                        ///< such keys that a config.json gets
  /// Such a key -> the training hyperparameter of a record that it tells, if the record has it.
  std::vector<std::pair<std::string, std::string>> training;
  std::vector<Row> rows;
  std::vector<std::string> ignored;  ///< patterns of names without weights

  /// The model type of this name; Error(input) names those that there are.
  const ModelType& model_type(std::string_view type) const;
  /// The alternative sets of rows, the one written first; {""} if there are none.
  std::vector<std::string> forms() const;
  /// The rows of one form, in order.
  std::vector<Row> rows_of(std::string_view form) const;
};

/// The embedded family of this name ("llama", not "mistral"); Error(usage) lists the names.
Family load_family(std::string_view name);
/// A family from a table; Error(input) begins with `where` and tells members, roles, layouts' names
/// and expressions that cannot be.
Family parse_family(const Json& table, std::string_view where);
/// The embedded family that has the config's model_type; Error(input) lists the types.
Family family_of_config(const Json& config);
/// The embedded family that has a model_type.
Family family_of_model_type(std::string_view model_type);
/// Embedded families, those that Megatron's arguments may mean first, in the order of the rules.
std::vector<std::string> family_names();

/// What canonical tensors there are (tables/roles.json).
struct Roles {
  std::vector<std::pair<std::string, std::vector<std::string>>> factors;  ///< template -> factors
  std::map<std::string, std::pair<std::string, std::string>, std::less<>>
      products;  ///< whole -> slow, fast: heads = groups * heads_per_group

  /// The factors of a template, slowest first; Error(input) if there is no such role.
  const std::vector<std::string>& factors_of(std::string_view role_template) const;
  /// Its place in the model's order; factors.size() if there is no such role.
  std::size_t position_of(std::string_view role_template) const;
};

const Roles& roles();

/// `layers.3.mlp.up.weight` -> `layers.{l}.mlp.up.weight`.
std::string role_template(std::string_view role);

/// A canonical tensor of a model.
struct RoleTensor {
  std::string role;                  ///< "layers.3.mlp.up.weight"
  std::string role_template;         ///< "layers.{l}.mlp.up.weight"
  std::vector<std::string> factors;  ///< slowest first
  Shape shape;                       ///< one extent a factor
};

/// Every canonical tensor of the model, in the model's order: embeddings, layers ascending, final
/// norm, head.
std::vector<RoleTensor> canonical_tensors(const Family& family, const Record& record);

}  // namespace reshard::families
