#include "families/record.hpp"

#include <algorithm>
#include <optional>
#include <set>

#include "core/error.hpp"
#include "families/record_types.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

/// The first value at one of the keys that is not null; null if there is only that.
std::optional<Json> look_up(const Json& config, const std::vector<std::string>& keys) {
  std::optional<Json> found;
  for (const std::string& key : keys) {
    const Json* const value = find_dotted(config, key);
    if (value != nullptr && (!found || found->is_null())) found = *value;
  }
  return found;
}

Json read_line(const Line& line, const Json& config, const Record& record) {
  const Names names(record);
  if (line.when && !line.when->holds(names)) return nullptr;
  const Definition& definition = line.definition;
  std::optional<Json> found = look_up(config, line.keys);
  if (found && found->is_null() && !line.nullable) found.reset();
  if (!found && definition.kind == Definition::Kind::none) {
    throw Error(Kind::input, "none of the keys " + joined(line.keys) + " is there");
  }
  Json value = found ? line.translate(*found) : definition.evaluate(names);
  if (definition.fixed && !same_value(value, definition.literal)) {
    throw Error(Kind::input, shown(value) + " is not supported, only " + shown(definition.literal));
  }
  if (definition.kind == Definition::Kind::per_layer &&
      (!value.is_array() || !same_value(value.size(), record.at("layers")))) {
    throw Error(Kind::input, shown(value) + " is no list of one value for each of " +
                                 shown(record.at("layers")) + " layers");
  }
  check_type(line.name, value);
  return value;
}

/// " (num_attention_heads = 6, num_key_value_heads = 4)": the keys of a config.json that tell a
/// line, its own and those of the lines that it reads; "" if none is there.
std::string told_by(const Line& line, const ModelType& type, const Json& config) {
  std::set<std::string_view> read = {line.name};
  const auto read_by = [&](const Line& each) {
    for (const Expression& expression : each.definition.expressions) {
      read.insert(expression.names().begin(), expression.names().end());
    }
  };
  read_by(line);
  std::string text;
  for (const Line& each : type.lines) {
    if (!read.contains(each.name)) continue;
    for (const std::string& key : each.keys) {
      const Json* const value = find_dotted(config, key);
      if (value == nullptr || value->is_null()) continue;
      text += (text.empty() ? " (" : ", ") + key + " = " + shown(*value);
      break;  // the first that is there tells
    }
  }
  return text.empty() ? text : text + ")";
}

/// Dotted keys of all values that are no objects.
void add_leaves(const Json& config, const std::string& prefix,
                std::vector<std::pair<std::string, const Json*>>& leaves) {
  for (const auto& [key, value] : config.items()) {
    if (value.is_object()) {
      add_leaves(value, prefix + key + ".", leaves);
    } else {
      leaves.emplace_back(prefix + key, &value);
    }
  }
}

std::string_view first_step(std::string_view dotted) {
  return dotted.substr(0, dotted.find('.'));
}

void check_required(const Family& family, const Json& config) {
  for (const auto& [key, wanted] : family.required) {
    const Json* const seen = find_dotted(config, key);
    if (seen == nullptr || seen->is_null() || same_value(*seen, wanted)) continue;
    throw Error(Kind::input,
                key + " is " + shown(*seen) + ", only " + shown(wanted) + " is supported");
  }
}

/// Refuses the keys that nothing reads, all in one message.
void check_unknown(const Family& family, const ModelType& type, const Json& config,
                   const std::vector<std::string>& ignore_keys,
                   std::vector<std::string>* ignored_found) {
  std::set<std::string, std::less<>> read;
  for (const Line& line : type.lines) read.insert(line.keys.begin(), line.keys.end());
  for (const auto& [key, value] : family.required) read.insert(key);
  const std::set<std::string, std::less<>> unused(family.unused_keys.begin(),
                                                  family.unused_keys.end());
  const std::set<std::string, std::less<>> ignore(ignore_keys.begin(), ignore_keys.end());
  std::vector<std::pair<std::string, const Json*>> leaves;
  add_leaves(config, "", leaves);
  std::string unknown;
  std::string flags;
  for (const auto& [key, value] : leaves) {
    if (value->is_null() || read.contains(key) || unused.contains(first_step(key))) continue;
    if (ignore.contains(key) || ignore.contains(first_step(key))) {
      if (ignored_found != nullptr) ignored_found->push_back(key);
      continue;
    }
    unknown += (unknown.empty() ? "" : ", ") + key + " = " + shown(*value);
    flags += " --ignore-config " + key;
  }
  if (unknown.empty()) return;
  throw Error(Kind::input, "model_type " + type.name + " does not know " + unknown +
                               "; if they change nothing, give" + flags);
}

void put_dotted(Json& config, std::string_view dotted, const Json& value) {
  Json* at = &config;
  for (std::size_t dot = dotted.find('.'); dot != std::string_view::npos; dot = dotted.find('.')) {
    at = &(*at)[std::string(dotted.substr(0, dot))];
    dotted.remove_prefix(dot + 1);
  }
  (*at)[std::string(dotted)] = value;
}

const ModelType& fitting_type(const Family& family, const Record& record) {
  for (const ModelType& type : family.model_types) {
    if (!type.when || type.when->holds(Names(record))) return type;
  }
  throw Error(Kind::input, "family " + family.name + ": none of its model_types fits the record");
}

