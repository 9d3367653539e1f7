#include "families/arguments.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

/// The name of an enum's member, pickled by number or by name; any other object as it is.
Json member_name(const Json& enums, const Json& object) {
  const auto members = enums.find(text_member(object, "class"));
  const Json member = object.value("args", Json::array());
  if (members == enums.end() || member.size() != 1) return object;
  return member[0].is_string() ? member[0] : members->value(member[0].dump(), object);
}

/// The member of an enum that a name means, as a pickle has it.
Json member_of(const Json& enums, const std::string& enumeration, const Json& name) {
  for (const auto& [number, each] : enums.at(enumeration).items()) {
    if (each != name) continue;
    return {{"!", "object"}, {"class", enumeration}, {"args", {Json::parse(number)}}};
  }
  throw Error(Kind::input, enumeration + " has no member " + shown(name));
}

/// A value as the tables speak of it: dtypes by torch's name, tuples as lists, enums by name.
Json plain(const Json& value, const Json& enums) {
  if (value.is_array()) {
    Json list = Json::array();
    for (const Json& each : value) list.push_back(plain(each, enums));
    return list;
  }
  if (!value.is_object() || !value.contains("!")) return value;
  const std::string kind = text_member(value, "!");
  if (kind == "object") return member_name(enums, value);
  if (kind == "tuple" && value.contains("items")) return plain(value.at("items"), enums);
  constexpr std::string_view torch = "torch.";
  const std::string name = kind == "global" ? text_member(value, "name") : "";
  return name.starts_with(torch) ? Json(name.substr(torch.size())) : value;
}

Json plain_members(const Json& args, const Json& enums) {
  if (!args.is_object()) throw Error(Kind::input, "args is " + shown(args) + ", not an object");
  Json all = Json::object();
  for (const auto& [name, value] : args.items()) {
    // Past the container's own insertion, which looks through all names before.
    all.get_ref<Json::object_t&>().emplace_back(
        name, with_context("args: " + name, [&, &each = value] { return plain(each, enums); }));
  }
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
                                              : "this combination is not supported");
}

/// " (swiglu = true, quick_geglu = false)": those that are there and not null; "" without any.
std::string shown_members(const std::vector<std::string>& names, const Json& values) {
  std::string text;
  for (const std::string& name : names) {
    const auto value = values.find(name);
    if (value == values.end() || value->is_null()) continue;
    text += (text.empty() ? " (" : ", ") + name + " = " + shown(*value);
  }
  return text.empty() ? text : text + ")";
}

/// The lines of a section in order; each may read those of `known` and the ones above it.
Json read_section(const ArgumentTable& table, const std::vector<Line>& lines, const Json& args,
                  Json& known) {
  Json section = Json::object();
  for (const Line& line : lines) {
    const Names outer("args", args, nullptr);
    try {
      section[line.name] = value_of(line, Names(known, &outer), args);
    } catch (const Error& error) {
      throw error.in("args: " + line.name + shown_members(table.arguments_of(line.name), args));
    }
    known[line.name] = section[line.name];
  }
  return section;
}

/// What is wanted of a value instead, "" if it is of its type.
std::string_view wanted_instead(ArgumentTable::ValueType type, const Json& value) {
  using Type = ArgumentTable::ValueType;
  constexpr std::int64_t most = std::int64_t{1} << 48;
  const auto is_whole = [&](const Json& each, std::int64_t least) {
    return each.is_number_integer() && each >= least && each <= most;
  };
  switch (type) {
    case Type::whole:
      return is_whole(value, 0) ? "" : "a whole number from 0 to 2^48";
    case Type::number:
      return value.is_number() ? "" : "a finite number";
    case Type::truth:
      return value.is_boolean() ? "" : "true or false";
    case Type::text:
      return value.is_string() ? "" : "a text";
    case Type::wholes:
      break;
  }
  const auto fits = [&](const Json& each) { return is_whole(each, -1); };
  const bool all = value.is_array() ? std::all_of(value.begin(), value.end(), fits) : fits(value);
  return all ? "" : "a whole number or a list of such";
}

