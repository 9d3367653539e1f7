#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/merak.hpp"

// A source from the headers of all files (merak.md section 15).

namespace reshard::formats {
namespace {

/// A file's rank, tp and stage, as Merak::open noted it.
std::pair<std::uint64_t, std::uint64_t> rank_of(const FileIndex& index) {
  const Json& rank = index.facts.at("rank");
  return {rank[0].get<std::uint64_t>(), rank[1].get<std::uint64_t>()};
}

/// Degrees by the names; every rank of the grid must have a file.
MerakGrid grid_of(const Found& found, Problems& problems) {
  MerakGrid grid;
  grid.tp = found.facts.at("tp").get<std::uint64_t>();
  grid.pp = found.facts.at("pp").get<std::uint64_t>();
  const std::uint64_t wanted = checked_product(grid.tp, grid.pp);
  const Json& ranks = found.facts.at("ranks");
  std::set<Json> there(ranks.begin(), ranks.end());
  std::string missing;
  std::uint64_t count = 0;
  for (std::uint64_t r = 0; r < wanted && count < 4; ++r) {
    if (there.count({r % grid.tp, r / grid.tp}) != 0) continue;
    missing += (count++ == 0 ? "" : "; ") + ("tp rank " + std::to_string(r % grid.tp)) +
               ", stage " + std::to_string(r / grid.tp);
  }
  if (found.files.size() != wanted) {
    problems.add(std::to_string(found.files.size()) + " model files, but their names reach tp " +
                 std::to_string(grid.tp) + " x pp " + std::to_string(grid.pp) + ": no file of " +
                 missing);
  }
  return grid;
}

/// ZeRO files tell the data-parallel degree; theirs must be the model files' grid.
void count_zero_files(MerakGrid& grid, Source& source, Problems& problems) {
  std::map<std::array<std::uint64_t, 3>, std::string> found;
  std::uint64_t tp = 1, pp = 1;
  for (const SourceFile& zero : source.found.optimizer) {
    std::array<std::uint64_t, 3> rank{};
    std::size_t n = 0;
    for (const std::string_view mark : {"zero_dp_rank_", "_mp_rank_", "_pp_rank_"}) {
      const std::size_t at = zero.path.find(mark);
      if (at != std::string::npos) {
        const std::string rest = zero.path.substr(at + mark.size());
        rank[n] = rank_number(rest.substr(0, rest.find('_'))).value_or(0);
      }
      ++n;
    }
    const auto [at, is_new] = found.emplace(rank, zero.path);
    if (!is_new) {
      problems.add(zero.path + " and " + at->second +
                   " are the same rank's: ZeRO files of two runs");
    }
    grid.dp = std::max(grid.dp, rank[0] + 1);
    tp = std::max(tp, rank[1] + 1);
    pp = std::max(pp, rank[2] + 1);
  }
  if (!found.empty()) {
    source.dropped.push_back(std::to_string(found.size()) + " ZeRO files of the optimizer");
    if (tp != grid.tp || pp != grid.pp || found.size() != grid.dp * tp * pp) {
      problems.add(std::to_string(found.size()) + " ZeRO files whose names reach dp " +
                   std::to_string(grid.dp) + " x tp " + std::to_string(tp) + " x pp " +
                   std::to_string(pp) + " do not fit model files of tp " + std::to_string(grid.tp) +
                   " x pp " + std::to_string(grid.pp));
    }
  }
  const Json& others = source.found.facts.at("others");
  if (!others.empty()) {
    source.dropped.push_back(std::to_string(others.size()) + " files beside, as " +
                             others.front().get<std::string>());
  }
}

/// Files of one run agree on args and iteration, and were each written by their own rank.
void check_one_run(const std::vector<FileIndex>& indices, const MerakGrid& grid,
                   Problems& problems) {
  const FileIndex& first = indices.front();
  const Json run = merak_run_arguments(first.facts.at("args"));
  std::map<std::uint64_t, std::string> file_of_rank;
  for (const FileIndex& index : indices) {
    for (const char* key : {"iteration", "checkpoint_version", "flat"}) {
      const Json mine = index.facts.value(key, Json()), theirs = first.facts.value(key, Json());
      if (mine == theirs) continue;
      problems.add(index.path + ": " + key + " is " + mine.dump() + ", but " + theirs.dump() +
                   " in " + first.path);
    }
    if (merak_run_arguments(index.facts.at("args")) != run) {
      problems.add(index.path + ": its args are not those of " + first.path +
                   ": files of two runs");
    }
    const Json& args = index.facts.at("args");
    const Json rank = args.is_object() ? args.value("local_rank", Json()) : Json();
    if (rank.is_number_integer() && rank >= 0) {
      file_of_rank.emplace(rank.get<std::uint64_t>(), index.path);
    }
  }
  // Ranks of a node: they name the writer only while the run has but one node.
  if (file_of_rank.size() != indices.size()) return;
  for (const FileIndex& index : indices) {
    const auto rank = index.facts.at("args").at("local_rank").get<std::uint64_t>();
    const auto [tp, stage] = rank_of(index);
    if (rank % grid.tp == tp && rank / grid.tp % grid.dp == 0 &&
        rank / grid.tp / grid.dp == stage) {
      continue;
    }
    problems.add(index.path + ": written by rank " + std::to_string(rank) + ", which is tp rank " +
                 std::to_string(rank % grid.tp) + " of stage " +
                 std::to_string(rank / grid.tp / grid.dp));
  }
}

/// A name in a file as the table spells it, with "*" for the module's number. Other names of
/// overlapped blocks and of the embedding under sequence parallelism are Merak's own.
std::string spelled(const std::string& name) {
  static const std::vector<std::pair<std::string, std::string>> others = {
      {".input_layernorm.", ".ln_1."},
      {".self_attention.", ".attn."},
      {".post_attention_layernorm.", ".ln_2."},
      {".wte.emb.", ".wte."},
      {".wpe.emb.", ".wpe."},
      {".embed_tokens.emb.", ".embed_tokens."}};
  const std::optional<MerakName> parts = merak_name(name);
  if (!parts) return name;
  std::string text = parts->era == 1 ? "module." : "";
  if (parts->module) text += "*.";
  text += parts->rest;
  const bool blocks = parts->rest.starts_with("transformer.h.");
  for (const auto& [theirs, ours] : others) {
    const std::size_t at = text.find(theirs);
    const bool fits = blocks || theirs.ends_with(".emb.");
    if (fits && at != std::string::npos) text.replace(at, theirs.size(), ours);
  }
  return text;
}

bool is_ignored(const MerakTable& table, std::string_view name) {
  return std::any_of(table.dialect.ignored.begin(), table.dialect.ignored.end(),
                     [&](const std::string& p) { return families::matches(p, name); });
}

/// Stages follow each other by the numbers of their modules.
void check_stage_order(const std::vector<FileIndex>& indices, Problems& problems) {
  std::map<std::uint64_t, std::pair<std::uint64_t, std::uint64_t>> modules;  // of each stage
  for (const FileIndex& index : indices) {
    const std::uint64_t stage = rank_of(index).second;
    for (const TensorEntry& entry : index.tensors) {
      const auto name = merak_name(entry.name);
      if (!name || !name->module) continue;
      auto& range = modules.emplace(stage, std::pair(*name->module, *name->module)).first->second;
      range.first = std::min(range.first, *name->module);
      range.second = std::max(range.second, *name->module);
    }
  }
  for (auto at = modules.begin(); at != modules.end() && std::next(at) != modules.end(); ++at) {
    const auto next = std::next(at);
    if (at->second.second < next->second.first) continue;
    problems.add("stage " + std::to_string(next->first) + " holds module " +
                 std::to_string(next->second.first) + ", stage " + std::to_string(at->first) +
                 " module " + std::to_string(at->second.second) +
                 ": stages are not those of one run");
  }
}

/// What the names in all files tell: choices of the table, and what a run's own files hold besides
/// ("buffers", "traced_positions"; see TargetOptions).
Json choices_of(const std::vector<FileIndex>& indices, const MerakGrid& grid, Problems& problems) {
  std::set<int> eras;
  bool suffixes = false, parallel_mlp = false, tied_keys = false, gpt2 = false;
  std::string buffers = "none";
  Json positions;
  for (const FileIndex& index : indices) {
    for (const TensorEntry& entry : index.tensors) {
      const auto name = merak_name(entry.name);
      if (!name) continue;
      const auto has = [&](std::string_view part) {
        return name->rest.find(part) != std::string::npos;
      };
      eras.insert(name->era);
      suffixes = suffixes || has(".col_linear.");
      parallel_mlp = parallel_mlp || (has(".col_linear.") && has(".mlp."));
      tied_keys = tied_keys || !name->module;
      gpt2 = gpt2 || has("transformer.h.");
      if (has("_tensor_constant")) buffers = "traced";
      if (name->rest.ends_with(".attn.bias")) buffers = "masks";
      if (name->rest == "_tensor_constant0" && !entry.shape.empty()) positions = entry.shape.back();
    }
  }
  if (eras.size() > 1) problems.add("some names begin with 'module.' and some do not: two runs");
  return {{"era", eras.empty() ? 1 : *eras.begin()},
          {"modules", "graph"},
          {"linear_by", gpt2 && !parallel_mlp ? "shape" : "lists"},
          {"tie_modules", tied_keys},
          {"forced", grid.tp == 1 && suffixes},
          {"buffers", buffers},
          {"traced_positions", positions}};
}

/// Stored rows of the vocabulary over all tp ranks, and whether each rank has its block only.
std::pair<std::uint64_t, bool> stored_vocabulary(const std::vector<FileIndex>& indices,
                                                 const MerakGrid& grid, const Source& source) {
  const auto vocab = source.record.at("vocab").get<std::uint64_t>();
  std::set<std::uint64_t> rows;
  std::string where;
  for (const FileIndex& index : indices) {
    for (const TensorEntry& entry : index.tensors) {
      const std::string name = spelled(entry.name);
      const bool fits =
          name.ends_with("transformer.wte.weight") || name.ends_with("model.embed_tokens.weight");
      if (!fits || entry.shape.size() != 2) continue;
      rows.insert(entry.shape[0]);
      where = index.path + ": " + entry.name;
    }
  }
  if (rows.size() != 1) throw Error(Kind::input, "no embedding, or several sizes of it");
  const std::uint64_t mine = *rows.begin();
  const std::uint64_t all = checked_product(mine, grid.tp);
  const Json written = source.found.facts.at("run").value("vocab_rows", Json());
  if (written == mine || written == all) return {written.get<std::uint64_t>(), written != mine};
  const Json& args = indices.front().facts.at("args");
  const Json told = args.is_object() ? args.value("parallel_vocab", Json()) : Json();
  // More rows than the vocabulary are padding, which tools give to blocks only. Were such a tensor
  // whole, its vocabulary would still be what the first rank holds.
  const bool may_be_cut = grid.tp > 1 && source.record.at("tied") == true;
  if (mine > vocab && may_be_cut && told != false) return {all, true};
  if (mine >= vocab) return {mine, false};
  if (all < vocab || grid.tp == 1) {
    throw Error(Kind::input, where + ": " + std::to_string(mine) + " rows on each of " +
                                 std::to_string(grid.tp) + " ranks are fewer than the vocabulary " +
                                 std::to_string(vocab) + ": --vocab-size says otherwise");
  }
  return {all, true};
}

/// Files with parts of their own cannot be equal; those of replicas and padding alone may be.
void check_contents(const std::vector<FileIndex>& indices, const std::set<std::string>& own,
                    Problems& problems) {
  std::map<std::pair<std::uint64_t, std::string>, std::string> file_of;
  for (const FileIndex& index : indices) {
    if (own.count(index.path) == 0) continue;
    const auto [at, is_new] = file_of.emplace(
        std::pair(rank_of(index).second, index.facts.at("content").dump()), index.path);
    if (!is_new) {
      problems.add(index.path + ": has the bytes of " + at->second +
                   ": one rank's file lies here twice");
    }
  }
}

/// Whether a stored tensor has a number of the model, not padding of the vocabulary alone.
bool has_numbers(const StoredTensor& stored, const CanonicalModel& model) {
  return std::any_of(
      stored.placements.begin(), stored.placements.end(),
      [&](const Placement& placement) { return !is_padding(model[placement.tensor].role); });
}

/// Layers by the stage that holds their first tensor.
void count_layers(const std::vector<std::vector<std::uint64_t>>& stages_of_layers, Source& source) {
  std::vector<std::uint64_t> counts(source.parallelism.pp, 0);
  std::string cut;
  for (std::size_t l = 0; l < stages_of_layers.size(); ++l) {
    const std::vector<std::uint64_t>& stages = stages_of_layers[l];
    if (stages.empty()) continue;
    ++counts[*std::min_element(stages.begin(), stages.end())];
    if (stages.front() == stages.back()) continue;
    cut += (cut.empty() ? "" : ", ") + std::to_string(l);
  }
  source.parallelism.chunks = chunks_of_counts(counts);
  if (!cut.empty()) source.notes.push_back("a border of stages cuts layer " + cut);
}

/// Describes each file by the tensors that its stage holds, wherever these lie: numbers of modules
/// follow from no config.
void match_files(const MerakRows& rows, const std::vector<FileIndex>& indices, Source& source,
                 Problems& problems) {
  std::map<std::string, MerakTensor> wanted;
  for (const MerakTensor& tensor : rows.tensors()) {
    wanted.emplace(rows.stored(tensor, "*", 0).name, tensor);
  }
  std::vector<std::set<std::string>> held(source.parallelism.pp);
  std::vector<std::vector<std::uint64_t>> stages(source.record.at("layers").get<std::uint64_t>());
  for (const FileIndex& index : indices) {
    for (const TensorEntry& entry : index.tensors) {
      const std::string name = spelled(entry.name);
      if (wanted.count(name) != 0) held[rank_of(index).second].insert(name);
    }
  }
  for (const auto& [name, tensor] : wanted) {
    bool found = rows.is_copy(tensor);
    for (std::uint64_t s = 0; s < held.size(); ++s) {
      if (held[s].count(name) == 0) continue;
      found = true;
      if (tensor.layer) stages[*tensor.layer].push_back(s);
    }
    if (!found) problems.add(name + ": no stage's file holds it");
  }
  for (std::vector<std::uint64_t>& each : stages) std::sort(each.begin(), each.end());
  count_layers(stages, source);
  std::set<std::string> own;
  for (const FileIndex& index : indices) {
    problems.collect([&] {
      const auto [tp, stage] = rank_of(index);
      Shard shard{index.path, {}};
      for (const std::string& name : held[stage]) {
        const MerakTensor& tensor = wanted.at(name);
        shard.tensors.push_back(rows.stored(tensor, "*", tp));
        StoredTensor& stored = shard.tensors.back();
        stored.optional = false;
        if (rows.is_split(tensor) && has_numbers(stored, source.model)) own.insert(index.path);
      }
      match_shard(
          shard, index, spelled,
          [&](std::string_view name) { return is_ignored(rows.table(), name); }, source, problems);
    });
  }
  check_contents(indices, own, problems);
}

/// What lies beside the model in a file: the iteration travels, the rest is dropped.
void add_training(const FileIndex& first, Source& source) {
  const Json& facts = first.facts;
  source.choices["flat"] = facts.at("flat");
  source.training = Json::object();
  if (facts.contains("iteration")) source.training["iteration"] = facts.at("iteration");
  for (const Json& key : facts.at("keys")) {
    const auto name = key.get<std::string>();
    const bool kept = name == "model" || name == "args" || name == "checkpoint_version" ||
                      name == "iteration" || name == "peft_config";
    if (!kept) source.dropped.push_back(name + " in " + first.path);
  }
}

}  // namespace

std::optional<std::uint64_t> Merak::module_of(const std::string& /*file*/,
                                              const std::string& tensor) const {
  const std::optional<MerakName> name = merak_name(tensor);
  return name ? name->module : std::nullopt;
}

Source Merak::open(const Found& found, const std::vector<FileIndex>& read,
                   const SourceOptions& options, Problems& problems) const {
  std::vector<FileIndex> indices = read;
  Source source;
  source.found = found;
  for (FileIndex& index : indices) {
    index.facts["rank"] = found.facts.at("ranks").at(index.path);
    const auto [tp, stage] = rank_of(index);
    source.ranks[index.path] = {tp, stage, 0, tp};
  }
  source.companions = companions_from_json(found.facts.at("companions"));
  MerakGrid grid = grid_of(found, problems);
  count_zero_files(grid, source, problems);
  check_one_run(indices, grid, problems);
  check_stage_order(indices, problems);
  source.choices = choices_of(indices, grid, problems);
  problems.raise();  // what follows would repeat it tensor by tensor

  settle_merak_record(options, indices, grid, source, problems);
  source.parallelism.tp = grid.tp;
  source.parallelism.pp = grid.pp;
  source.parallelism.dp = grid.dp;
  source.parallelism.etp = grid.tp;
  const auto [rows, cut] = stored_vocabulary(indices, grid, source);
  if (cut && source.record.at("tied") != true) {
    throw Error(Kind::input,
                "the vocabulary is cut over tp ranks, but the config.json says that "
                "the head is not tied, and Merak cuts tied embeddings only");
  }
  source.choices["parallel_vocab"] = cut;
  const auto vocab = source.record.at("vocab").get<std::uint64_t>();
  if (rows > vocab) {
    source.notes.push_back("vocabulary of " + std::to_string(vocab) + " taken, config.json's; of " +
                           std::to_string(rows) + " rows in the files the rest is padding: " +
                           "--vocab-size says otherwise");
  }
  with_context(indices.front().path, [&, stored = rows] {
    source.model = canonical_model(source.family, source.record);
    add_padding(source.model, source.record.at("vocab").get<std::uint64_t>(), stored);
  });
  Json choices = source.choices;
  for (const char* beyond : {"buffers", "traced_positions"}) choices.erase(beyond);
  const MerakRows described(source.family, source.record, choices, grid.tp, rows, source.model);
  match_files(described, indices, source, problems);
  settle_dtypes(source, problems);
  const std::uint32_t embedding = source.model.find("embedding.weight");
  source.record["dtype"] = source.config_record["dtype"] = torch_name(source.dtypes[embedding]);

  add_training(indices.front(), source);
  return source;
}

}  // namespace reshard::formats
