#include "formats/dialect/megds_files.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

std::string layer_name(std::uint64_t layer, std::uint64_t tp) {
  return "layer_" + two_digits(layer) + "-model_" + two_digits(tp) + "-model_states.pt";
}

/// A pipeline file by its tensors: numbers differ between lineages and versions.
LayerKind kind_of(const FileIndex& index) {
  std::set<std::string> names;
  for (const TensorEntry& entry : index.tensors) names.insert(entry.name);
  const auto is_norm = [](const std::string& n) { return n == "weight" || n == "bias"; };
  const auto is_layer = [](const std::string& n) {
    return n.starts_with("self_attention.") || n.starts_with("input_layernorm.");
  };
  if (names.count("word_embeddings.weight") != 0) return LayerKind::embedding;
  if (names.count("lm_head.weight") != 0) return LayerKind::head;
  if (std::any_of(names.begin(), names.end(), is_layer)) return LayerKind::layer;
  if (!names.empty() && std::all_of(names.begin(), names.end(), is_norm)) {
    return LayerKind::final_norm;
  }
  throw Error(Kind::input, index.path +
                               ": neither embedding, layer, norm nor head of Megatron-DeepSpeed: " +
                               (names.empty() ? "it has no tensor" : "it has " + *names.begin()));
}

const char* word_of(LayerKind kind) {
  switch (kind) {
    case LayerKind::embedding:
      return "the embedding";
    case LayerKind::layer:
      return "a layer";
    case LayerKind::final_norm:
      return "the final norm";
    case LayerKind::head:
      break;
  }
  return "the head";
}

/// tp by the layer files' names, their grid, and what each number holds.
void sort_layers(MegdsFiles& files, Problems& problems) {
  std::set<std::pair<std::uint64_t, std::uint64_t>> there;
  files.tp = 0;
  for (const FileIndex* index : files.layers) {
    const DeepSpeedFile name = *deepspeed_file(index->path);
    there.emplace(name.layer, name.tp);
    files.tp = std::max(files.tp, name.tp + 1);
    const LayerKind kind = kind_of(*index);
    const auto [at, is_new] = files.kinds.emplace(name.layer, LayerFile{kind, 0});
    if (!is_new && at->second.kind != kind) {
      problems.add(index->path + ": holds " + word_of(kind) + ", the file of tp rank 0 " +
                   word_of(at->second.kind));
    }
    for (const TensorEntry& entry : index->tensors) {
      files.split_qkv = files.split_qkv || entry.name == "self_attention.key_value.weight";
    }
  }
  if (files.tp > files.layers.size()) {
    throw Error(Kind::input, files.layers.back()->path + ": tp rank " +
                                 std::to_string(files.tp - 1) + ", but only " +
                                 std::to_string(files.layers.size()) + " layer files");
  }
  std::uint64_t layer = 0;
  for (auto& [number, file] : files.kinds) {
    if (file.kind == LayerKind::layer) file.layer = layer++;
    for (std::uint64_t t = 0; t < files.tp; ++t) {
      if (there.count({number, t}) == 0) problems.add(layer_name(number, t) + ": missing");
    }
  }
}

/// mp_rank files must be numbered from 0 without a gap, and make whole stages.
void sort_models(MegdsFiles& files, Problems& problems) {
  std::uint64_t wanted = 0;
  for (const FileIndex* index : files.models) {
    if (!index->facts.at("args").is_object()) {
      throw Error(Kind::input, index->path + ": no args: not a file of Megatron-DeepSpeed");
    }
    const std::uint64_t rank = deepspeed_file(index->path)->mp;
    if (rank != wanted) {
      problems.add("mp_rank_" + two_digits(wanted) + "_model_states.pt: missing before " +
                   index->path);
      wanted = rank;
    }
    ++wanted;
  }
  if (!files.pipeline) {
    files.tp = files.models.size();
    return;
  }
  if (files.models.size() % files.tp != 0) {
    problems.add(std::to_string(files.models.size()) + " mp_rank files make no whole stages of " +
                 std::to_string(files.tp) + " tp ranks, which the layer files have");
  }
  files.pp = std::max<std::uint64_t>(1, files.models.size() / files.tp);
}

/// A file keeps the name that it was saved by in its archive when it is copied or renamed. All may
/// have been numbered anew, but not in another order.
void check_names(const std::vector<FileIndex>& indices, Problems& problems) {
  using Place = std::tuple<DeepSpeedFile::Kind, std::uint64_t, std::uint64_t, std::uint64_t>;
  const auto place = [](const DeepSpeedFile& f) { return Place(f.kind, f.layer, f.tp, f.mp); };
  std::map<std::string, std::string> saved;
  std::map<Place, std::pair<Place, std::string>> then;  // where a file is -> where it was, its name
  for (const FileIndex& index : indices) {
    const auto root = index.facts.at("root").get<std::string>();
    if (root.empty() || root == "archive") continue;
    const auto [at, is_new] = saved.emplace(root, index.path);
    if (!is_new) {
      problems.add(index.path + ": saved as " + root + ", as is " + at->second +
                   ": one rank's file lies here twice");
      continue;
    }
    const std::optional<DeepSpeedFile> now = deepspeed_file(index.path);
    const std::optional<DeepSpeedFile> was = deepspeed_file(root + ".pt");
    if (now && was) then[place(*now)] = {place(*was), index.path + ": saved as " + root};
  }
  std::pair<Place, std::string> before;
  for (const auto& [now, was] : then) {
    const bool is_same_kind = std::get<0>(before.first) == std::get<0>(was.first);
    if (!before.second.empty() && is_same_kind && !(before.first < was.first)) {
      problems.add(was.second + ", " + before.second + ": files were swapped");
    }
    before = was;
  }
}

}  // namespace