/// What the lines and the table's constants say, without what is carried.
Json write_lines(const Family& family, const ModelType& type, const Record& record,
                 const Origin& origin) {
  Json config = {{"model_type", type.name}, {"architectures", Json::array({type.architecture})}};
  for (const Line& line : type.lines) {
    const auto found = record.find(line.name);
    if (found == record.end()) {
      throw Error(Kind::input, "hyperparameter " + line.name + " is unknown");
    }
    if (line.keys.empty() || (found->is_null() && !line.nullable)) continue;
    const std::string where = "hyperparameter " + line.name + (origin ? origin(line.name) : "");
    put_dotted(config, line.keys.front(),
               with_context(where, [&] { return line.translate_back(*found); }));
  }
  for (const auto& [key, name] : family.training) {
    if (record.contains(name)) config[key] = record.at(name);
  }
  return config;
}

void lay_under(Json& config, const Json& more, const ModelType& type) {
  std::set<std::string_view> read;
  for (const Line& line : type.lines) {
    for (const std::string& key : line.keys) read.insert(first_step(key));
  }
  for (const auto& [key, value] : more.items()) {
    // A constant null (rope_scaling) says that nothing is there.
    if (config.contains(key) || (read.contains(key) && !value.is_null())) continue;
    config[key] = value;
  }
}

/// Lines that change nothing for a model of this record, or only say how something is spelled.
std::set<std::string> idle_lines(const Record& record) {
  std::set<std::string> idle = {"use_window",   "full_layers", "first_moe",        "moe_step",
                                "dense_layers", "dtype",       "rope_interleaved", "vocab"};
  const std::string position = text_member(record, "position");
  const auto is_null = [&](std::string_view name) {
    const auto found = record.find(name);
    return found == record.end() || found->is_null();
  };
  if (position != "learned") idle.insert("positions");
  for (const auto& [name, value] : record.items()) {
    const bool yarn = name.starts_with("yarn_");
    const bool rotary = yarn || name.starts_with("rope_") || name.starts_with("rotary_");
    if (position != "rope" && rotary) idle.insert(name);
    if (is_null("rope_scaling") && yarn) idle.insert(name);
  }
  if (position != "rope") idle.insert({"half", "pair"});
  if (is_null("rope_scaling")) {
    idle.insert({"rope_factor", "rope_positions", "rope_low_factor", "rope_high_factor",
                 "rope_short_factors", "rope_long_factors", "rope_attention"});
  }
  if (is_null("experts") || same_value(record.at("experts"), 0)) {
    idle.insert({"experts_per_token", "expert_ffn", "expert_bias", "shared_experts", "shared_ffn",
                 "router_score", "router_normalised", "router_bias", "router_score_bias",
                 "router_groups", "router_top_groups", "router_scale"});
  }
  const auto moe = record.find("moe");
  if (moe != record.end() && moe->is_array() &&
      std::all_of(moe->begin(), moe->end(), [](const Json& each) { return each == true; })) {
    idle.insert({"ffn", "mlp_bias"});
  }
  return idle;
}

}  // namespace

Record read_config(const Family& family, const Json& config,
                   const std::vector<std::string>& ignore_keys,
                   std::vector<std::string>* ignored_found) {
  const Json& type_name = required_member(config, "model_type");
  if (!type_name.is_string()) {
    throw Error(Kind::input, "model_type is " + shown(type_name) + ", not a string");
  }
  const ModelType& type = family.model_type(type_name.get_ref<const std::string&>());
  Record record = Json::object();
  for (const Line& line : type.lines) {
    try {
      record[line.name] = read_line(line, config, record);
    } catch (const Error& error) {
      throw error.in("hyperparameter " + line.name + told_by(line, type, config));
    }
  }
  check_required(family, config);
  check_unknown(family, type, config, ignore_keys, ignored_found);
  return record;
}

Json write_config(const Family& family, const Record& record, std::string_view model_type,
                  const Json& carried, const Origin& origin) {
  const ModelType& type =
      model_type.empty() ? fitting_type(family, record) : family.model_type(model_type);
  if (type.when && !type.when->holds(Names(record))) {
    throw Error(Kind::input, "model_type " + type.name + " of family " + family.name +
                                 " cannot hold the record: it wants " + type.when->text());
  }
  Json config = write_lines(family, type, record, origin);
  lay_under(config, carried, type);
  lay_under(config, family.written, type);
  std::vector<std::string> carried_keys;
  for (const auto& [key, value] : carried.items()) carried_keys.push_back(key);
  const Record again = read_config(family, config, carried_keys);
  for (const std::string& name : differing_lines(record, again)) {
    throw Error(Kind::input, "family " + family.name + " (model_type " + type.name +
                                 ") cannot hold hyperparameter " + name + " = " +
                                 shown(record.at(name)) + (origin ? origin(name) : "") +
                                 ", its config.json would say " + shown(again.at(name)));
  }
  return config;
}

std::vector<std::string> differing_lines(const Record& a, const Record& b) {
  const std::set<std::string> idle = idle_lines(a);
  std::vector<std::string> differing;
  for (const auto& [name, value] : a.items()) {
    const auto other = b.find(name);
    if (other == b.end() || idle.contains(name) || same_value(value, *other)) continue;
    differing.push_back(name);
  }
  std::sort(differing.begin(), differing.end());
  return differing;
}

}  // namespace reshard::families
