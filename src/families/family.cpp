#include "families/family.hpp"

#include <algorithm>
#include <set>

#include "core/error.hpp"
#include "families/embedded.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

/// Lines by name in the order of the shared ones, whole lines of `table` laid over them.
std::vector<Line> lay_over(std::vector<Line> lines, const Json& table) {
  for (const auto& [name, json] : table.items()) {
    const auto found = std::find_if(lines.begin(), lines.end(), [&wanted = name](const Line& line) {
      return line.name == wanted;
    });
    if (found == lines.end()) throw Error(Kind::input, "no hyperparameter is called " + name);
    *found = parse_line(name, json);
  }
  return lines;
}

/// Error(input) if an expression reads a name that is not in `known`.
void check_names(const Expression& expression, const std::set<std::string>& known) {
  for (const std::string& name : expression.names()) {
    if (known.contains(name)) continue;
    throw Error(Kind::input,
                "expression \"" + expression.text() + "\": nothing above is called " + name);
  }
}

/// Each line reads only the lines above it (and l, if it has one value a layer).
void check_lines(const std::vector<Line>& lines) {
  std::set<std::string> above;
  for (const Line& line : lines) {
    with_context(line.name, [&] {
      if (line.agree || !line.cases.empty()) {
        throw Error(Kind::input,
                    "\"agree\" and \"cases\" are for arguments, not for a config.json");
      }
      if (line.when) check_names(*line.when, above);
      std::set<std::string> known = above;
      if (line.definition.kind == Definition::Kind::per_layer) known.insert("l");
      for (const Expression& each : line.definition.expressions) check_names(each, known);
    });
    above.insert(line.name);
  }
}

std::set<std::string> names_of(const std::vector<Line>& lines) {
  std::set<std::string> names;
  for (const Line& line : lines) names.insert(line.name);
  return names;
}

ModelType parse_model_type(const std::string& name, const Json& json,
                           const std::vector<Line>& lines) {
  allow_members(json, {"architecture", "when", "hyperparameters"});
  required_member(json, "architecture");
  ModelType type{name, text_member(json, "architecture"), {}, lines};
  if (json.contains("when")) type.when.emplace(text_member(json, "when"));
  if (json.contains("hyperparameters")) type.lines = lay_over(lines, json.at("hyperparameters"));
  check_lines(type.lines);
  if (type.when) check_names(*type.when, names_of(type.lines));
  return type;
}

void add_model_types(Family& family, const Json& table, const Json& shared) {
  std::vector<Line> lines;
  for (const auto& [name, json] : shared.at("hyperparameters").items()) {
    lines.push_back(parse_line(name, json));
  }
  if (table.contains("hyperparameters")) lines = lay_over(lines, table.at("hyperparameters"));
  for (const auto& [name, json] : required_member(table, "model_types").items()) {
    family.model_types.push_back(with_context(
        "model_type " + name,
        [&, &type = name, &type_json = json] { return parse_model_type(type, type_json, lines); }));
  }
  if (family.model_types.empty()) throw Error(Kind::input, "\"model_types\" is empty");
}

void add_rows(Family& family, const Json& table) {
  std::set<std::string> known = names_of(family.model_types.front().lines);
  known.insert({"l", "e"});
  const Json& rows = required_member(table, "rows");
  if (!rows.is_array() || rows.empty()) throw Error(Kind::input, "\"rows\" is no list of rows");
  for (const Json& each : rows) {
    Row row = parse_row(each);
    with_context(row.name, [&] {
      if (row.when) check_names(*row.when, known);
      const bool by_layer = row.name.find("{l}") != std::string::npos;
      for (const auto& [part, role] : row.parts) {
        if ((role.find("{l}") != std::string::npos) == by_layer) continue;
        throw Error(Kind::input, "{l} stands in only one of name and role " + role);
      }
    });
    family.rows.push_back(std::move(row));
  }
}

/// Error(input) for unknown members of a table, and for sections that are no objects.
void check_sections(const Json& table) {
  allow_members(table, {"family", "comment", "model_types", "base", "hyperparameters", "required",
                        "unused_keys", "written", "training", "rows", "ignored"});
  for (const std::string section :
       {"model_types", "hyperparameters", "required", "written", "training"}) {
    if (!table.contains(section) || table.at(section).is_object()) continue;
    throw Error(Kind::input,
                "\"" + section + "\" is " + shown(table.at(section)) + ", not an object");
  }
}

/// The keys that a config.json gets beyond the record's must be those that a reader accepts.
void add_written(Family& family, const Json& table, const Json& shared) {
  family.written = shared.at("written");
  if (table.contains("written")) family.written.update(table.at("written"));
  const Json& training = (table.contains("training") ? table : shared).at("training");
  Json keys = family.written;
  for (const auto& [key, name] : training.items()) {
    family.training.emplace_back(key, text_member(training, key));
    keys[key] = name;
  }
  for (const auto& [key, value] : keys.items()) {
    const auto is_key = [&wanted = key](const auto& each) { return each.first == wanted; };
    const auto& unused = family.unused_keys;
    if (value.is_null() || std::find(unused.begin(), unused.end(), key) != unused.end() ||
        std::any_of(family.required.begin(), family.required.end(), is_key)) {
      continue;
    }
    throw Error(Kind::input,
                std::string(training.contains(key) ? "\"training\": " : "\"written\": ") + key +
                    " is neither an unused nor a required key");
  }
}

