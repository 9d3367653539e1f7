#include "formats/dialect/settle.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "families/record.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/template.hpp"

namespace reshard::formats {
namespace {

/// The record of a config.json beside the weights, where args describe the same function.
bool settle_by_config(const families::ArgumentTable& table, const SourceOptions& options,
                      const families::MegatronArguments& arguments, Source& source) {
  settle_family(options, source);
  const std::string where = options.config.empty() ? "config.json" : options.config;
  families::Record told = with_context(where, [&] {
    return families::read_config(source.family, source.config, options.ignore_config);
  });
  const families::Record config_record = told;
  if (families::may_fill(table, source.model_type)) {
    told["output_bias"] = arguments.record.at("output_bias");
  }
  std::string differing;
  for (const std::string& name : families::differing_lines(arguments.record, told)) {
    differing += (differing.empty() ? "" : ", ") + name + " " + told.at(name).dump() + " (args " +
                 arguments.record.at(name).dump() + ")";
  }
  if (!differing.empty()) {
    const std::string text = "describes another function than args: " + differing;
    if (!options.config.empty()) throw Error(Kind::input, where + ": " + text);
    source.warnings.push_back("config.json beside the weights " + text + "; args are taken");
    return false;
  }
  source.record = told;
  source.config_record = config_record;
  for (const char* name : {"vocab", "dtype"}) {
    source.record[name] = source.config_record[name] = arguments.record.at(name);
  }
  return true;
}

/// The family that args mean when the user does not say.
std::string family_of_args(const families::ArgumentTable& table,
                           const families::MegatronArguments& arguments, Source& source) {
  if (arguments.families.empty()) {
    throw Error(Kind::input, families::nearest_family(table, arguments) +
                                 "; name one with --family, or its table");
  }
  std::string others;
  for (std::size_t i = 1; i < arguments.families.size(); ++i) {
    others += (i > 1 ? ", " : "") + arguments.families[i];
  }
  if (!others.empty()) {
    source.notes.push_back("family " + arguments.families.front() + " taken; " + others +
                           " would compute the same: --family chooses");
  }
  return arguments.families.front();
}

}  // namespace

void settle_record(const families::ArgumentTable& table, const SourceOptions& options,
                   const families::MegatronArguments& arguments, Source& source) {
  std::string model_type = wanted_family(options, source.found);
  const bool is_told = model_type.empty() || !options.config.empty();
  if (is_told && source.config.is_object()) {
    if (settle_by_config(table, options, arguments, source)) return;
    model_type = source.model_type;
  }
  if (model_type.empty()) model_type = family_of_args(table, arguments, source);
  source.family = family_named(model_type);
  const bool is_type =
      std::any_of(source.family.model_types.begin(), source.family.model_types.end(),
                  [&](const families::ModelType& type) { return type.name == model_type; });
  source.model_type = is_type ? model_type : source.family.model_types.front().name;
  const families::CompleteRecord complete =
      families::complete_record(table, arguments, source.family, source.model_type);
  source.record = complete.model;
  source.config_record = complete.config;
}

}  // namespace reshard::formats
