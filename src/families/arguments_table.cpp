#include <algorithm>
#include <array>
#include <set>

#include "core/error.hpp"
#include "families/arguments.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

std::vector<Line> parse_lines(const Json& section) {
  std::vector<Line> lines;
  for (const auto& [name, json] : section.items()) lines.push_back(parse_line(name, json));
  return lines;
}

/// All expressions of a line.
std::vector<const Expression*> expressions_of(const Line& line) {
  std::vector<const Expression*> all;
  const auto add = [&](const Definition& definition) {
    if (definition.when) all.push_back(&*definition.when);
    for (const Expression& each : definition.expressions) all.push_back(&each);
  };
  if (line.when) all.push_back(&*line.when);
  add(line.definition);
  for (const Definition& each : line.cases) add(each);
  return all;
}

void add_once(const std::vector<std::string>& more, std::vector<std::string>& names) {
  for (const std::string& name : more) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
}

/// The arguments that a table reads anywhere.
std::vector<std::string> known_arguments(const ArgumentTable& table) {
  std::set<std::string> names(table.travel.begin(), table.travel.end());
  for (const auto& [name, allowed] : table.required) names.insert(name);
  for (const auto& [word, expression] : table.names) {
    const std::vector<std::string> read = expression.members_of("args");
    names.insert(read.begin(), read.end());
  }
  for (const auto* lines : {&table.hyperparameters, &table.choices, &table.degrees}) {
    for (const Line& line : *lines) {
      const std::vector<std::string> read = table.arguments_of(line.name);
      names.insert(read.begin(), read.end());
    }
  }
  return {names.begin(), names.end()};
}

/// The parts of a condition that its outermost `and`s join.
std::vector<Expression> parts_of(const std::string& condition) {
  constexpr std::string_view joint = " and ";
  std::vector<Expression> parts;
  std::size_t begin = 0;
  int depth = 0;
  for (std::size_t i = 0; i < condition.size(); ++i) {
    depth += (condition[i] == '(') - (condition[i] == ')');
    if (depth != 0 || condition.compare(i, joint.size(), joint) != 0) continue;
    parts.emplace_back(condition.substr(begin, i - begin));
    begin = i + joint.size();
  }
  parts.emplace_back(condition.substr(begin));
  return parts;
}

std::vector<std::pair<std::string, ArgumentTable::ValueType>> parse_types(const Json& json) {
  using Type = ArgumentTable::ValueType;
  constexpr std::array<std::pair<std::string_view, Type>, 5> kinds = {{{"whole", Type::whole},
                                                                       {"number", Type::number},
                                                                       {"truth", Type::truth},
                                                                       {"text", Type::text},
                                                                       {"wholes", Type::wholes}}};
  std::vector<std::pair<std::string, Type>> types;
  allow_members(json, {"whole", "number", "truth", "text", "wholes"});
  for (const auto& [kind, type] : kinds) {
    if (!json.contains(kind)) continue;
    for (std::string& name : texts(json.at(std::string(kind)), kind)) {
      types.emplace_back(std::move(name), type);
    }
  }
  return types;
}

void add_rules(ArgumentTable& table, const Json& json) {
  for (const Json& rule : required_member(json, "families")) {
    allow_members(rule, {"model_type", "when", "fills"});
    table.families.push_back({text_member(rule, "model_type"), parts_of(text_member(rule, "when")),
                              text_member(rule, "fills")});
  }
  for (const auto& [argument, flag] : required_member(json, "command_line").items()) {
    allow_members(flag, {"flag", "default", "when"});
    ArgumentTable::Flag made;
    made.argument = argument;
    if (!required_member(flag, "flag").is_null()) made.spelling = text_member(flag, "flag");
    made.standard = required_member(flag, "default");
    if (flag.contains("when")) made.when.emplace(text_member(flag, "when"));
    table.command_line.push_back(std::move(made));
  }
}

/// Values of lines without any argument: those given, else what the lines make of nothing.
Json complete(const std::vector<Line>& lines, const Json& given, std::string_view what) {
  const Json none = Json::object();
  Json all = given;
  for (const Line& line : lines) {
    if (all.contains(line.name)) continue;
    const Names outer("args", none, nullptr);
    const Names names(all, &outer);
    const auto fits = [&](const Definition& each) { return each.when->holds(names); };
    const auto chosen = std::find_if(line.cases.begin(), line.cases.end(), fits);
    const Definition& definition = chosen == line.cases.end() ? line.definition : *chosen;
    if (definition.kind == Definition::Kind::none) {
      throw Error(Kind::input, std::string(what) + " " + line.name + " is not given");
    }
    all[line.name] = definition.evaluate(names);
  }
  return all;
}

}  // namespace

ArgumentTable load_arguments(std::string_view name) {
  const Json json = embedded_table("arguments/" + std::string(name) + ".json");
  return with_context("arguments " + std::string(name), [&] {
    allow_members(json, {"comment", "classes", "enums", "names", "hyperparameters", "required",
                         "types", "choices", "degrees", "training", "families", "write", "carried",
                         "loaders", "command_line", "unused"});
    ArgumentTable table;
    table.name = name;
    table.enums = json.value("enums", Json::object());
    const Json words = json.value("names", Json::object());
    for (const auto& [word, text] : words.items()) {
      table.names.emplace_back(word, Expression(text.get<std::string>()));
    }
    table.hyperparameters = parse_lines(required_member(json, "hyperparameters"));
    table.choices = parse_lines(required_member(json, "choices"));
    table.degrees = parse_lines(required_member(json, "degrees"));
    table.written = parse_lines(required_member(json, "write"));
    table.types = parse_types(json.value("types", Json::object()));
    for (const auto& [argument, allowed] : required_member(json, "required").items()) {
      table.required.emplace_back(argument, allowed.get<std::vector<Json>>());
    }
    for (const auto& [argument, otherwise] : required_member(json, "carried").items()) {
      table.carried.emplace_back(argument, otherwise);
    }
    const Json& training = required_member(json, "training");
    table.beside = texts(required_member(training, "beside"), "beside");
    table.travel = texts(required_member(training, "travel"), "travel");
    add_rules(table, json);
    for (const auto& [reason, patterns] : required_member(json, "unused").items()) {
      for (std::string& each : texts(patterns, reason)) table.unused.push_back(std::move(each));
    }
    table.known = known_arguments(table);
    return table;
  });
}

Json ArgumentTable::complete_degrees(const Json& given) const {
  return complete(degrees, given, "degree");
}

Json ArgumentTable::complete_choices(const Json& given) const {
  return complete(choices, given, "choice");
}

std::vector<std::string> ArgumentTable::arguments_of(std::string_view wanted) const {
  std::vector<std::string> arguments;
  for (const auto& [word, expression] : names) {
    if (word == wanted) add_once(expression.members_of("args"), arguments);
  }
  for (const auto* lines : {&hyperparameters, &choices, &degrees}) {
    for (const Line& line : *lines) {
      if (line.name != wanted) continue;
      for (const std::string& key : line.keys) add_once({key.substr(0, key.find('.'))}, arguments);
      for (const Expression* each : expressions_of(line)) {
        add_once(each->members_of("args"), arguments);
      }
      for (const std::string& above : names_of(line)) {
        if (above != wanted) add_once(arguments_of(above), arguments);
      }
    }
  }
  return arguments;
}

std::vector<std::string> ArgumentTable::names_of(const Line& line) {
  std::vector<std::string> names;
  for (const Expression* each : expressions_of(line)) add_once(each->names(), names);
  return names;
}

}  // namespace reshard::families
