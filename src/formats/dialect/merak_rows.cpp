#include <algorithm>
#include <array>
#include <charconv>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "families/table.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/merak.hpp"

// What the files of a run hold: rows that the table derives from a family's.

namespace reshard::formats {
namespace {

/// Families whose layers Merak's lists of parallel layers name (merak.md section 12).
constexpr std::array known_families = {"gpt2", "llama", "qwen2", "qwen3"};

/// The items of a layout, one a stored dimension.
std::vector<std::string> dimensions_of(const std::string& layout) {
  std::vector<std::string> items(1);
  int depth = 0;
  for (const char c : layout) {
    depth += c == '(' || c == '{' ? 1 : c == ')' || c == '}' ? -1 : 0;
    if (c == ' ' && depth == 0) {
      items.emplace_back();
    } else {
      items.back() += c;
    }
  }
  return items;
}

bool has_factor(const std::string& layout, const std::string& factor) {
  const std::vector<std::string> factors = Layout(layout).factors();
  return std::find(factors.begin(), factors.end(), factor) != factors.end();
}

/// A pattern with one choice of characters "[qkv]" as patterns without.
std::vector<std::string> spelled_out(const std::string& pattern) {
  const std::size_t begin = pattern.find('['), end = pattern.find(']');
  if (begin == std::string::npos) return {pattern};
  std::vector<std::string> patterns;
  for (std::size_t i = begin + 1; i < end; ++i) {
    patterns.push_back(pattern.substr(0, begin) + pattern[i] + pattern.substr(end + 1));
  }
  return patterns;
}

const MerakTable::Rule* rule_of(const MerakTable& table, const families::Row& row,
                                const families::Names& names) {
  for (const MerakTable::Rule& rule : table.parallel) {
    const bool fits = std::all_of(row.parts.begin(), row.parts.end(), [&](const auto& part) {
      return std::any_of(rule.roles.begin(), rule.roles.end(), [&](const std::string& pattern) {
        return families::matches(pattern, part.second);
      });
    });
    if (fits && rule.when.holds(names)) return &rule;
  }
  return nullptr;
}

/// A row as Merak stores it: padded, split, and where a parallel layer replaced the model's own
/// renamed and laid out [out, in].
families::Row derived(const MerakTable& table, families::Row row, bool of_family,
                      const families::Names& names) {
  if (row.optional) row.at = "head.weight";
  row.optional = !of_family;
  for (const auto& pad : table.pad) {
    if (has_factor(row.layout, pad.first)) row.pad = {pad};
  }
  const MerakTable::Rule* rule = rule_of(table, row, names);
  if (rule == nullptr) return row;
  row.split = rule->split;
  if (rule->suffix.empty()) return row;
  row.name.insert(row.name.rfind('.'), "." + rule->suffix);
  const std::vector<std::string> items = dimensions_of(row.layout);
  const std::string& input = families::roles().factors_of(row.parts.front().second).back();
  if (items.size() == 2 && has_factor(items[0], input)) row.layout = items[1] + " " + items[0];
  return row;
}

std::vector<families::Row> rows_of(const MerakTable& table, const families::Family& family,
                                   const Json& names) {
  if (std::find(known_families.begin(), known_families.end(), family.name) ==
      known_families.end()) {
    throw Error(Kind::input,
                "Merak's parallel layers are known for gpt2, llama, qwen2 and qwen3, "
                "the model is of family " +
                    family.name);
  }
  const families::Names scope(names);
  std::vector<families::Row> rows;
  for (const families::Row& row : table.dialect.rows) {
    rows.push_back(derived(table, row, false, scope));
  }
  for (const families::Row& row : family.rows_of(family.forms().front())) {
    rows.push_back(derived(table, row, true, scope));
  }
  return rows;
}

Json names_of(const MerakTable& table, const families::Record& record, const Json& choices,
              std::uint64_t tp, std::uint64_t padded_vocab) {
  Json names = record;
  names.update(table.dialect.complete_choices(choices));
  names["tp"] = tp;
  names["padded_vocab"] = padded_vocab;
  return names;
}

void replace(std::string& text, std::string_view mark, std::string_view value) {
  const std::size_t at = text.find(mark);
  if (at != std::string::npos) text.replace(at, mark.size(), value);
}

}  // namespace

MerakTable load_merak() {
  Json json = families::embedded_table("dialects/merak.json");
  const Json derive = json.at("derive");
  json.erase("derive");
  MerakTable table{families::parse_dialect(json, "dialect merak"), {}, {}, {}};
  for (const Json& each : derive.at("names")) {
    table.names.emplace_back(families::Expression(families::text_member(each, "when")),
                             families::text_member(each, "name"));
  }
  for (const auto& [factor, size] : derive.at("pad").items()) {
    table.pad.emplace_back(factor, size.get<std::string>());
  }
  for (const Json& each : derive.at("parallel")) {
    table.parallel.push_back({spelled_out(families::text_member(each, "roles")),
                              families::text_member(each, "suffix"),
                              families::text_member(each, "split"),
                              families::Expression(families::text_member(each, "when"))});
  }
  return table;
}

MerakRows::MerakRows(const families::Family& family, const families::Record& record,
                     const Json& choices, std::uint64_t tp, std::uint64_t padded_vocab,
                     const CanonicalModel& model, bool repeat_last)
    : table_(load_merak()),
      copies_(table_.dialect.rows.size()),
      rows_(rows_of(table_, family, names_of(table_, record, choices, tp, padded_vocab)),
            names_of(table_, record, choices, tp, padded_vocab), model, repeat_last),
      tp_(tp) {
  const families::Names names(rows_.names());
  for (const auto& [when, text] : table_.names) {
    if (template_.empty() && when.holds(names)) template_ = text;
  }
  const auto layers = record.at("layers").get<std::uint64_t>();
  for (std::size_t i = 0; i < rows_.rows().size(); ++i) {
    const auto add = [&](std::optional<std::uint64_t> layer) {
      if (rows_.has_roles(i, layer) && rows_.holds(i, layer)) tensors_.push_back({i, layer});
    };
    if (!rows_.is_layered(i)) {
      add(std::nullopt);
      continue;
    }
    for (std::uint64_t l = 0; l < layers; ++l) add(l);
  }
}

std::string MerakRows::hugging_face_name(const MerakTensor& tensor) const {
  std::string name = rows_.rows()[tensor.row].name;
  if (tensor.layer) replace(name, "{l}", std::to_string(*tensor.layer));
  return name;
}

StoredTensor MerakRows::stored(const MerakTensor& tensor, std::string_view module,
                               std::uint64_t tp_rank) const {
  const families::Row& row = rows_.rows()[tensor.row];
  std::string name = hugging_face_name(tensor);
  Blocks blocks;
  if (!row.split.empty()) blocks[row.split] = rows_.block(row, row.split, tp_rank, tp_);
  StoredTensor stored = rows_.stored(tensor.row, name, {tensor.layer, std::nullopt}, blocks);
  if (is_copy(tensor)) {
    replace(stored.name, "{rows}", std::to_string(stored.shape.front()));
    replace(stored.name, "{hidden}", std::to_string(stored.shape.back()));
  } else {
    std::string full = template_;
    replace(full, "{S}", module);
    replace(full, "{hf}", name);
    stored.name = full;
  }
  return stored;
}

bool MerakRows::is_split(const MerakTensor& tensor) const {
  const families::Row& row = rows_.rows()[tensor.row];
  return tp_ > 1 && !row.split.empty() && has_factor(row.layout, row.split);
}

std::uint64_t MerakRows::module_of(const MerakTensor& tensor) const {
  const families::Row& row = rows_.rows()[tensor.row];
  const families::Names names(rows_.names());
  const std::string& role = row.at.empty() ? row.parts.front().second : row.at;
  const families::Expression formula(table_.dialect.place_of(role, names));
  const Json layer = tensor.layer ? Json(*tensor.layer) : Json();
  return formula.evaluate(families::Names("l", layer, &names)).get<std::uint64_t>();
}

std::optional<MerakName> merak_name(std::string_view name) {
  constexpr std::string_view wrapper = "module.", tied = "tied_modules.";
  MerakName found;
  if (name.starts_with(wrapper)) {
    found.era = 1;
    name.remove_prefix(wrapper.size());
  }
  if (name.starts_with(tied)) {
    found.rest = name;
    return found;
  }
  const std::size_t dot = name.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  found.module = whole_number(name.substr(0, dot));
  if (!found.module) return std::nullopt;
  found.rest = name.substr(dot + 1);
  return found;
}

}  // namespace reshard::formats
