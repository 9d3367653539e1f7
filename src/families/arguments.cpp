#include "families/arguments.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

/// A value as the tables speak of it: dtypes by torch's name, tuples as lists.
Json plain(const Json& value) {
  if (value.is_array()) {
    Json list = Json::array();
    for (const Json& each : value) list.push_back(plain(each));
    return list;
  }
  if (!value.is_object() || !value.contains("!")) return value;
  const std::string kind = text_member(value, "!");
  if (kind == "tuple" && value.contains("items")) return plain(value.at("items"));
  constexpr std::string_view torch = "torch.";
  const std::string name = kind == "global" ? text_member(value, "name") : "";
  return name.starts_with(torch) ? Json(name.substr(torch.size())) : value;
}

Json plain_members(const Json& args) {
  if (!args.is_object()) throw Error(Kind::input, "args is " + shown(args) + ", not an object");
  Json all = Json::object();
  for (const auto& [name, value] : args.items()) all[name] = plain(value);
  return all;
}

/// The first value of a line's keys that is not null; nullptr if there is none.
const Json* look_up(const Line& line, const Json& args) {
  const Json* found = nullptr;
  for (const std::string& key : line.keys) {
    const Json* const value = find_dotted(args, key);
    if (value == nullptr || value->is_null()) continue;
    if (found == nullptr) found = value;
    if (line.agree && !same_value(*found, *value)) {
      throw Error(Kind::input,
                  joined(line.keys) + " disagree: " + shown(*found) + " and " + shown(*value));
    }
  }
  return found;
}

Json value_of(const Line& line, const Names& names, const Json& args) {
  if (line.when && !line.when->holds(names)) return nullptr;
  if (const Json* const found = look_up(line, args)) return line.translate(*found);
  const auto fits = [&](const Definition& each) { return each.when->holds(names); };
  const auto chosen = std::find_if(line.cases.begin(), line.cases.end(), fits);
  const Definition& definition = chosen == line.cases.end() ? line.definition : *chosen;
  if (definition.kind != Definition::Kind::none) return definition.evaluate(names);
  throw Error(Kind::input, line.cases.empty() ? "args have none of " + joined(line.keys)
                                              : "args hold a combination that is not supported");
}

/// The lines of a section in order; each may read those of `known` and the ones above it.
Json read_section(const std::vector<Line>& lines, const Json& args, Json& known) {
  Json section = Json::object();
  for (const Line& line : lines) {
    const Names outer("args", args, nullptr);
    section[line.name] = with_context("args: " + line.name,
                                      [&] { return value_of(line, Names(known, &outer), args); });
    known[line.name] = section[line.name];
  }
  return section;
}

void check_required(const ArgumentTable& table, const Json& args) {
  for (const auto& [name, allowed] : table.required) {
    const auto value = args.find(name);
    if (value == args.end() || value->is_null()) continue;
    const auto is_value = [&](const Json& each) { return same_value(each, *value); };
    if (std::any_of(allowed.begin(), allowed.end(), is_value)) continue;
    throw Error(Kind::input, "args: " + name + " is " + shown(*value) + ", only " +
                                 (allowed.empty() ? "null" : shown(allowed)) + " is supported");
  }
}

std::vector<std::string> unknown_arguments(const ArgumentTable& table, const Json& args) {
  std::vector<std::string> unknown;
  for (const auto& [name, value] : args.items()) {
    const std::string& argument = name;
    const auto fits = [&](const std::string& pattern) { return matches(pattern, argument); };
    if (std::binary_search(table.known.begin(), table.known.end(), argument) ||
        std::any_of(table.unused.begin(), table.unused.end(), fits)) {
      continue;
    }
    unknown.push_back(name + " = " + shown(value));
  }
  std::sort(unknown.begin(), unknown.end());
  return unknown;
}

/// The training state: what travels in args, then (and instead) what lies beside them.
Json read_training(const ArgumentTable& table, const Json& args, const Json& beside) {
  Json training = Json::object();
  for (const std::string& name : table.travel) {
    if (args.contains(name) && !args.at(name).is_null()) training[name] = args.at(name);
  }
  for (const std::string& name : table.beside) {
    if (beside.contains(name) && !beside.at(name).is_null()) training[name] = beside.at(name);
  }
  return training;
}

Json carried_values(const ArgumentTable& table, const Json& names, const Json& source) {
  Json carried = Json::object();
  for (const auto& [name, otherwise] : table.carried) {
    const auto found = source.find(name);
    if (found != source.end() && !found->is_null()) {
      carried[name] = *found;
    } else if (otherwise.is_string() && names.contains(otherwise.get<std::string>())) {
      carried[name] = names.at(otherwise.get<std::string>());
    } else {
      carried[name] = otherwise;
    }
  }
  return carried;
}

void add_members(Json& all, const Json& more) {
  for (const auto& [name, value] : more.items()) all[name] = value;
}

/// Refuses arguments that do not read back as what they were written from.
void check_read_back(const ArgumentTable& table, const Json& args, const Record& record,
                     const Json& choices, const Json& degrees) {
  const MegatronArguments again = read_arguments(table, args, Json::object());
  for (const std::string& name : differing_lines(record, again.record)) {
    throw Error(Kind::input, table.name + " arguments cannot hold hyperparameter " + name + " = " +
                                 shown(record.at(name)) + ", they would say " +
                                 shown(again.record.at(name)));
  }
  const auto check = [&](const Json& wanted, const Json& seen, const std::string& what) {
    for (const auto& [name, value] : wanted.items()) {
      if (!seen.contains(name) || same_value(value, seen.at(name))) continue;
      throw Error(Kind::input, table.name + " arguments cannot hold " + what + " " + name + " = " +
                                   shown(value) + ", they would say " + shown(seen.at(name)));
    }
  };
  check(choices, again.choices, "choice");
  check(degrees, again.degrees, "degree");
}

