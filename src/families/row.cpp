#include <algorithm>
#include <cctype>

#include "core/error.hpp"
#include "families/family.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

constexpr std::uint64_t most_instances = 100'000;

bool begins_word(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_';
}
bool in_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

bool is_factor(std::string_view word) {
  const auto has = [&](const auto& role) {
    return std::find(role.second.begin(), role.second.end(), word) != role.second.end();
  };
  if (std::any_of(roles().factors.begin(), roles().factors.end(), has)) return true;
  const auto splits = [&](const auto& product) {
    return product.first == word || product.second.first == word || product.second.second == word;
  };
  return std::any_of(roles().products.begin(), roles().products.end(), splits);
}

/// Error(input) if a word of the layout is neither a factor nor one of the row's parts.
void check_layout(const std::string& layout, const Row& row) {
  for (std::size_t at = 0; at < layout.size();) {
    if (!begins_word(layout[at])) {
      ++at;
      continue;
    }
    std::size_t end = at;
    while (end < layout.size() && in_word(layout[end])) ++end;
    const std::string word = layout.substr(at, end - at);
    const auto named = [&](const auto& part) { return part.first == word; };
    if (!is_factor(word) && std::none_of(row.parts.begin(), row.parts.end(), named)) {
      throw Error(Kind::input, "layout \"" + layout + "\": no factor is called " + word);
    }
    at = end;
  }
}

/// How many values {l} or {e} takes: layers or experts of the record.
std::uint64_t count_of(const Record& record, std::string_view factor) {
  const auto found = record.find(factor);
  const bool counts = found != record.end() && found->is_number_integer() &&
                      (found->is_number_unsigned() || found->get<std::int64_t>() >= 0) &&
                      found->get<std::uint64_t>() <= most_instances;
  if (counts) return found->get<std::uint64_t>();
  throw Error(Kind::input, std::string(factor) + " is " +
                               (found == record.end() ? "unknown" : shown(*found)) +
                               ", a number up to " + std::to_string(most_instances) + " is wanted");
}

bool reads(const std::optional<Expression>& when, std::string_view name) {
  if (!when) return false;
  const auto& names = when->names();
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool holds(const Row& row, const Names& names) {
  return !row.when || row.when->holds(names);
}

/// Adds the instances of one row at one layer (or at none).
void add_experts(const Row& row, const Names& names, const Record& record, Instance instance,
                 std::vector<Instance>& out) {
  if (row.name.find("{e}") == std::string::npos) {
    if (!holds(row, names)) return;
    instance.name = concrete(row.name, instance);
    out.push_back(std::move(instance));
    return;
  }
  // A condition that does not speak of the expert is asked once, not for each of them.
  const bool by_expert = reads(row.when, "e");
  if (!by_expert && !holds(row, names)) return;
  const std::uint64_t experts = count_of(record, "experts");
  for (std::uint64_t e = 0; e < experts; ++e) {
    const Json expert = e;
    if (by_expert && !holds(row, Names("e", expert, &names))) continue;
    instance.expert = e;
    instance.name = concrete(row.name, instance);
    out.push_back(instance);
  }
}

void put(std::string& text, std::string_view pattern, std::optional<std::uint64_t> index) {
  if (!index) return;
  for (std::size_t at = text.find(pattern); at != std::string::npos; at = text.find(pattern, at)) {
    text.replace(at, pattern.size(), std::to_string(*index));
  }
}

}  // namespace

Row parse_row(const Json& json) {
  allow_members(json, {"name", "role", "parts", "layout", "view", "split", "expert_split", "pad",
                       "when", "optional", "seen", "form", "at"});
  Row row;
  row.name = text_member(json, "name");
  return with_context(row.name.empty() ? "row" : row.name, [&] {
    if (json.contains("parts") == json.contains("role")) {
      throw Error(Kind::input, "either \"role\" or \"parts\" is wanted");
    }
    if (json.contains("role")) {
      row.parts = {{"", text_member(json, "role")}};
    } else {
      for (const auto& [part, role] : required_member(json, "parts").items()) {
        row.parts.emplace_back(part, text_member(json.at("parts"), part));
      }
    }
    for (const auto& [part, role] : row.parts) roles().factors_of(role);
    required_member(json, "name");
    required_member(json, "layout");
    row.layout = text_member(json, "layout");
    row.view = text_member(json, "view");
    row.split = text_member(json, "split");
    row.expert_split = text_member(json, "expert_split");
    if (json.contains("pad")) {
      for (const auto& [factor, size] : json.at("pad").items()) {
        row.pad.emplace_back(factor, text_member(json.at("pad"), factor));
      }
    }
    if (json.contains("when")) row.when.emplace(text_member(json, "when"));
    row.optional = flag_member(json, "optional", false);
    row.seen = flag_member(json, "seen", true);
    row.form = text_member(json, "form");
    row.at = text_member(json, "at");
    check_layout(row.layout, row);
    check_layout(row.view, row);
    return row;
  });
}

std::string concrete(std::string_view pattern, const Instance& instance) {
  std::string text(pattern);
  put(text, "{l}", instance.layer);
  put(text, "{e}", instance.expert);
  return text;
}

std::vector<Instance> instances(std::span<const Row> rows, const Record& record) {
  std::vector<Instance> out;
  const Names names(record);
  for (const Row& row : rows) {
    Instance instance;
    instance.row = &row;
    if (row.name.find("{l}") == std::string::npos) {
      add_experts(row, names, record, instance, out);
      continue;
    }
    const std::uint64_t layers = count_of(record, "layers");
    for (std::uint64_t l = 0; l < layers; ++l) {
      const Json layer = l;
      instance.layer = l;
      add_experts(row, Names("l", layer, &names), record, instance, out);
    }
  }
  return out;
}

}  // namespace reshard::families
