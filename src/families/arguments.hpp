#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "families/family.hpp"
#include "families/line.hpp"
#include "families/record.hpp"

namespace reshard::families {

/// The record, choices and degrees <-> one framework's `args` (tables/arguments/*.json).
struct ArgumentTable {
  struct FamilyRule {
    std::string model_type;
    std::vector<Expression> conditions;  ///< over the record; all must hold
    std::string fills;                   ///< a line that the family's config.json cannot tell apart
  };
  struct Flag {
    std::string argument;
    std::string spelling;  ///< "--norm-epsilon"; of a truth value the flag that changes it; empty:
                           ///< a field of the model's config without a flag
    Json standard;         ///< the framework's default
    std::optional<Expression> when;  ///< it changes something, over args
  };
  /// What a value may be; `wholes` is a whole number from -1 or a list of such.
  enum class ValueType { whole, number, truth, text, wholes };
  std::string name;
  std::vector<std::pair<std::string, ValueType>> types;
  std::vector<std::pair<std::string, Expression>> names;  ///< words for what lines ask of args
  Json enums = Json::object();  ///< class of an enum -> number of a member -> its name
  std::vector<Line> hyperparameters, choices, degrees;
  std::vector<std::pair<std::string, std::vector<Json>>> required;  ///< values besides null
  std::vector<std::string> beside, travel;  ///< training state beside args and in them
  std::vector<FamilyRule> families;
  std::vector<Line> written;
  std::vector<std::pair<std::string, Json>> carried;  ///< argument -> default, or a hyperparameter
  std::vector<Flag> command_line;
  std::vector<std::string> known;   ///< names that are read
  std::vector<std::string> unused;  ///< patterns of names that change nothing

  /// The degrees, those that are missing by their defaults (etp is tp, world is the product);
  /// Error(input) for one that has none.
  Json complete_degrees(const Json& degrees) const;
  /// The choices, those that are missing by their defaults.
  Json complete_choices(const Json& choices) const;
  /// The arguments that a hyperparameter, choice or degree is told by, each once: those of its line
  /// and of the lines that it reads.
  std::vector<std::string> arguments_of(std::string_view line) const;
  /// The names that the expressions of a line read, each once.
  static std::vector<std::string> names_of(const Line& line);
};

/// The embedded table of this name ("megatron").
ArgumentTable load_arguments(std::string_view name);

/// What `args` of a checkpoint tell.
struct MegatronArguments {
  Record record;                      ///< without what args cannot tell (see complete_record)
  Json choices;                       ///< for the dialect tables
  Json degrees;                       ///< tp, pp, vpp, ep, etp, cp, dp, world, padded_vocab, ...
  Json training;                      ///< iteration, consumed samples, dropout, ...
  Json plain;                         ///< all arguments, as the tables speak of them
  std::vector<std::string> unknown;   ///< "name = value" of arguments in no table
  std::vector<std::string> families;  ///< model_types that fit, the first is the default
};

/// Reads the attributes of a Namespace, in the representation of the restricted unpickler:
/// numbers, strings, arrays, {"!": "global", "name": "torch.bfloat16"}, {"!": "tuple", "items":
/// [...]}, {"!": "object", ...}. `beside`: what lies beside args in the file. Error(input) for a
/// value of a wrong type or that the record cannot hold, with the arguments that tell it.
MegatronArguments read_arguments(const ArgumentTable& table, const Json& args, const Json& beside);

/// The attributes that tell a hyperparameter and are not null, as the tables speak of them.
Json function_arguments(const ArgumentTable& table, const Json& args);

/// The attributes to write, in the same representation, from the record, the degrees, the choices
/// and, for what none of these knows, the source's args (or {}). They are read again: Error(input)
/// names the hyperparameter that the framework cannot hold.
Json write_arguments(const ArgumentTable& table, const Record& record, const Json& degrees,
                     const Json& choices, const Json& source_args);

/// What a run must be told because the framework never pulls it from a checkpoint.
struct CommandLine {
  std::vector<std::string> flags;  ///< "--norm-epsilon 1e-06", quoted for a shell
  std::vector<std::string>
      fields;  ///< "yarn_beta_fast=32.0": of the model's config, without a flag
};

/// What of args the command line must repeat: only what differs from the framework's default.
CommandLine command_line(const ArgumentTable& table, const Json& args);

/// A record as a family tells it.
struct CompleteRecord {
  Record model;   ///< all lines; of the tensors that the source has
  Record config;  ///< what the family's config.json says: differs where the family has one flag for
                  ///< what the source tells apart (Open-Sci's o.bias, then zero), and has the
                  ///< training hyperparameters that args tell and config.json has keys for
  std::string model_type;
};

/// The full record of the model that args told, as a member of the family: its config.json is
/// written and read back, so what args leave open comes from the family. `model_type`: default the
/// first of arguments.families that the family has, else its first that fits. Error(input) names
/// hyperparameter and value that the family cannot hold, and the `--family` choices that can.
CompleteRecord complete_record(const ArgumentTable& table, const MegatronArguments& arguments,
                               const Family& family, std::string_view model_type = {});

/// Whether the config.json of such a model has one flag for the o.bias and for biases that args can
/// tell without it.
bool may_fill(const ArgumentTable& table, std::string_view model_type);

/// Why no rule of the table fits: the model_type that comes nearest, what it wants, and the
/// hyperparameters and arguments that say otherwise.
std::string nearest_family(const ArgumentTable& table, const MegatronArguments& arguments);

}  // namespace reshard::families
