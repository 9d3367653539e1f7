#include "app/inspect_maps.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "formats/dialect/dialect.hpp"

namespace reshard::app {
namespace {

using formats::FileRank;
using formats::Source;
using Words = std::vector<std::string>;

/// A stored tensor, the canonical ones that it holds (none: no weights), and who wrote it.
struct Held {
  const formats::FileIndex* file = nullptr;
  const formats::TensorEntry* entry = nullptr;
  FileRank rank;
  std::optional<std::uint64_t> module;
  std::set<std::uint32_t> tensors = {};
  bool is_copy = false;  ///< of one that the same column of ranks holds
};

/// Stored tensors with the same numbers, of one column of ranks (all stages of a tp and an ep
/// rank): indices into the stored ones, the original first.
using Ties = std::set<std::vector<std::size_t>>;

/// A stage's or a module's share of the model.
struct Share {
  std::uint64_t stage = 0;
  std::set<std::uint64_t> modules;
  std::set<std::uint32_t> tensors, copies;
};

struct Inventory {
  std::vector<Held> held;
  Ties ties;
  std::map<std::uint64_t, Share> stages, modules;
  std::map<std::uint64_t, std::size_t> layer_sizes;  ///< canonical tensors of each layer
};

/// A role's words: {"layers", "3", "attention", "q", "weight"}.
Words words_of(const std::string& role) {
  Words words(1);
  for (const char c : role) {
    if (c == '.') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  return words;
}

std::optional<std::uint64_t> layer_of(const std::string& role) {
  const Words words = words_of(role);
  return words.front() == "layers" && words.size() > 1 ? std::optional(std::stoull(words[1]))
                                                       : std::nullopt;
}

/// "attention", "mlp", "norms", "embedding", ...: what tensors of one dtype mostly are.
std::string class_of(const std::string& role) {
  const Words words = words_of(role);
  for (const std::string& word : words) {
    if (word.ends_with("norm")) return "norms";
    if (word.ends_with("embedding")) return "embedding";
  }
  return words.front() == "layers" ? words.at(2) : words.front();
}

std::vector<Held> stored_tensors(const mpi::InspectReport& report) {
  const Source& source = *report.source;
  const formats::Dialect& dialect = formats::dialect_named(source.found.dialect);
  std::vector<Held> all;
  for (const formats::FileIndex& index : report.indices) {
    const auto rank = source.ranks.find(index.path);
    for (const formats::TensorEntry& entry : index.tensors) {
      all.push_back({&index, &entry, rank == source.ranks.end() ? FileRank() : rank->second,
                     dialect.module_of(index.path, entry.name)});
    }
  }
  return all;
}

/// Tells the stored tensors which canonical ones they hold, and finds those that hold the same.
Ties match_pieces(const Source& source, std::vector<Held>& all) {
  std::map<std::pair<std::string, std::string>, std::size_t> by_name;
  for (std::size_t i = 0; i < all.size(); ++i) {
    by_name.emplace(std::pair(all[i].file->path, all[i].entry->name), i);
  }
  std::map<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>, std::vector<std::size_t>> boxes;
  for (std::uint32_t i = 0; i < source.pieces.size(); ++i) {
    const SourcePiece& piece = source.pieces[i];
    const std::size_t at = by_name.at({source.files[piece.file].path, piece.name});
    all[at].tensors.insert(piece.placement.tensor);
    const std::uint32_t box = piece.replica_of == SourcePiece::no_replica ? i : piece.replica_of;
    boxes[{box, all[at].rank.tp, all[at].rank.ep}].push_back(at);
  }
  // The original is on the first stage; a name without a module is of a copy.
  const auto place = [&](std::size_t i) {
    return std::tuple(all[i].rank.pp, !all[i].module, all[i].module, i);
  };
  Ties ties;
  for (auto& [box, tie] : boxes) {
    std::sort(tie.begin(), tie.end(), [&](auto a, auto b) { return place(a) < place(b); });
    tie.erase(std::unique(tie.begin(), tie.end()), tie.end());
    for (std::size_t i = 1; i < tie.size(); ++i) all[tie[i]].is_copy = true;
    if (tie.size() > 1) ties.insert(tie);
  }
  return ties;
}

/// Stage of a canonical tensor by the stage table alone, where files belong to no rank.
std::uint64_t told_stage(const Source& source, const std::string& role) {
  const formats::Parallelism& p = source.parallelism;
  const auto layer = layer_of(role);
  if (!layer) return role.find("embedding.") != std::string::npos ? 0 : p.pp - 1;
  for (std::size_t c = 0; c < p.chunks.size(); ++c) {
    const formats::LayerRange& chunk = p.chunks[c];
    if (*layer >= chunk.first && *layer < chunk.first + chunk.count) return c % p.pp;
  }
  return 0;
}

Inventory inventory_of(const mpi::InspectReport& report) {
  const Source& source = *report.source;
  Inventory all;
  all.held = stored_tensors(report);
  all.ties = match_pieces(source, all.held);
  const bool by_file = !source.ranks.empty() || source.parallelism.pp == 1;
  const bool by_table = !by_file && !source.parallelism.chunks.empty();
  for (std::uint64_t s = 0; s < source.parallelism.pp && (by_file || by_table); ++s) {
    all.stages[s].stage = s;
  }
  const auto add = [](const Held& held, Share& share) {
    share.stage = held.rank.pp;
    if (held.module) share.modules.insert(*held.module);
    (held.is_copy ? share.copies : share.tensors).insert(held.tensors.begin(), held.tensors.end());
  };
  for (const Held& held : all.held) {
    if (by_file) add(held, all.stages[held.rank.pp]);
    for (auto t = held.tensors.begin(); by_table && t != held.tensors.end(); ++t) {
      all.stages[told_stage(source, source.model[*t].role)].tensors.insert(*t);
    }
    if (held.module) add(held, all.modules[*held.module]);
  }
  for (const CanonicalTensor& tensor : source.model.tensors()) {
    if (const auto layer = layer_of(tensor.role)) ++all.layer_sizes[*layer];
  }
  return all;
}

/// Roles without their last word, "layers.3" for a whole layer; see `holds` of maps_json.
Words parts_of(const CanonicalModel& model, const std::set<std::uint32_t>& tensors,
               const std::map<std::uint64_t, std::size_t>& layer_sizes) {
  std::map<std::uint64_t, std::size_t> counts;
  for (const std::uint32_t t : tensors) {
    if (const auto layer = layer_of(model[t].role)) ++counts[*layer];
  }
  Words parts;
  for (const std::uint32_t t : tensors) {
    const Words words = words_of(model[t].role);
    std::string part = words.front();
    if (const auto layer = layer_of(model[t].role)) {
      part += "." + words[1];
      if (counts.at(*layer) < layer_sizes.at(*layer)) part += "." + words[2];
    }
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
  }
  return parts;
}

Json rank_json(const Source& source, const FileRank& rank) {
  Json json = {{"tp", rank.tp}, {"pp", rank.pp}};
  if (source.parallelism.ep > 1) json["ep"] = rank.ep;
  return json;
}

Json stages_json(const CanonicalModel& model, const Inventory& all) {
  Json stages = Json::array();
  for (const auto& [number, share] : all.stages) {
    std::set<std::uint64_t> layers;
    std::set<std::uint32_t> others;
    for (const std::uint32_t t : share.tensors) {
      if (const auto layer = layer_of(model[t].role)) {
        layers.insert(*layer);
      } else {
        others.insert(t);
      }
    }
    stages.push_back({{"stage", number},
                      {"layers", layers},
                      {"holds", parts_of(model, others, all.layer_sizes)},
                      {"copies", parts_of(model, share.copies, all.layer_sizes)},
                      {"modules", share.modules}});
  }
  return stages;
}

Json modules_json(const CanonicalModel& model, const Inventory& all) {
  Json modules = Json::array();
  for (const auto& [number, share] : all.modules) {
    std::set<std::string> roles;
    for (const std::uint32_t t : share.tensors) roles.insert(model[t].role);
    for (const std::uint32_t t : share.copies) roles.insert(model[t].role);
    modules.push_back({{"module", number},
                       {"stage", share.stage},
                       {"holds", parts_of(model, share.tensors, all.layer_sizes)},
                       {"copies", parts_of(model, share.copies, all.layer_sizes)},
                       {"roles", roles}});
  }
  return modules;
}

Json ranks_json(const Source& source) {
  std::map<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>, Json> ranks;
  for (const auto& [file, rank] : source.ranks) {
    Json& json = ranks[{rank.pp, rank.tp, rank.ep}];
    if (json.is_null()) json = rank_json(source, rank);
    json["files"].push_back(file);
  }
  Json list = Json::array();
  for (auto& [rank, json] : ranks) list.push_back(std::move(json));
  return list;
}

/// Files of each tp rank with an original whose role begins so.
Json files_by_tp(const CanonicalModel& model, const Inventory& all, const std::string& begin) {
  std::map<std::uint64_t, std::set<std::string>> files;
  for (const Held& held : all.held) {
    const bool wanted =
        !held.is_copy && std::any_of(held.tensors.begin(), held.tensors.end(),
                                     [&](auto t) { return model[t].role.starts_with(begin); });
    if (wanted) files[held.rank.tp].insert(held.file->path);
  }
  Json list = Json::array();
  for (const auto& [tp, names] : files) list.push_back({{"tp", tp}, {"files", names}});
  return list;
}

Json ties_json(const Source& source, const Inventory& all) {
  Json list = Json::array();
  for (const std::vector<std::size_t>& tie : all.ties) {
    const Held& original = all.held[tie.front()];
    Json json = rank_json(source, original.rank);
    json["role"] = source.model[*original.tensors.begin()].role;
    for (const std::size_t i : tie) {
      json["tensors"].push_back(
          {{"file", all.held[i].file->path}, {"name", all.held[i].entry->name}});
    }
    list.push_back(std::move(json));
  }
  return list;
}

Json dtypes_json(const CanonicalModel& model, const Inventory& all) {
  std::map<std::string, std::map<std::string, std::uint64_t>> classes;
  for (const Held& held : all.held) {
    const std::string kind =
        held.tensors.empty() ? "buffers" : class_of(model[*held.tensors.begin()].role);
    ++classes[kind][std::string(name(held.entry->dtype))];
  }
  return classes;
}

Json optimizer_json(const std::vector<SourceFile>& files) {
  std::uint64_t bytes = 0;
  Json list = Json::array();
  for (const SourceFile& file : files) {
    bytes += file.bytes;
    list.push_back({{"file", file.path}, {"bytes", file.bytes}});
  }
  return {{"bytes", bytes}, {"files", std::move(list)}};
}

}  // namespace

Json maps_json(const mpi::InspectReport& report) {
  const Source& source = *report.source;
  const Inventory all = inventory_of(report);
  return {{"stages", stages_json(source.model, all)},
          {"ranks", ranks_json(source)},
          {"embedding", files_by_tp(source.model, all, "embedding.")},
          {"final_norm", files_by_tp(source.model, all, "final_norm.")},
          {"modules", modules_json(source.model, all)},
          {"head_is_tied", source.record.value("tied", false)},
          {"tied", ties_json(source, all)},
          {"dtypes", dtypes_json(source.model, all)},
          {"optimizer", optimizer_json(source.found.optimizer)}};
}

}  // namespace reshard::app
