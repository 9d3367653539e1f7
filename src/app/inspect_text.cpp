#include "app/inspect_text.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "app/inspect_maps.hpp"
#include "app/report.hpp"
#include "app/text.hpp"
#include "core/printable.hpp"
#include "families/family.hpp"
#include "formats/container/torch_file.hpp"
#include "formats/dialect/rows.hpp"

namespace reshard::app {
namespace {

using formats::Source;

constexpr std::size_t most_leaves = 20'000, longest_name = 400;

/// Stored tensors of each dtype.
std::map<std::string, std::uint64_t> dtypes_of(const mpi::InspectReport& report) {
  std::map<std::string, std::uint64_t> counts;
  for (const formats::FileIndex& index : report.indices) {
    for (const formats::TensorEntry& entry : index.tensors)
      ++counts[std::string(name(entry.dtype))];
  }
  return counts;
}

std::uint64_t true_vocabulary(const Source& source) {
  return source.record.value("vocab", std::uint64_t{0});
}

std::uint64_t padded_vocabulary(const Source& source) {
  const std::uint32_t padding = source.model.find("embedding.padding.weight");
  const bool padded = padding != CanonicalModel::none;
  return true_vocabulary(source) + (padded ? source.model[padding].shape[0] : 0);
}

/// "name value" of what is not null, false, 0 or "none", or a list of such alone.
std::vector<std::string> told(const Json& values) {
  const auto is_off = [](const Json& value) {
    return value.is_null() || value == false || value == 0 || value == "none";
  };
  std::vector<std::string> items;
  for (const auto& [key, value] : values.items()) {
    const bool none = value.is_array() && std::all_of(value.begin(), value.end(), is_off);
    if (none || is_off(value)) continue;
    items.push_back(key + " " + (value.is_string() ? value.get<std::string>() : value.dump()));
  }
  return items;
}

/// The hyperparameters that a config.json of the family tells.
Json told_by_config(const Source& source) {
  Json values = Json::object();
  for (const families::Line& line : source.family.model_type(source.model_type).lines) {
    if (!line.keys.empty()) values[line.name] = source.record.value(line.name, Json());
  }
  return values;
}

/// Tensors that differ in their layer only, one line each.
std::string role_tree(const Source& source) {
  struct Line {
    std::string role, factors, shape, dtype;
    std::vector<std::uint64_t> layers;
  };
  std::vector<Line> lines;
  std::map<std::tuple<std::string, std::string, std::string>, std::size_t> known;
  for (std::size_t t = 0; t < source.model.tensors().size(); ++t) {
    const CanonicalTensor& tensor = source.model.tensors()[t];
    Line line{families::role_template(tensor.role),
              joined(tensor.factors, " "),
              to_string(tensor.shape),
              std::string(name(source.dtypes[t])),
              {}};
    const auto [at, is_new] =
        known.emplace(std::tuple(line.role, line.shape, line.dtype), lines.size());
    if (is_new) lines.push_back(std::move(line));
    if (tensor.role != lines[at->second].role) {
      lines[at->second].layers.push_back(std::stoull(tensor.role.substr(7)));
    }
  }
  std::size_t width = 0, shape_width = 0;
  for (Line& line : lines) {
    if (!line.layers.empty()) line.role.replace(7, 3, "{" + ranges(line.layers) + "}");
    width = std::max(width, line.role.size());
    shape_width = std::max(shape_width, line.shape.size());
  }
  std::string text;
  for (const Line& line : lines) {
    text += "  " + padded(line.role, width + 2) + padded(line.dtype, 6) +
            padded(line.shape, shape_width + 2) + line.factors + "\n";
  }
  return text;
}

std::string statistics_text(const mpi::InspectReport& report) {
  std::string text;
  for (std::size_t t = 0; t < report.statistics.size(); ++t) {
    const mpi::TensorStatistics& s = report.statistics[t];
    text += "  " + padded(report.source->model.tensors()[t].role, 44);
    if (s.finite != 0) {
      text += " min " + padded(shortest(s.least), 13) + " max " + padded(shortest(s.most), 13) +
              " mean " + shortest(s.sum / static_cast<double>(s.finite));
    }
    if (s.nans != 0) text += "  NaN " + grouped(s.nans);
    if (s.infinities != 0) text += "  inf " + grouped(s.infinities);
    text += "\n";
  }
  return text.empty() ? "" : "values\n" + text;
}

Json statistics_json(const mpi::TensorStatistics& s) {
  Json json = {{"nan", s.nans}, {"inf", s.infinities}};
  if (s.finite == 0) return json;
  json["min"] = s.least;
  json["max"] = s.most;
  json["mean"] = s.sum / static_cast<double>(s.finite);
  return json;
}

Json stored_json(const mpi::InspectReport& report) {
  std::map<std::pair<std::string, std::uint64_t>, std::set<std::string>> roles;
  if (report.source) {
    for (const SourcePiece& piece : report.source->pieces) {
      roles[{report.source->files[piece.file].path, piece.base}].insert(
          report.source->model[piece.placement.tensor].role);
    }
  }
  Json stored = Json::array();
  for (const formats::FileIndex& index : report.indices) {
    for (const formats::TensorEntry& entry : index.tensors) {
      Json item = {{"file", index.path},
                   {"name", entry.name},
                   {"dtype", name(entry.dtype)},
                   {"shape", entry.shape}};
      const auto at = roles.find({index.path, entry.offset});
      item["roles"] = at == roles.end() ? Json::array() : Json(at->second);
      stored.push_back(std::move(item));
    }
  }
  return stored;
}

/// The role or stored name that a word of the user's means: itself, or the only one that ends so.
std::string full_name(const Source& source, const std::string& wanted) {
  std::set<std::string> names, ends;
  for (const SourcePiece& piece : source.pieces) {
    names.insert(piece.name);
    names.insert(source.model[piece.placement.tensor].role);
  }
  if (names.count(wanted) != 0) return wanted;
  for (const std::string& name : names) {
    if (name.ends_with("." + wanted)) ends.insert(name);
  }
  if (ends.size() == 1) return *ends.begin();
  throw Error(Kind::usage, "--tensor " + wanted + ": " +
                               (ends.empty() ? "no role and no stored tensor of that name in "
                                             : std::to_string(ends.size()) + " names end so in ") +
                               source.found.unit + "; near it are " +
                               joined(nearest(wanted, ends.empty() ? names : ends)));
}

Json dims_json(const Dims& dims) {
  return std::vector<std::uint64_t>(dims.begin(), dims.end());
}

/// The begin of a long text, cut between characters.
std::string shortened(const std::string& text) {
  std::size_t end = 100;
  if (text.size() <= end) return text;
  while ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

/// The text of a value that is one leaf, a list of plain ones included; nothing for a tree or a
/// tensor.
std::optional<std::string> leaf_text(const Json& value) {
  if (!value.is_structured() || value.empty()) return shortened(value.dump());
  const std::string tag = value.is_object() ? value.value("!", "") : "";
  for (const char* part : {"name", "value", "hex"}) {
    const bool is_leaf = tag != "" && tag != "object" && value.contains(part);
    if (is_leaf) return shortened(value.at(part).get<std::string>());
  }
  if (tag == "bytes") return value.at("size").dump() + " bytes";
  if (tag == "storage") return value.dump();
  if (tag == "dict" && value.at("items").empty()) return "{}";
  const bool is_list = value.is_array() || tag == "tuple" || tag == "set";
  if (!is_list) return std::nullopt;
  const Json& items = value.is_array() ? value : value.at("items");
  const bool plain = std::none_of(items.begin(), items.end(),
                                  [](const Json& item) { return item.is_structured(); });
  return plain ? std::optional(shortened(items.dump())) : std::nullopt;
}

/// Adds the leaves of a value that are no tensors, by their dotted names; an object as its class.
/// What a screen cannot show is not made.
void add_leaves(const Json& value, const std::string& name, std::vector<std::string>& lines) {
  if (lines.size() > most_leaves) return;
  const auto add_below = [&](const Json& part, const std::string& key) {
    add_leaves(part, printable(name.empty() ? key : name + "." + key, longest_name), lines);
  };
  const auto add_pairs = [&](const Json& pairs) {
    for (const Json& pair : pairs) add_below(pair[1], formats::key_name(pair[0]));
  };
  const std::string tag = value.is_object() ? value.value("!", "") : "";
  if (const std::optional<std::string> leaf = leaf_text(value)) {
    lines.push_back(name + " = " + *leaf);
  } else if (tag == "object") {
    lines.push_back(name + " : " + value.value("class", ""));
    for (const char* part : {"args", "state", "list"}) {
      if (value.contains(part) && !value.at(part).empty()) add_leaves(value.at(part), name, lines);
    }
    if (value.contains("items")) add_pairs(value.at("items"));
  } else if (tag == "dict") {
    add_pairs(value.at("items"));
  } else if (value.is_array() || tag == "tuple" || tag == "set") {
    const Json& items = value.is_array() ? value : value.at("items");
    for (std::size_t i = 0; i < items.size(); ++i) add_below(items[i], std::to_string(i));
  } else if (tag.empty()) {
    for (const auto& [key, member] : value.items()) add_below(member, key);
  }
}

/// The leaves of what is in a file besides tensors; those of safetensors are texts, whatever keys
/// they have.
std::vector<std::string> leaves_of(const formats::FileIndex& index) {
  std::vector<std::string> lines;
  const bool is_texts = index.container == "safetensors" && index.facts.at("metadata").is_object();
  if (!is_texts) {
    add_leaves(index.facts, "", lines);
  } else {
    for (const auto& [key, value] : index.facts.at("metadata").items()) {
      lines.push_back("metadata." + key + " = " + shortened(value.dump()));
    }
  }
  if (lines.size() > most_leaves) {
    lines.resize(most_leaves);
    lines.emplace_back("and more: --json shows all");
  }
  return lines;
}

}  // namespace

std::string checkpoint_text(const mpi::InspectReport& report) {
  const Source& s = *report.source;
  std::string text = lines_of("problem: ", report.problems) + lines_of("warning: ", s.warnings) +
                     lines_of("note: ", s.notes) +
                     lines_of("not carried by a conversion: ", s.dropped);
  text += printable(s.found.unit) + "\n";
  text += "format       " + s.found.dialect + ", " + std::to_string(report.indices.size()) +
          (report.indices.size() == 1 ? " file\n" : " files\n");
  text += "family       " + s.model_type + "\n";
  text += "parallelism  " + layout_text(s.parallelism);
  if (s.parallelism.dp > 1) text += ", dp " + std::to_string(s.parallelism.dp);
  text += "\n" + maps_text(maps_json(report));
  text += "parameters   " + grouped(formats::parameter_count(s.model)) + "\n";
  text += wrapped("model", told(told_by_config(s))) + wrapped("arguments", told(s.function_args));
  text += "vocabulary   " + grouped(true_vocabulary(s));
  const std::uint64_t padded_size = padded_vocabulary(s);
  if (padded_size != true_vocabulary(s)) text += ", padded to " + grouped(padded_size);
  text += "\n";
  for (const auto& [key, value] : s.training.items()) {
    text += padded(printable(key), 12) + " " + printable(value.dump()) + "\n";
  }
  return text + "tensors\n" + role_tree(s) + statistics_text(report);
}

Json checkpoint_json(const mpi::InspectReport& report) {
  const Source& s = *report.source;
  Json roles = Json::array();
  for (std::size_t t = 0; t < s.model.tensors().size(); ++t) {
    const CanonicalTensor& tensor = s.model.tensors()[t];
    Json item = {{"role", tensor.role},
                 {"factors", tensor.factors},
                 {"shape", tensor.shape},
                 {"dtype", name(s.dtypes[t])}};
    if (!report.statistics.empty()) item["values"] = statistics_json(report.statistics[t]);
    roles.push_back(std::move(item));
  }
  Json files = Json::array();
  for (const formats::FileIndex& index : report.indices) {
    files.push_back({{"file", index.path}, {"bytes", index.bytes}});
  }
  return {{"format", s.found.dialect},
          {"family", s.model_type},
          {"unit", s.found.unit},
          {"files", std::move(files)},
          {"parallelism", to_json(s.parallelism)},
          {"parameters", formats::parameter_count(s.model)},
          {"dtypes", dtypes_of(report)},
          {"maps", maps_json(report)},
          {"training", s.training},
          {"vocabulary", {{"true", true_vocabulary(s)}, {"padded", padded_vocabulary(s)}}},
          {"hyperparameters", s.record},
          {"arguments", s.function_args},
          {"warnings", s.warnings},
          {"notes", s.notes},
          {"dropped", s.dropped},
          {"problems", report.problems},
          {"roles", roles},
          {"tensors", stored_json(report)}};
}

Json placements_json(const Source& source, const std::string& wanted) {
  const std::string name = full_name(source, wanted);
  Json found = Json::array();
  for (const SourcePiece& piece : source.pieces) {
    const CanonicalTensor& tensor = source.model[piece.placement.tensor];
    if (tensor.role != name && piece.name != name) continue;
    const Placement& p = piece.placement;
    found.push_back({{"role", tensor.role},
                     {"factors", tensor.factors},
                     {"offset", dims_json(p.box.offset)},
                     {"extent", dims_json(p.box.extent)},
                     {"file", source.files[piece.file].path},
                     {"name", piece.name},
                     {"dtype", reshard::name(piece.dtype)},
                     {"byte", piece.base + p.offset * bytes(piece.dtype)},
                     {"chunks", source.files[piece.file].chunks != nullptr},
                     {"strides", dims_json(p.stride)},
                     {"replica", piece.replica_of != SourcePiece::no_replica}});
  }
  return found;
}

std::string placements_text(const Json& placements) {
  std::string text;
  for (const Json& p : placements) {
    text += p["role"].get<std::string>() + " (" +
            joined(p["factors"].get<std::vector<std::string>>(), " ") + ") from " +
            p["offset"].dump() + " extent " + p["extent"].dump() + "\n  " +
            printable(p["file"].get<std::string>()) + ": " +
            printable(p["name"].get<std::string>()) + " " + p["dtype"].get<std::string>() +
            ", byte " + grouped(p["byte"].get<std::uint64_t>()) +
            (p["chunks"].get<bool>() ? " of the tensor, which lies in chunks" : "") + ", strides " +
            p["strides"].dump() + (p["replica"].get<bool>() ? ", a replica" : "") + "\n";
  }
  return text;
}

std::string files_text(const mpi::InspectReport& report) {
  constexpr std::size_t most_problems = 20;
  std::string text = "no checkpoint that can be converted: " + report.failure + "\n" +
                     lines_of("problem: ", report.problems, most_problems);
  for (const formats::FileIndex& index : report.indices) {
    text +=
        printable(index.path) + " (" + index.container + ", " + human_bytes(index.bytes) + ")\n";
    const std::size_t shown = std::min(index.tensors.size(), most_leaves);
    for (std::size_t t = 0; t < shown; ++t) {
      const formats::TensorEntry& entry = index.tensors[t];
      text += "  " + printable(entry.name) + "  " + std::string(name(entry.dtype)) + " " +
              to_string(entry.shape) + "\n";
    }
    if (shown < index.tensors.size()) {
      text += "  and " + std::to_string(index.tensors.size() - shown) + " more tensors: --json\n";
    }
    text += lines_of("  ", leaves_of(index));
  }
  return text;
}

Json files_json(const mpi::InspectReport& report) {
  Json files = Json::array();
  for (const formats::FileIndex& index : report.indices) {
    files.push_back({{"file", index.path},
                     {"container", index.container},
                     {"bytes", index.bytes},
                     {"content", index.facts}});
  }
  return {{"format", nullptr},
          {"failure", report.failure},
          {"problems", report.problems},
          {"files", files},
          {"tensors", stored_json(report)}};
}

}  // namespace reshard::app