/// One flag and its value as a command line has them.
std::string spelled(const ArgumentTable::Flag& flag, const Json& value) {
  if (value.is_boolean() && !flag.spelling.empty()) return flag.spelling;
  std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  if (flag.spelling.empty()) return flag.argument + "=" + text + " (in the model's config)";
  if (flag.argument == "window_size") {
    text = text.substr(1, text.size() - 2);  // Megatron reads 127,0 as a tuple
  } else if (value.is_array()) {
    text = "'" + text + "'";
  }
  return flag.spelling + " " + text;
}

/// The record in full: what a config.json must spell is derived, all else is null until it is read.
Record with_spelling(const Record& record) {
  const Json shared = embedded_table("hyperparameters.json").at("hyperparameters");
  Record full = Json::object();
  for (const auto& [name, line] : shared.items()) full[name] = line.value("fixed", Json());
  full["use_window"] = !record.at("window").is_null();
  full["full_layers"] = 0;
  full["first_moe"] = 0;
  full["moe_step"] = 1;
  full["dense_layers"] = Json::array();
  if (!same_value(record.at("experts"), 0)) {
    const Json& moe = record.at("moe");
    for (std::size_t l = 0; l < moe.size(); ++l) {
      if (moe[l] == false) full["dense_layers"].push_back(l);
    }
  }
  add_members(full, record);
  return full;
}

std::string chosen_type(const MegatronArguments& arguments, const Family& family) {
  for (const std::string& type : arguments.families) {
    for (const ModelType& each : family.model_types) {
      if (each.name == type) return type;
    }
  }
  return {};
}

}  // namespace

MegatronArguments read_arguments(const ArgumentTable& table, const Json& args, const Json& beside) {
  const Json all = plain_members(args);
  check_required(table, all);
  MegatronArguments read;
  Json known = Json::object();
  read.record = read_section(table.hyperparameters, all, known);
  read.choices = read_section(table.choices, all, known);
  read.degrees = read_section(table.degrees, all, known);
  read.training = read_training(table, all, beside);
  read.unknown = unknown_arguments(table, all);
  for (const ArgumentTable::FamilyRule& rule : table.families) {
    if (rule.when.holds(Names(read.record))) read.families.push_back(rule.model_type);
  }
  return read;
}

Json write_arguments(const ArgumentTable& table, const Record& record, const Json& degrees,
                     const Json& choices, const Json& source_args) {
  const Json all_choices = table.complete_choices(choices);
  const Json all_degrees = table.complete_degrees(degrees);
  Json names = record;
  add_members(names, all_choices);
  add_members(names, all_degrees);
  Json written = carried_values(table, names, source_args);
  const Json carried = written;
  const Json none = Json::object();
  const Names args("args", none, nullptr);
  const Names carry("carry", carried, &args);
  for (const Line& line : table.written) {
    written[line.name] = with_context("argument " + line.name,
                                      [&] { return value_of(line, Names(names, &carry), none); });
  }
  check_read_back(table, written, record, all_choices, all_degrees);
  return written;
}

std::vector<std::string> command_line(const ArgumentTable& table, const Json& args) {
  std::vector<std::string> flags;
  for (const ArgumentTable::Flag& flag : table.command_line) {
    const auto found = args.find(flag.argument);
    if (found == args.end() || found->is_null()) continue;
    const Json value = plain(*found);
    if (same_value(value, flag.standard)) continue;
    if (flag.when && !flag.when->holds(Names("args", args, nullptr))) continue;
    std::string text = spelled(flag, value);
    if (std::find(flags.begin(), flags.end(), text) == flags.end())
      flags.push_back(std::move(text));
  }
  return flags;
}

CompleteRecord complete_record(const ArgumentTable& table, const MegatronArguments& arguments,
                               const Family& family, std::string_view model_type) {
  CompleteRecord made;
  made.model_type = model_type.empty() ? chosen_type(arguments, family) : std::string(model_type);
  Record wanted = with_spelling(arguments.record);
  std::vector<std::string> filled;
  for (const ArgumentTable::FamilyRule& rule : table.families) {
    // One flag for q, k, v and o: the o.bias that the source lacks is zero in the target.
    if (rule.model_type != made.model_type || rule.fills != "output_bias") continue;
    if (same_value(wanted.at("output_bias"), wanted.at("attention_bias"))) continue;
    wanted["output_bias"] = wanted.at("attention_bias");
    filled.push_back("output_bias");
  }
  try {
    const Json config = write_config(family, wanted, made.model_type);
    made.model_type = config.at("model_type").get<std::string>();
    made.config = read_config(family, config);
  } catch (const Error& error) {
    std::vector<std::string> others = arguments.families;
    std::erase(others, made.model_type);
    throw Error(error.kind(), std::string(error.what()) +
                                  (others.empty() ? "; no known family can, --family FILE.json may "
                                                    "describe another"
                                                  : "; --family may be " + joined(others)));
  }
  made.model = made.config;
  for (const std::string& name : filled) made.model[name] = arguments.record.at(name);
  return made;
}

}  // namespace reshard::families
