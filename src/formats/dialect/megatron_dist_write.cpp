#include <algorithm>
#include <map>
#include <set>

#include "core/error.hpp"
#include "formats/container/dcp_layout.hpp"
#include "formats/dialect/megatron_dist.hpp"
#include "formats/dialect/megatron_target.hpp"

// The writing half of the dialect: what a run of the target's degrees would save, so that
// Megatron-Core's own loader takes it (megatron.md sections 6, 7).

namespace reshard::formats {
namespace {

constexpr std::uint64_t most_files = std::uint64_t{1} << 20;

/// Whether Megatron stacks the layers of a run with these args (megatron.md section 6.4).
bool is_homogeneous(const Json& args) {
  const Json frequency = args.is_object() ? args.value("moe_layer_freq", Json()) : Json();
  return frequency.is_null() || frequency == 1;
}

/// A chunk as a stored tensor of its own.
StoredTensor chunk_of(const ChunkPlacements& placements, const Box& box) {
  const StoredTensor& whole = placements.tensor();
  StoredTensor chunk;
  Shape offset;
  for (std::size_t d = 0; d < box.extent.size(); ++d) {
    offset.push_back(box.offset[d]);
    chunk.shape.push_back(box.extent[d]);
  }
  chunk.name =
      chunk.shape == whole.shape ? whole.name : chunk_name(whole.name, offset, chunk.shape);
  chunk.dtype = whole.dtype;
  chunk.add = whole.add;
  ChunkPlacements::Held held = placements.in(box);
  chunk.placements = std::move(held.placements);
  chunk.repeats = held.repeats;
  return chunk;
}

/// The modules that ask for `_extra_state` when they are loaded: linear layers and, by Transformer
/// Engine, attention and norms that stand alone (megatron.md sections 2.9, 6.5).
std::string module_with_state(std::string_view name, bool transformer_engine) {
  if (!name.starts_with("decoder.")) return "";
  const std::string_view linear = linear_layer(name);
  if (!linear.empty() || !transformer_engine) return std::string(linear);
  const std::size_t end = name.rfind('.');
  const std::string_view module = name.substr(0, end);
  return module.ends_with("layernorm") ? std::string(module) : "";
}

/// Keys of the byte entries that these ask for, one for each layer and expert.
std::vector<std::string> state_keys(const std::vector<DistTensor>& tensors, const DistRows& rows,
                                    bool transformer_engine) {
  std::vector<std::string> keys;
  const Json& names = rows.megatron.rows.names();
  const auto layers = names.at("layers").get<std::uint64_t>();
  const auto add = [&](const std::string& module, bool stacked) {
    const std::uint64_t experts = module.find(".experts.experts.") == std::string::npos
                                      ? 0
                                      : names.at("experts").get<std::uint64_t>();
    for (std::uint64_t l = 0; l < (stacked ? layers : 1); ++l) {
      for (std::uint64_t e = 0; e < std::max<std::uint64_t>(experts, 1); ++e) {
        std::string place = stacked ? std::to_string(l) : "",
                    of = stacked ? std::to_string(layers) : "";
        if (experts > 0) {
          place += (stacked ? "." : "") + std::to_string(e);
          of += (stacked ? "." : "") + std::to_string(experts);
        }
        if (place.empty()) {
          place = "0";
          of = "1";
        }
        keys.push_back(module + "._extra_state/shard_" + place + "_" + of);
      }
    }
  };
  std::set<std::string> seen;  // a norm has a weight and a bias
  for (const DistTensor& tensor : tensors) {
    const std::string module = module_with_state(tensor.stored.name, transformer_engine);
    if (module.empty() || !seen.insert(module).second) continue;
    const bool stacked = rows.stacked && module.starts_with("decoder.layers.");
    add(module, stacked);
    const std::size_t projection = module.rfind(".linear_proj");
    if (transformer_engine && projection != std::string::npos) {
      add(module.substr(0, projection) + ".core_attention", stacked);
    }
  }
  return keys;
}

/// Gives each chunk of a rank one of its files: the largest first, to the file with the least.
std::vector<std::uint64_t> spread(const std::vector<std::uint64_t>& sizes, std::uint64_t files) {
  std::vector<std::size_t> order(sizes.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return sizes[a] > sizes[b]; });
  std::vector<std::uint64_t> file(sizes.size()), filled(files, 0);
  for (const std::size_t i : order) {
    const auto least = std::min_element(filled.begin(), filled.end());
    file[i] = static_cast<std::uint64_t>(least - filled.begin());
    *least += sizes[i];
  }
  return file;
}

/// Lays out the chunks over files, and tells .metadata where they are.
class FileMaker {
 public:
  explicit FileMaker(std::uint64_t files_of_rank) : files_of_rank_(files_of_rank) {}

  void make(const std::vector<DistTensor>& tensors, const std::vector<std::string>& states) {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const StoredTensor& whole = tensors[t].stored;
      const ChunkPlacements placements(whole);
      DcpEntry entry{whole.name, true, std::string(torch_name(whole.dtype)), whole.shape, {}, {},
                     0,          0};
      for (const DistCut& cut : tensors[t].cuts) {
        StoredTensor chunk = chunk_of(placements, cut.box);
        Shape offset(cut.box.offset.begin(), cut.box.offset.end());
        chunks_[cut.rank].push_back({std::move(chunk), t, entry.chunks.size()});
        entry.chunks.push_back({std::move(offset), chunks_[cut.rank].back().tensor.shape, {}});
      }
      metadata_.entries.push_back(std::move(entry));
    }
    // Empty states are all the same bytes: one item serves them all.
    const std::string state = states.empty() ? "" : dcp_bytes(Json::array({nullptr}));
    for (auto& [rank, chunks] : chunks_) make_files(rank, chunks, state);
    for (const std::string& key : states) {
      metadata_.entries.push_back({key, false, "", {}, {}, {0, 0, state.size()}, 0, 0});
    }
  }