MegdsFiles megds_files(const std::vector<FileIndex>& indices, Problems& problems) {
  MegdsFiles files;
  check_names(indices, problems);
  for (const FileIndex& index : indices) {
    const bool layer = deepspeed_file(index.path)->kind == DeepSpeedFile::Kind::layer;
    (layer ? files.layers : files.models).push_back(&index);
  }
  if (files.models.empty()) {
    throw Error(Kind::input, "no mp_rank_XX_model_states.pt, whose args describe the model");
  }
  files.pipeline = !files.layers.empty();
  const bool module = files.models.front()->facts.at("module") == true;
  if (files.pipeline == module) {
    throw Error(Kind::input, files.models.front()->path +
                                 (module ? ": has a module, and layer files lie beside it"
                                         : ": has no module, and there are no layer files"));
  }
  if (files.pipeline) sort_layers(files, problems);
  sort_models(files, problems);
  return files;
}

void check_layers(const MegdsFiles& files, std::uint64_t layers, bool has_head,
                  Problems& problems) {
  if (!files.pipeline) return;
  std::map<LayerKind, std::uint64_t> counts;
  std::uint64_t previous = 0;
  for (const auto& [number, file] : files.kinds) {
    const std::uint64_t count = ++counts[file.kind];
    if (file.kind != LayerKind::layer) continue;
    if (count > 1 && number != previous + 1) {
      const bool one = number == previous + 2;
      problems.add(layer_name(previous + 1, 0) + ": missing" +
                   (one ? "" : ", and all numbers from there to " + two_digits(number - 1)));
    }
    previous = number;
  }
  const auto check = [&](LayerKind kind, std::uint64_t wanted) {
    if (counts[kind] == wanted) return;
    problems.add("layer files of " + std::to_string(counts[kind]) + " numbers hold " +
                 word_of(kind) + ", wanted " + std::to_string(wanted) + " by args");
  };
  check(LayerKind::embedding, 1);
  check(LayerKind::layer, layers);
  check(LayerKind::final_norm, 1);
  check(LayerKind::head, has_head ? 1 : 0);
}

void check_models(const families::ArgumentTable& table, const MegdsFiles& files, Source& source,
                  Problems& problems) {
  const FileIndex& first = *files.models.front();
  std::map<std::string, std::string> file_of_rank;
  for (const FileIndex* index : files.models) {
    const auto check = [&](const std::string& name, const Json& mine, const Json& theirs) {
      if (mine == theirs) return;
      problems.add(index->path + ": " + name + " is " + mine.dump() + ", but " + theirs.dump() +
                   " in " + first.path);
    };
    const Json& args = index->facts.at("args");
    for (const std::string& name : table.known) {
      check("args." + name, args.value(name, Json()), first.facts.at("args").value(name, Json()));
    }
    for (const char* name :
         {"iteration", "checkpoint_version", "global_steps", "dp_world_size", "mp_world_size",
          "checkpoint_info", "checkpoint_parallel_dimensions"}) {
      check(name, index->facts.value(name, Json()), first.facts.value(name, Json()));
    }
    const Json rank = args.value("rank", Json());
    if (!rank.is_number()) continue;
    const auto [at, is_new] = file_of_rank.emplace(rank.dump(), index->path);
    if (!is_new) {
      problems.add(index->path + ": written by rank " + rank.dump() + ", as is " + at->second +
                   ": one rank's file lies here twice");
    }
  }
  const std::string tag = source.found.unit.substr(source.found.unit.find_last_of('/') + 1);
  const Json steps = first.facts.value("global_steps", Json());
  if (tag.starts_with("global_step") && steps.is_number_integer() &&
      tag != "global_step" + steps.dump()) {
    source.warnings.push_back(first.path + ": global_steps is " + steps.dump() +
                              ", but its folder is " + tag);
  }
  const Json ranks = first.facts.value("mp_world_size", Json());
  if (ranks.is_number() && ranks != files.models.size()) {
    const std::string text = first.path + ": mp_world_size is " + ranks.dump() +
                             ", but there are " + std::to_string(files.models.size()) +
                             " mp_rank files";
    // deepspeed_to_deepspeed of BigScience writes tp there
    ranks == files.tp ? source.warnings.push_back(text) : problems.add(text);
  }
  const Json told = first.facts.value("checkpoint_parallel_dimensions", Json());
  const Json seen = {{"pp_degree", files.pp}, {"tp_degree", files.tp}};
  if (told.is_object() && (told.value("pp_degree", Json()) != seen["pp_degree"] ||
                           told.value("tp_degree", Json()) != seen["tp_degree"])) {
    problems.add(first.path + ": checkpoint_parallel_dimensions is " + told.dump() +
                 ", the names of the files say " + seen.dump());
  }
}

}  // namespace reshard::formats
