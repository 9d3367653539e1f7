#include "families/dialect_table.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

Places parse_places(const Json& json) {
  if (!json.is_object()) throw Error(Kind::input, "\"places\" holds " + shown(json));
  Places places;
  for (const auto& [pattern, unit] : json.items()) {
    if (pattern == "when") {
      places.when.emplace(text_member(json, "when"));
    } else {
      places.units.emplace_back(pattern, text_member(json, pattern));
    }
  }
  return places;
}

DialectTable::Stack parse_stack(const Json& json) {
  allow_members(json, {"when", "name", "factor"});
  const std::vector<std::string> names = texts(required_member(json, "name"), "name");
  if (names.size() != 2 || text_member(json, "factor") != "layers") {
    throw Error(Kind::input, "\"stack\" holds " + shown(json));
  }
  return {Expression(text_member(json, "when")), names[0], names[1]};
}

}  // namespace

Json DialectTable::complete_choices(const Json& chosen) const {
  Json all = Json::object();
  for (const auto& [choice, values] : choices) all[choice] = values.front();
  for (const auto& [choice, value] : chosen.items()) {
    const auto is_choice = [&wanted = choice](const auto& each) { return each.first == wanted; };
    const auto known = std::find_if(choices.begin(), choices.end(), is_choice);
    if (known == choices.end()) {
      throw Error(Kind::input, "dialect " + name + " has no choice " + choice);
    }
    const auto is_value = [&wanted = value](const Json& each) { return same_value(each, wanted); };
    if (std::none_of(known->second.begin(), known->second.end(), is_value)) {
      throw Error(Kind::input, "dialect " + name + ": " + choice + " is " + shown(value) +
                                   ", there are " + shown(known->second));
    }
    all[choice] = value;
  }
  return all;
}

const std::string& DialectTable::place_of(std::string_view role, const Names& names) const {
  for (const Places& each : places) {
    if (each.when && !each.when->holds(names)) continue;
    for (const auto& [pattern, place] : each.units) {
      if (matches(pattern, role)) return place;
    }
  }
  throw Error(Kind::input, "dialect " + name + " has no place for " + std::string(role));
}

DialectTable parse_dialect(const Json& table, std::string_view where) {
  return with_context(where, [&] {
    allow_members(table, {"dialect", "about", "choices", "unit", "places", "nested", "spellings",
                          "add", "stack", "rows", "ignored"});
    DialectTable made;
    made.name = required_member(table, "dialect").get<std::string>();
    for (const auto& [choice, values] : required_member(table, "choices").items()) {
      made.choices.emplace_back(choice, values.get<std::vector<Json>>());
      if (values.empty()) throw Error(Kind::input, "choice " + choice + " has no values");
    }
    made.unit = text_member(table, "unit");
    for (const Json& each : required_member(table, "places")) {
      made.places.push_back(parse_places(each));
    }
    if (table.contains("nested")) made.nested = texts(table.at("nested"), "nested");
    if (table.contains("spellings")) {
      for (const auto& [written, others] : table.at("spellings").items()) {
        made.spellings.emplace_back(written, texts(others, written));
      }
    }
    if (table.contains("add")) {
      const Json& add = table.at("add");
      allow_members(add, {"roles", "value"});
      made.add = {text_member(add, "roles"), Expression(text_member(add, "value"))};
    }
    if (table.contains("stack")) made.stack = parse_stack(table.at("stack"));
    for (const Json& row : required_member(table, "rows")) made.rows.push_back(parse_row(row));
    if (table.contains("ignored")) made.ignored = texts(table.at("ignored"), "ignored");
    return made;
  });
}

DialectTable load_dialect(std::string_view name) {
  return parse_dialect(embedded_table("dialects/" + std::string(name) + ".json"),
                       "dialect " + std::string(name));
}

}  // namespace reshard::families