  std::vector<FileDescription> take_files() { return std::move(files_); }
  [[nodiscard]] std::string metadata() const { return write_dcp_metadata(metadata_); }

 private:
  struct Chunk {
    StoredTensor tensor;
    std::size_t entry = 0, number = 0;  ///< which of which entry's it is
  };

  void make_files(std::uint64_t rank, std::vector<Chunk>& chunks, const std::string& state) {
    DcpFileSpec all;
    for (const Chunk& chunk : chunks) {
      all.tensors.push_back({"", chunk.tensor.dtype, chunk.tensor.shape});
    }
    std::vector<std::uint64_t> sizes;
    for (const DcpItem& item : dcp_items(all)) sizes.push_back(item.bytes);
    const std::vector<std::uint64_t> place = spread(sizes, files_of_rank_);
    for (std::uint64_t w = 0; w < files_of_rank_; ++w) {
      FileDescription file;
      file.path = "__" + std::to_string(rank) + "_" + std::to_string(w) + ".distcp";
      file.container = FileDescription::Container::dcp;
      if (files_.empty()) file.content = state;
      std::vector<const Chunk*> held;
      DcpFileSpec spec{file.content, {}};
      for (std::size_t i = 0; i < chunks.size(); ++i) {
        if (place[i] != w) continue;
        held.push_back(&chunks[i]);
        spec.tensors.push_back({"", chunks[i].tensor.dtype, chunks[i].tensor.shape});
        file.tensors.push_back(std::move(chunks[i].tensor));
      }
      if (held.empty()) continue;
      const std::vector<DcpItem> items = dcp_items(spec);
      for (std::size_t i = 0; i < items.size(); ++i) {
        DcpItem& item = metadata_.entries[held[i]->entry].chunks[held[i]->number].item;
        item = items[i];
        item.file = static_cast<std::uint32_t>(metadata_.files.size());
      }
      metadata_.files.push_back(file.path);
      files_.push_back(std::move(file));
    }
  }

  std::uint64_t files_of_rank_;
  std::map<std::uint64_t, std::vector<Chunk>> chunks_;  ///< by rank
  DcpMetadata metadata_;
  std::vector<FileDescription> files_;
};

/// What Megatron keeps once for all ranks.
FileDescription common_file(const Source& source, const TargetRun& run) {
  FileDescription file;
  file.path = "common.pt";
  file.container = FileDescription::Container::torch;
  file.value = common_state(source, run);
  file.value["content_metadata"] = {{"distrib_optim_sharding_type", "fully_reshardable"},
                                    {"distrib_optim_fully_reshardable_mem_efficient", false},
                                    {"singleton_local_shards", false},
                                    {"chained_optim_avoid_prefix", true}};
  return file;
}

}  // namespace

Target MegatronDist::describe(const Source& source, const TargetOptions& options,
                              Problems& problems) const {
  Target target;
  TargetRun run = plan_run(source, options, "torch_dist", problems, target);
  const Parallelism& p = target.parallelism;
  const std::uint64_t files_of_rank = options.dist_files.value_or(1);
  if (checked_product(checked_product(p.pp, ranks_of_stage(p)), files_of_rank) > most_files) {
    throw Error(Kind::usage, "the degrees and --dist-files make more than " +
                                 std::to_string(most_files) + " files");
  }
  if (run.args.is_object()) {
    run.args["rank"] = 0;
    run.args["no_save_optim"] = true;  // so that a run does not ask for them
    run.args["no_save_rng"] = true;
  }
  const families::DialectTable table = families::load_dialect("megatron_dist");
  const DistRows rows(run.record, known_choices(table, run.choices), p, run.padded_vocab,
                      source.model, is_homogeneous(run.args),
                      options.vocab_fill == VocabFill::last);
  TableUse use{std::vector<bool>(source.model.tensors().size(), false), {}};
  std::vector<DistTensor> tensors;
  const std::size_t before = problems.texts().size();
  problems.collect([&] { tensors = dist_tensors(rows, p, use); });
  for (DistTensor& tensor : tensors) {
    problems.collect(
        [&] { tensor.stored.dtype = target_dtype(tensor.stored, source, options.dtype); });
  }
  if (const std::string text = use.warning(); !text.empty()) target.warnings.push_back(text);
  if (problems.texts().size() == before) {  // what could not be described leaves roles uncovered
    for (const std::string& role : uncovered_roles(source.model, use.covered)) {
      problems.add(role + ": Megatron's format has no tensor for it");
    }
  }
  FileMaker maker(files_of_rank);
  maker.make(tensors, state_keys(tensors, rows, run.choices.at("spec") == "te"));
  target.files = maker.take_files();
  target.files.push_back(plain_file(".metadata", maker.metadata()));
  target.files.push_back(common_file(source, run));
  target.files.push_back(plain_file(
      "metadata.json", R"({"sharded_backend": "torch_dist", "sharded_backend_version": 1, )"
                       R"("common_backend": "torch", "common_backend_version": 1})"));
  finish_target(source, run, target);
  return target;
}

}  // namespace reshard::formats
