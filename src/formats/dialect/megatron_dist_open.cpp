#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "families/record.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron_dist.hpp"

// A source from .metadata, common state and the headers of all items.

namespace reshard::formats {
namespace {

/// A tensor as .metadata describes it.
struct Described {
  std::string name;  ///< in the checkpoint
  Shape shape;
};

/// The tensors of the model by their keys in the spelling of the table.
std::map<std::string, Described> described_tensors(const Found& found) {
  std::map<std::string, Described> tensors;
  for (const Json& tensor : found.facts.at("tensors")) {
    const auto name = tensor[0].get<std::string>();
    const std::string key(dist_key(name));
    const auto [at, is_new] = tensors.emplace(key, Described{name, tensor[2].get<Shape>()});
    if (!is_new) {
      throw Error(Kind::input, at->second.name + " and " + name + ": both are there");
    }
  }
  return tensors;
}

using Tensors = std::map<std::string, Described>;

bool has_layer_names(const Tensors& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const auto& tensor) {
    return families::matches("decoder.layers.{l}.*", tensor.first);
  });
}

bool has_singletons(const Tensors& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const auto& tensor) {
    return tensor.first.ends_with(".linear_fc1.weight_w");
  });
}

/// The stages that args call even, or even but for the first and last; empty when they say
/// something else (megatron.md section 3).
std::vector<LayerRange> told_stages(const Json& degrees, const Parallelism& p,
                                    std::uint64_t layers) {
  const bool other = !degrees.value("stage_layout", Json()).is_null() ||
                     degrees.value("embedding_in_split", Json()) == true ||
                     degrees.value("loss_in_split", Json()) == true;
  if (other) return {};
  std::vector<std::uint64_t> counts(p.pp, 0);
  std::set<std::uint64_t> told;
  std::uint64_t rest = layers;
  for (const auto& [name, stage] : {std::pair("first_stage_layers", std::uint64_t{0}),
                                    std::pair("last_stage_layers", p.pp - 1)}) {
    const Json count = degrees.value(name, Json());
    if (count.is_null()) continue;
    if (!count.is_number_integer() || count < 0 || count > rest || p.vpp > 1) return {};
    if (!told.insert(stage).second) return {};
    counts[stage] = count.get<std::uint64_t>();
    rest -= counts[stage];
  }
  const std::uint64_t others = p.pp - told.size();
  if (others == 0 ? rest != 0 : rest % (others * p.vpp) != 0) return {};
  for (std::uint64_t s = 0; s < p.pp; ++s) {
    if (told.count(s) == 0) counts[s] = rest / others;
  }
  return stage_table(layers, p.pp, p.vpp, counts);
}

/// Rows of the embedding that the checkpoint holds.
std::uint64_t stored_vocabulary(const Tensors& tensors) {
  const auto at = tensors.find("embedding.word_embeddings.weight");
  if (at == tensors.end() || at->second.shape.empty()) {
    throw Error(Kind::input, "no tensor embedding.word_embeddings.weight");
  }
  return at->second.shape[0];
}

/// The model of a checkpoint without args, by its config.json; returns the rows of vocabulary.
std::uint64_t settle_by_config(const Found& found, const Json& common, const Tensors& tensors,
                               const SourceOptions& options, Source& source) {
  source.found = found;
  source.config = found.facts.at("config");
  source.companions = companions_from_json(found.facts.at("companions"));
  if (!source.config.is_object()) {
    throw Error(
        Kind::input,
        "no args in the checkpoint (NeMo and Megatron-Bridge keep them elsewhere): give the "
        "model's config.json with --config");
  }
  settle_family(options, source);
  source.record = with_context("config.json", [&] {
    return families::read_config(source.family, source.config, options.ignore_config);
  });
  const std::uint64_t padded = stored_vocabulary(tensors);
  if (options.vocab_size) source.record["vocab"] = *options.vocab_size;
  if (source.record.at("vocab") > padded) {
    throw Error(options.vocab_size ? Kind::usage : Kind::input,
                "vocabulary of " + source.record.at("vocab").dump() +
                    " rows, but the checkpoint has " + std::to_string(padded));
  }
  source.config_record = source.record;
  source.choices = {{"spec", "te"}, {"zero_centred_norms", 0}, {"rotary_interleaved", false}};
  source.notes.push_back(
      "no args in the checkpoint: norms are taken as not zero-centred, rotary order as "
      "half-rotated");
  source.training["iteration"] = common.value("iteration", Json(0));
  return padded;
}

/// Holds the tensors that the model wants against those that are there.
void check_tensors(const std::vector<DistTensor>& wanted, Tensors there, Problems& problems) {
  std::vector<std::string> missing, unexpected;
  for (const DistTensor& tensor : wanted) {
    const auto at = there.find(tensor.stored.name);
    if (at == there.end()) {
      missing.push_back(tensor.stored.name);
      continue;
    }
    if (at->second.shape != tensor.stored.shape) {
      problems.add(".metadata: " + at->second.name + ": shape " + to_string(at->second.shape) +
                   ", wanted " + to_string(tensor.stored.shape));
    }
    there.erase(at);
  }
  for (const auto& [key, tensor] : there) {
    unexpected.push_back(tensor.name + " " + to_string(tensor.shape));
  }
  add_unmatched(".metadata", missing, unexpected, problems);
}