/// The name of a family's embedded file; empty for other tables.
std::string_view embedded_name(const EmbeddedFile& file) {
  constexpr std::string_view folder = "families/";
  constexpr std::string_view ending = ".json";
  if (!file.path.starts_with(folder)) return {};
  return file.path.substr(folder.size(), file.path.size() - folder.size() - ending.size());
}

using FamilyTypes = std::vector<std::pair<std::string, std::vector<std::string>>>;

FamilyTypes read_families_and_types() {
  FamilyTypes all;
  for (const EmbeddedFile& file : embedded_files()) {
    if (embedded_name(file).empty()) continue;
    all.emplace_back(embedded_name(file), std::vector<std::string>());
    const Json table = Json::parse(file.text);
    for (const auto& [type, json] : table.at("model_types").items()) {
      all.back().second.push_back(type);
    }
  }
  const Json rules = embedded_table("arguments/megatron.json").at("families");
  const auto rank = [&](const auto& family) {
    const auto has = [&](const Json& rule) {
      const auto& types = family.second;
      return std::find(types.begin(), types.end(), rule.at("model_type")) != types.end();
    };
    return std::find_if(rules.begin(), rules.end(), has) - rules.begin();
  };
  std::sort(all.begin(), all.end(), [&](const auto& a, const auto& b) {
    return std::pair(rank(a), a.first) < std::pair(rank(b), b.first);
  });
  return all;
}

/// All families with their model types: those of the rules first, then by name.
const FamilyTypes& families_and_types() {
  static const FamilyTypes all = read_families_and_types();  // every table has to be read for it
  return all;
}

}  // namespace

const ModelType& Family::model_type(std::string_view type) const {
  std::vector<std::string> known;
  for (const ModelType& each : model_types) {
    if (each.name == type) return each;
    known.push_back(each.name);
  }
  throw Error(Kind::input, "family " + name + " has no model_type " + std::string(type) +
                               ", only " + joined(known));
}

std::vector<std::string> Family::forms() const {
  std::vector<std::string> found;
  for (const Row& row : rows) {
    if (row.form.empty() || std::find(found.begin(), found.end(), row.form) != found.end()) {
      continue;
    }
    found.push_back(row.form);
  }
  if (found.empty()) found.emplace_back();
  return found;
}

std::vector<Row> Family::rows_of(std::string_view form) const {
  std::vector<Row> found;
  for (const Row& row : rows) {
    if (row.form.empty() || row.form == form) found.push_back(row);
  }
  return found;
}

Family parse_family(const Json& table, std::string_view where) {
  return with_context(where, [&] {
    check_sections(table);
    const Json shared = embedded_table("hyperparameters.json");
    Family family;
    required_member(table, "family");
    family.name = text_member(table, "family");
    family.base = text_member(table, "base");
    add_model_types(family, table, shared);
    if (table.contains("required")) {
      for (const auto& [key, value] : table.at("required").items()) {
        family.required.emplace_back(key, value);
      }
    }
    family.unused_keys = texts(shared.at("unused_keys"), "unused_keys");
    if (table.contains("unused_keys")) {
      for (std::string& key : texts(table.at("unused_keys"), "unused_keys")) {
        family.unused_keys.push_back(std::move(key));
      }
    }
    add_written(family, table, shared);
    add_rows(family, table);
    if (table.contains("ignored")) family.ignored = texts(table.at("ignored"), "ignored");
    return family;
  });
}

Family load_family(std::string_view name) {
  for (const EmbeddedFile& file : embedded_files()) {
    if (embedded_name(file) != name) continue;
    return parse_family(Json::parse(file.text), "family " + std::string(name));
  }
  throw Error(Kind::usage,
              "no family is called " + std::string(name) + ", there are " + joined(family_names()));
}

Family family_of_model_type(std::string_view model_type) {
  std::vector<std::string> known;
  for (const auto& [family, types] : families_and_types()) {
    if (std::find(types.begin(), types.end(), model_type) != types.end()) {
      return load_family(family);
    }
    known.insert(known.end(), types.begin(), types.end());
  }
  throw Error(Kind::input, "no family has model_type " + std::string(model_type) + "; there are " +
                               joined(known) + "; --family FILE.json may describe another");
}

Family family_of_config(const Json& config) {
  return with_context("config.json", [&] {
    const Json& type = required_member(config, "model_type");
    if (!type.is_string()) {
      throw Error(Kind::input, "model_type is " + shown(type) + ", not a string");
    }
    return family_of_model_type(type.get_ref<const std::string&>());
  });
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& [family, types] : families_and_types()) names.push_back(family);
  return names;
}

}  // namespace reshard::families
