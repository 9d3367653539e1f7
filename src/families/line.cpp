#include "families/line.hpp"

#include <algorithm>
#include <cstdint>

#include "core/error.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

constexpr std::uint64_t most_layers = 10'000;

bool is_unsigned(const Json& value) {
  return value.is_number_unsigned() ||
         (value.is_number_integer() && value.get<std::int64_t>() >= 0);
}

Json for_each_layer(const Expression& expression, const Names& names) {
  const Json* const layers = names.find("layers");
  if (layers == nullptr || !is_unsigned(*layers) || layers->get<std::uint64_t>() > most_layers) {
    throw Error(Kind::input, "layers is " + (layers == nullptr ? "unknown" : shown(*layers)) +
                                 ", a number up to " + std::to_string(most_layers) + " is wanted");
  }
  Json list = Json::array();
  for (std::uint64_t l = 0; l < layers->get<std::uint64_t>(); ++l) {
    const Json layer = l;
    list.push_back(expression.evaluate(Names("l", layer, &names)));
  }
  return list;
}

std::optional<Expression> parse_when(const Json& json) {
  if (!json.contains("when")) return std::nullopt;
  return Expression(text_member(json, "when"));
}

Definition parse_definition(const Json& json) {
  Definition made;
  made.when = parse_when(json);
  int found = 0;
  for (const std::string_view name : {"fixed", "default", "value"}) {
    if (!json.contains(name)) continue;
    made.kind = Definition::Kind::literal;
    made.literal = json.at(std::string(name));
    made.fixed = name == "fixed";
    ++found;
  }
  const auto expression = [&](std::string_view name, Definition::Kind kind) {
    if (!json.contains(name)) return;
    made.kind = kind;
    made.expressions.emplace_back(text_member(json, name));
    ++found;
  };
  expression("formula", Definition::Kind::formula);
  expression("per_layer", Definition::Kind::per_layer);
  expression("torch_dtype", Definition::Kind::torch_dtype);
  if (json.contains("list")) {
    made.kind = Definition::Kind::list;
    for (const std::string& text : texts(json.at("list"), "list")) {
      made.expressions.emplace_back(text);
    }
    ++found;
  }
  if (found > 1) throw Error(Kind::input, "more than one definition in " + shown(json));
  return made;
}

/// JSON object keys are strings: "true" and "false" stand for the truth values.
Json key_value(const std::string& key) {
  if (key == "true") return true;
  if (key == "false") return false;
  return key;
}

}  // namespace

Json Definition::evaluate(const Names& names) const {
  switch (kind) {
    case Kind::literal:
      return literal;
    case Kind::formula:
      return expressions.front().evaluate(names);
    case Kind::per_layer:
      return for_each_layer(expressions.front(), names);
    case Kind::torch_dtype: {
      const Json dtype = expressions.front().evaluate(names);
      if (!dtype.is_string()) throw Error(reshard::Kind::input, shown(dtype) + " is no dtype");
      return {{"!", "global"}, {"name", "torch." + dtype.get<std::string>()}};
    }
    case Kind::list: {
      Json list = Json::array();
      for (const Expression& each : expressions) list.push_back(each.evaluate(names));
      return list;
    }
    case Kind::none:
      break;
  }
  throw Error(reshard::Kind::internal, "a line without a definition was evaluated");
}

Json Line::translate(const Json& theirs) const {
  if (theirs.is_array()) {
    Json list = Json::array();
    for (const Json& each : theirs) list.push_back(translate(each));
    return list;
  }
  if (values.empty() || theirs.is_null()) return theirs;
  std::vector<std::string> known;
  for (const auto& [from, to] : values) {
    if (same_value(from, theirs)) return to;
    known.push_back(shown(from));
  }
  throw Error(Kind::input, shown(theirs) + " is not supported, only " + joined(known));
}

Json Line::translate_back(const Json& ours) const {
  if (ours.is_array()) {
    Json list = Json::array();
    for (const Json& each : ours) list.push_back(translate_back(each));
    return list;
  }
  if (values.empty() || ours.is_null()) return ours;
  std::vector<std::string> known;
  for (const auto& [from, to] : values) {
    if (same_value(to, ours)) return from;
    known.push_back(shown(to));
  }
  throw Error(Kind::input, shown(ours) + " cannot be written, only " + joined(known));
}

Line parse_line(std::string_view name, const Json& json) {
  return with_context(name, [&] {
    Line line;
    line.name = name;
    if (json.is_string()) {
      line.definition = parse_definition({{"formula", json}});
      return line;
    }
    allow_members(json, {"keys", "values", "default", "formula", "per_layer", "fixed", "value",
                         "list", "torch_dtype", "nullable", "agree", "when", "cases", "enum"});
    if (json.contains("keys")) line.keys = texts(json.at("keys"), "keys");
    line.nullable = flag_member(json, "nullable", false);
    line.agree = flag_member(json, "agree", false);
    line.enumeration = text_member(json, "enum");
    line.when = parse_when(json);
    line.definition = parse_definition(json);
    if (json.contains("values")) {
      const Json& values = json.at("values");
      if (!values.is_object()) throw Error(Kind::input, "\"values\" is " + shown(values));
      for (const auto& [theirs, ours] : values.items()) {
        line.values.emplace_back(key_value(theirs), ours);
      }
    }
    if (!json.contains("cases")) return line;
    for (const Json& each : json.at("cases")) {
      allow_members(each, {"when", "value", "formula", "per_layer", "list"});
      required_member(each, "when");
      line.cases.push_back(parse_definition(each));
    }
    return line;
  });
}

bool same_value(const Json& a, const Json& b) {
  if (a.is_array() && b.is_array()) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), same_value);
  }
  return a == b;  // compares numbers by value, never with truth values
}

const Json* find_dotted(const Json& object, std::string_view dotted) {
  const Json* at = &object;
  while (true) {
    const std::size_t dot = dotted.find('.');
    if (!at->is_object()) return nullptr;
    const auto found = at->find(dotted.substr(0, dot));
    if (found == at->end()) return nullptr;
    at = &*found;
    if (dot == std::string_view::npos) return at;
    dotted.remove_prefix(dot + 1);
  }
}

}  // namespace reshard::families