Box box_of(const Shape& offset, const Shape& shape) {
  Box box;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    box.offset.push_back(offset[d]);
    box.extent.push_back(shape[d]);
  }
  return box;
}

/// Adds what the chunks of all files hold of the model to the source.
void add_files(const std::vector<DistTensor>& wanted, const std::vector<FileIndex>& indices,
               Source& source) {
  std::map<std::string_view, ChunkPlacements> placements;
  for (const DistTensor& tensor : wanted) {
    placements.try_emplace(tensor.stored.name, tensor.stored);
  }
  const Json& tensors = source.found.facts.at("tensors");
  for (std::uint32_t f = 0; f < indices.size(); ++f) {
    source.files.push_back({indices[f].path, indices[f].bytes});
    const Json& chunks = source.found.facts.at("chunks").at(f);
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      const TensorEntry& entry = indices[f].tensors.at(c);
      const Json& key = tensors.at(chunks[c][0].get<std::size_t>())[0];
      const ChunkPlacements& whole = placements.at(dist_key(key.get_ref<const std::string&>()));
      const Box box = box_of(chunks[c][3].get<Shape>(), entry.shape);
      with_context(indices[f].path + ": " + entry.name, [&] {
        add_pieces(whole.in(box).placements, whole.tensor().add, entry, f, source);
      });
    }
  }
}

/// The tensors that the model has by the names in the checkpoint, which tell stacked layers from
/// single ones and Transformer Engine's spelling from the local one, whatever args say.
std::vector<DistTensor> wanted_tensors(const Source& source, const Tensors& tensors,
                                       std::uint64_t padded, TableUse& use) {
  Json choices = {{"singleton", has_singletons(tensors)}};
  for (const char* choice : {"spec", "zero_centred_norms", "rotary_interleaved"}) {
    choices[choice] = source.choices.at(choice);
  }
  std::vector<DistTensor> best;
  std::size_t least = ~std::size_t{0};
  const Json told = choices.at("spec");
  for (const Json& spec : {told, Json(told == "te" ? "local" : "te")}) {
    choices["spec"] = spec;
    const DistRows rows(source.record, choices, source.parallelism, padded, source.model,
                        !has_layer_names(tensors));
    TableUse tried{std::vector<bool>(source.model.tensors().size(), false), {}};
    std::vector<DistTensor> made = dist_tensors(rows, tried);
    const auto missing = static_cast<std::size_t>(
        std::count_if(made.begin(), made.end(), [&](const DistTensor& tensor) {
          return tensors.find(tensor.stored.name) == tensors.end();
        }));
    if (missing < least) {
      least = missing;
      best = std::move(made);
      use = std::move(tried);
    }
    if (least == 0) break;
  }
  return best;
}

void announce_dropped(const Json& common, Source& source) {
  for (const auto& [pattern, sum] : source.found.facts.at("left_out").items()) {
    source.dropped.push_back(pattern + ": " + sum[0].dump() + " entries, " + sum[1].dump() +
                             " bytes");
  }
  for (const Json& key : common.at("keys")) {
    const auto name = key.get<std::string>();
    for (const char* other :
         {"optimizer", "opt_param_scheduler", "rng_state", "rerun_state_machine"}) {
      if (name == other) source.dropped.push_back(name + " of the common state");
    }
  }
}

}  // namespace

Source MegatronDist::open(const Found& found, const std::vector<FileIndex>& indices,
                          const SourceOptions& options, Problems& problems) const {
  const Json& common = found.facts.at("common");
  const Tensors tensors = described_tensors(found);
  Source source;
  std::uint64_t padded = 0;
  check_iteration(found, common.value("iteration", Json()), "common state", problems);
  if (common.contains("args")) {
    SourceRun run = read_run(found, common, "common state", options, source, problems);
    padded = run.padded_vocab;
    settle_run(options, run, source);
    source.parallelism.chunks = told_stages(run.arguments.degrees, source.parallelism,
                                            source.record.at("layers").get<std::uint64_t>());
  } else {
    padded = settle_by_config(found, common, tensors, options, source);
  }
  problems.raise();
  source.model = canonical_model(source.family, source.record);
  add_padding(source.model, source.record.at("vocab").get<std::uint64_t>(), padded);
  TableUse use;
  const std::vector<DistTensor> wanted = wanted_tensors(source, tensors, padded, use);
  check_tensors(wanted, tensors, problems);
  problems.raise();
  if (const std::string text = use.warning(); !text.empty()) source.warnings.push_back(text);
  for (const std::string& role : uncovered_roles(source.model, use.covered)) {
    problems.add(role + ": Megatron's format has no tensor for it");
  }
  add_files(wanted, indices, source);
  source.found.facts.erase("chunks");  // many, and of no further use
  source.found.facts.erase("tensors");
  settle_dtypes(source, problems);
  announce_dropped(common, source);
  return source;
}

}  // namespace reshard::formats