void check_types(const ArgumentTable& table, const Json& args) {
  for (const auto& [name, type] : table.types) {
    const auto value = args.find(name);
    if (value == args.end() || value->is_null()) continue;
    const std::string_view wanted = wanted_instead(type, *value);
    if (wanted.empty()) continue;
    throw Error(Kind::input, "args: " + name + " is " + shown(*value) + ", " + std::string(wanted) +
                                 " is wanted");
  }
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

/// The conditions of a rule that a record does not meet.
std::vector<const Expression*> unmet(const ArgumentTable::FamilyRule& rule, const Record& record) {
  std::vector<const Expression*> conditions;
  for (const Expression& each : rule.conditions) {
    if (!each.holds(Names(record))) conditions.push_back(&each);
  }
  return conditions;
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
                                 shown(again.record.at(name)) +
                                 shown_members(table.arguments_of(name), again.plain));
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
  if (flag.spelling.empty()) return flag.argument + "=" + text;
  if (flag.argument == "window_size") {
    text = text.substr(1, text.size() - 2);  // Megatron reads 127,0 as a tuple
  } else if (value.is_array() || text.find_first_of("|()* ") != std::string::npos) {
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
  MegatronArguments read;
  read.plain = plain_members(args, table.enums);
  check_required(table, read.plain);
  check_types(table, read.plain);
  Json known = Json::object();
  for (const auto& [word, expression] : table.names) {
    known[word] = expression.evaluate(Names("args", read.plain, nullptr));
  }
  read.record = read_section(table, table.hyperparameters, read.plain, known);
  read.choices = read_section(table, table.choices, read.plain, known);
  read.degrees = read_section(table, table.degrees, read.plain, known);
  read.training = read_training(table, read.plain, beside);
  read.unknown = unknown_arguments(table, read.plain);
  for (const ArgumentTable::FamilyRule& rule : table.families) {
    if (unmet(rule, read.record).empty()) read.families.push_back(rule.model_type);
  }
  return read;
}

Json function_arguments(const ArgumentTable& table, const Json& args) {
  const Json all = plain_members(args, table.enums);
  Json told = Json::object();
  for (const Line& line : table.hyperparameters) {
    for (const std::string& name : table.arguments_of(line.name)) {
      const Json value = all.value(name, Json());
      const bool is_beside = name.starts_with('@');
      if (!value.is_null() && !is_beside) told[name] = value;
    }
  }
  return told;
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
    if (line.when && !line.when->holds(Names(names, &carry))) continue;
    try {
      const Json value = value_of(line, Names(names, &carry), none);
      const bool is_member = !line.enumeration.empty();
      written[line.name] = is_member ? member_of(table.enums, line.enumeration, value) : value;
    } catch (const Error& error) {
      throw error.in("argument " + line.name + shown_members(table.names_of(line), names));
    }
  }
  check_read_back(table, written, record, all_choices, all_degrees);
  return written;
}

CommandLine command_line(const ArgumentTable& table, const Json& args) {
  CommandLine line;
  for (const ArgumentTable::Flag& flag : table.command_line) {
    const auto found = args.find(flag.argument);
    if (found == args.end() || found->is_null()) continue;
    const Json value = plain(*found, table.enums);
    if (same_value(value, flag.standard)) continue;
    if (flag.when && !flag.when->holds(Names("args", args, nullptr))) continue;
    std::string text = spelled(flag, value);
    std::vector<std::string>& list = flag.spelling.empty() ? line.fields : line.flags;
    if (std::find(list.begin(), list.end(), text) == list.end()) list.push_back(std::move(text));
  }
  return line;
}

std::string nearest_family(const ArgumentTable& table, const MegatronArguments& arguments) {
  const ArgumentTable::FamilyRule* nearest = nullptr;
  std::vector<const Expression*> wanted;
  for (const ArgumentTable::FamilyRule& rule : table.families) {
    std::vector<const Expression*> conditions = unmet(rule, arguments.record);
    if (nearest != nullptr && conditions.size() >= wanted.size()) continue;
    nearest = &rule;
    wanted = std::move(conditions);
  }
  std::string text = "no family computes the function that args describe";
  if (nearest == nullptr) return text;
  text += "; " + nearest->model_type + " is nearest, but wants";
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    text += (i > 0 ? ", and " : " ") + wanted[i]->text() + " where args say";
    for (const std::string& name : wanted[i]->names()) {
      text += " " + name + " = " + shown(arguments.record.at(name)) +
              shown_members(table.arguments_of(name), arguments.plain);
    }
  }
  return text;
}

bool may_fill(const ArgumentTable& table, std::string_view model_type) {
  return std::any_of(table.families.begin(), table.families.end(), [&](const auto& rule) {
    return rule.model_type == model_type && rule.fills == "output_bias";
  });
}

CompleteRecord complete_record(const ArgumentTable& table, const MegatronArguments& arguments,
                               const Family& family, std::string_view model_type) {
  CompleteRecord made;
  made.model_type = model_type.empty() ? chosen_type(arguments, family) : std::string(model_type);
  Record wanted = with_spelling(arguments.record);
  // One flag for q, k, v and o: the o.bias that the source lacks is zero in the target.
  if (may_fill(table, made.model_type)) wanted["output_bias"] = wanted.at("attention_bias");
  try {
    const Origin origin = [&](const std::string& name) {
      return shown_members(table.arguments_of(name), arguments.plain);
    };
    const Json config = write_config(family, wanted, made.model_type, Json::object(), origin);
    made.model_type = config.at("model_type").get<std::string>();
    made.config = read_config(family, config);
  } catch (const Error& error) {
    std::vector<std::string> others = arguments.families;
    std::erase(others, made.model_type);
    throw error.with(others.empty()
                         ? "; no known family can, --family FILE.json may describe another"
                         : "; --family may be " + joined(others));
  }
  made.model = made.config;
  if (may_fill(table, made.model_type)) {
    made.model["output_bias"] = arguments.record.at("output_bias");
  }
  for (const auto& [key, name] : family.training) {
    if (arguments.training.contains(name)) made.config[name] = arguments.training.at(name);
  }
  return made;
}

}  // namespace reshard::families
