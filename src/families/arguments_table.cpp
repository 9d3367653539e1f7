#include <algorithm>
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

void add_arguments(const std::optional<Expression>& expression, std::set<std::string>& names) {
  if (!expression) return;
  const std::vector<std::string> read = expression->members_of("args");
  names.insert(read.begin(), read.end());
}

void add_arguments(const Definition& definition, std::set<std::string>& names) {
  add_arguments(definition.when, names);
  for (const Expression& each : definition.expressions) add_arguments(each, names);
}

/// The arguments that a table reads anywhere.
std::vector<std::string> known_arguments(const ArgumentTable& table) {
  std::set<std::string> names(table.travel.begin(), table.travel.end());
  for (const auto& [name, allowed] : table.required) names.insert(name);
  for (const auto* lines : {&table.hyperparameters, &table.choices, &table.degrees}) {
    for (const Line& line : *lines) {
      for (const std::string& key : line.keys) names.insert(key.substr(0, key.find('.')));
      add_arguments(line.when, names);
      add_arguments(line.definition, names);
      for (const Definition& each : line.cases) add_arguments(each, names);
    }
  }
  return {names.begin(), names.end()};
}

void add_rules(ArgumentTable& table, const Json& json) {
  for (const Json& rule : required_member(json, "families")) {
    allow_members(rule, {"model_type", "when", "fills"});
    table.families.push_back({text_member(rule, "model_type"),
                              Expression(text_member(rule, "when")), text_member(rule, "fills")});
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
    allow_members(
        json, {"comment", "classes", "hyperparameters", "required", "choices", "degrees",
               "training", "families", "write", "carried", "loaders", "command_line", "unused"});
    ArgumentTable table;
    table.name = name;
    table.hyperparameters = parse_lines(required_member(json, "hyperparameters"));
    table.choices = parse_lines(required_member(json, "choices"));
    table.degrees = parse_lines(required_member(json, "degrees"));
    table.written = parse_lines(required_member(json, "write"));
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

}  // namespace reshard::families
