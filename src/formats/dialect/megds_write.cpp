#include <algorithm>

#include "core/error.hpp"
#include "families/arguments.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/megds.hpp"

// The writing half: what DeepSpeed would save, so that its load_checkpoint takes it without
// optimizer states (deepspeed.md section 8).

namespace reshard::formats {
namespace {

/// Everything that decides about the target's files.
struct Wanted {
  families::Record record;
  std::string numbering;  ///< "bigscience" or "plain"
  Json choices;
  Parallelism p;
  std::uint64_t padded_vocab = 0, multiple = 0, iteration = 0;
  bool pipeline = true, release = false;
  [[nodiscard]] bool early() const { return numbering == "bigscience"; }
};

/// The lineage that the user names, the source's own, or the one that can hold the model.
std::string numbering_of(const Source& source, const TargetOptions& options) {
  if (!options.lineage.empty()) return options.lineage == "bigscience" ? "bigscience" : "plain";
  if (source.choices.contains("numbering")) return source.choices.at("numbering");
  const bool early =
      source.record.at("position") == "alibi" || source.record.at("embedding_norm") == true;
  return early ? "bigscience" : "plain";
}

Json choices_of(const Source& source, const TargetOptions& options, const std::string& numbering) {
  const bool early = numbering == "bigscience";
  Json choices = {{"numbering", numbering},
                  {"qkv", "grouped"},
                  {"glu", early ? "up_first" : "gate_first"},
                  {"zero_centred_norms", 0}};
  if (!early) choices["zero_centred_norms"] = source.choices.value("zero_centred_norms", Json(0));
  const Json theirs = source.choices.value("qkv", Json());
  if (theirs == "blocked" && !early) choices["qkv"] = theirs;
  if (theirs.is_null() && !options.mds_qkv_layout.empty()) choices["qkv"] = options.mds_qkv_layout;
  if (choices.at("qkv") == "blocked" &&
      (early || source.record.at("groups") != source.record.at("heads"))) {
    throw Error(Kind::usage,
                "--mds-qkv-layout blocked: only the later lineage reads three blocks, and only "
                "where every head has a key of its own");
  }
  return choices;
}

Wanted wanted_of(const Source& source, const TargetOptions& options) {
  Wanted w;
  w.record = target_record(source, options.dtype);
  w.numbering = numbering_of(source, options);
  w.choices = choices_of(source, options, w.numbering);
  w.pipeline = !options.no_pipeline_files;
  w.p.tp = w.p.etp = options.tp.value_or(1);
  w.p.pp = options.pp.value_or(1);
  const auto layers = w.record.at("layers").get<std::uint64_t>();
  if (w.p.pp > layers) {
    throw Error(Kind::usage, "--pp " + std::to_string(w.p.pp) + ": the model has " +
                                 std::to_string(layers) + " layers");
  }
  w.p.chunks = deepspeed_stages(layers, w.p.pp);
  if (!w.pipeline && (w.p.pp > 1 || w.early())) {
    throw Error(Kind::usage,
                "--no-pipeline-files: only the later lineage has them, and without --pp");
  }
  w.multiple = options.vocab_multiple.value_or(vocabulary_multiple(source.args));
  const std::uint64_t step = checked_product(w.multiple, w.p.tp);
  const auto vocab = w.record.at("vocab").get<std::uint64_t>();
  w.padded_vocab = checked_product((vocab + step - 1) / step, step);
  w.release = options.for_release;
  w.iteration = w.release ? 0 : options.iteration.value_or(iteration_of(source));
  return w;
}

/// Patterns by which DeepSpeed's universal conversion finds out how tensors are cut.
Json universal_info(const MegdsRows& megds, const Wanted& w) {
  Json info = {{"universal_checkpoint_version", 0.4},
               {"original_vocab_size", w.record.at("vocab")},
               {"padded_vocab_size", w.padded_vocab},
               {"vocabulary_parameter_patterns", Json::array()},
               {"pipeline_replicated_parameter_patterns", Json::array()}};
  if (w.p.tp > 1) {
    info["tp_replicated_parameter_patterns"] = Json::array();
    info["parameter_with_row_parallelism_patterns"] = Json::array();
  }
  info["parameter_with_2_sub_params_cat_dim_0"] = Json::array();
  const bool tied = w.record.at("tied") == true;
  const Rows& rows = megds.rows;
  for (std::size_t i = 0; i < rows.rows().size(); ++i) {
    const families::Row& row = rows.rows()[i];
    const std::string& role = row.parts.front().second;
    const LayerKind kind = kind_of_role(role);
    const auto layer = kind == LayerKind::layer ? std::optional<std::uint64_t>(0) : std::nullopt;
    if (!rows.has_roles(i, layer) || !rows.holds(i, layer)) continue;
    const bool shared = tied && kind == LayerKind::embedding;
    const std::string pattern = (shared ? "tied_modules.embed." : "\\d+.") + row.name;
    const bool by_row = role.ends_with(".attention.o.weight") || role.ends_with(".mlp.down.weight");
    if (!row.pad.empty()) info["vocabulary_parameter_patterns"].push_back(pattern);
    if (shared) info["pipeline_replicated_parameter_patterns"].push_back(pattern);
    if (row.parts.front().first == "gate" || row.parts.front().first == "up") {
      info["parameter_with_2_sub_params_cat_dim_0"].push_back(pattern);
    }
    if (w.p.tp == 1) continue;
    if (row.split.empty()) info["tp_replicated_parameter_patterns"].push_back(pattern);
    if (by_row) info["parameter_with_row_parallelism_patterns"].push_back(pattern);
  }
  return info;
}

/// The learning rate's schedule: the source's where it is of the same lineage, else one at its
/// begin, which only a run that overrides it can use.
Json schedule_of(const Source& source, const Wanted& w, Target& target) {
  const Json theirs =
      source.found.facts.is_object() ? source.found.facts.value("lr_scheduler", Json()) : Json();
  const bool same = source.choices.value("numbering", Json()) == w.numbering;
  if (same && theirs.is_object() && !w.release) return theirs;
  target.notes.push_back(
      std::string("the learning rate's schedule is empty: the run needs ") +
      (w.early() ? "--override-lr-scheduler" : "--override-opt_param-scheduler, or --finetune"));
  const std::string lr = w.early() ? "" : "lr_";
  Json schedule = {{"max_lr", 0.0},           {lr + "warmup_steps", 0},
                   {lr + "warmup_tokens", 0}, {"num_steps", 0},
                   {"num_tokens", 0},         {lr + "decay_style", "linear"},
                   {lr + "decay_steps", 0},   {"min_lr", 0.0}};
  if (w.early()) return schedule;
  schedule.update(Json{{"lr_decay_tokens", nullptr},
                       {"start_wd", 0.0},
                       {"end_wd", 0.0},
                       {"wd_incr_style", "constant"},
                       {"wd_incr_steps", 0}});
  return schedule;
}

/// The args of the run that the target pretends to be of; counters at 0 for a release.
Json args_of(const Source& source, const Wanted& w, Target& target) {
  const families::ArgumentTable table = families::load_arguments("megatron_deepspeed");
  Json carried = source.args.is_object() ? source.args : Json::object();
  if (w.release) target.notes.push_back(reset_counters(source, carried));
  const Json degrees = {{"tp", w.p.tp},
                        {"pp", w.p.pp},
                        {"dp", 1},
                        {"padded_vocab", w.padded_vocab},
                        {"vocab_multiple", w.multiple}};
  Json told = w.choices;
  told.erase("qkv");
  Json args = families::write_arguments(table, w.record, degrees, told, carried);
  if (!w.early()) args["no_pipeline_parallel"] = !w.pipeline;
  std::string flags;
  for (const std::string& flag : families::command_line(table, args).flags) flags += " " + flag;
  if (!flags.empty()) {
    target.notes.push_back(
        "Megatron-DeepSpeed does not read these from a checkpoint; the run needs" + flags);
  }
  return args;
}

/// What lies in every mp_rank file besides a model: as a run without ZeRO saves it.
Json model_state(const Source& source, const Wanted& w, const Json& args, const Json& schedule) {
  const auto counter = [&](const char* name, const Json& otherwise) {
    const bool kept = !w.release && w.iteration == iteration_of(source);
    return kept ? source.training.value(name, otherwise) : otherwise;
  };
  return {{"module", nullptr},
          {"buffer_names", Json::array()},
          {"optimizer", nullptr},
          {"param_shapes", nullptr},
          {"frozen_param_shapes", nullptr},
          {"shared_params", Json::object()},
          {"frozen_param_fragments", nullptr},
          {"lr_scheduler", schedule},
          {"data_sampler", nullptr},
          {"random_ltd", nullptr},
          {"skipped_steps", counter("skipped_steps", 0)},
          {"global_steps", counter("global_steps", w.iteration)},
          {"global_samples", counter("global_samples", 0)},
          {"dp_world_size", 1},
          {"mp_world_size", w.p.tp * w.p.pp},
          {"checkpoint_parallel_dimensions", {{"pp_degree", w.p.pp}, {"tp_degree", w.p.tp}}},
          {"ds_config", nullptr},
          {"ds_version", nullptr},
          {"args",
           {{"!", "object"},
            {"class", "argparse.Namespace"},
            {"args", Json::array()},
            {"state", args}}},
          {"checkpoint_version", 3.0},
          {"iteration", w.iteration},
          {"tokens", counter("tokens", 0)}};
}

/// The dicts in which the layout without pipeline keeps its tensors (deepspeed.md section 3.6).
Json module_of(const std::vector<StoredTensor>& tensors) {
  Json module = Json::object();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    Json* at = &module;
    std::string rest = tensors[i].name;
    for (const std::string level : {"language_model", "embedding", "word_embeddings",
                                    "position_embeddings", "encoder", "output_layer"}) {
      if (!rest.starts_with(level + ".")) continue;
      at = &(*at)[level];
      rest.erase(0, level.size() + 1);
    }
    (*at)[rest] = {{"!", "tensor"}, {"index", i}};
  }
  return module;
}

/// A file's tensors as the OrderedDict that a layer saves.
Json ordered_dict(const std::vector<StoredTensor>& tensors) {
  Json items = Json::array();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    items.push_back({tensors[i].name, {{"!", "tensor"}, {"index", i}}});
  }
  return {{"!", "dict"}, {"class", "collections.OrderedDict"}, {"items", items}};
}

/// Describes files one by one and keeps count of what they cover.
class Files {
 public:
  Files(const Source& source, const TargetOptions& options, const Wanted& wanted,
        const MegdsRows& rows, Target& target)
      : source_(source), options_(options), wanted_(wanted), rows_(rows), target_(target) {}

  /// The file of a part of the model and tp rank, in the pipeline's numbering.
  void add_layer(const LayerFile& part, std::uint64_t tp) {
    FileDescription file;
    add_megds_tensors(rows_, part, tp, wanted_.p.tp, false, use_, file.tensors);
    if (file.tensors.empty()) return;
    file.path = "layer_" + two_digits(number_of(part, file.tensors.front())) + "-model_" +
                two_digits(tp) + "-model_states.pt";
    settle(file.tensors);
    file.value = ordered_dict(file.tensors);
    add(std::move(file));
  }

  /// The file of a model-parallel rank; with `parts` the model lies in it.
  void add_model(std::uint64_t rank, Json state, const std::vector<LayerFile>& parts) {
    FileDescription file;
    for (const LayerFile& part : parts) {
      add_megds_tensors(rows_, part, rank, wanted_.p.tp, true, use_, file.tensors);
    }
    file.path = "mp_rank_" + two_digits(rank) + "_model_states.pt";
    settle(file.tensors);
    if (!parts.empty()) state["module"] = module_of(file.tensors);
    file.value = std::move(state);
    add(std::move(file));
  }

  [[nodiscard]] const TableUse& use() const { return use_; }

 private:
  /// The layer's number as the table places the role (deepspeed.md section 3.1).
  std::uint64_t number_of(const LayerFile& part, const StoredTensor& tensor) const {
    const families::Names names(rows_.rows.names());
    const std::string& place = rows_.table.place_of(rows_.rows.role(tensor.parts.front()), names);
    const Json layer = part.layer;
    return families::Expression(place)
        .evaluate(families::Names("l", layer, &names))
        .get<std::uint64_t>();
  }

  void settle(std::vector<StoredTensor>& tensors) const {
    for (StoredTensor& tensor : tensors) {
      tensor.dtype = target_dtype(tensor, source_, options_.dtype);
    }
  }

  void add(FileDescription file) {
    file.container = FileDescription::Container::torch;
    target_.files.push_back(std::move(file));
  }

  const Source& source_;
  const TargetOptions& options_;
  const Wanted& wanted_;
  const MegdsRows& rows_;
  Target& target_;
  TableUse use_{std::vector<bool>(source_.model.tensors().size(), false), {}};
};

void add_notes(const Wanted& w, Target& target) {
  target.notes.push_back(std::string("written for the ") +
                         (w.early() ? "BigScience" : "deepspeedai") +
                         " lineage of Megatron-DeepSpeed: --lineage chooses");
  if (!w.early() && w.record.at("groups") == w.record.at("heads")) {
    target.notes.push_back("rows of query_key_value lie " +
                           std::string(w.choices.at("qkv") == "blocked"
                                           ? "in three blocks, for code since 2024-12-04"
                                           : "grouped by head, for code before 2024-12-04") +
                           ": --mds-qkv-layout chooses");
  }
  target.notes.push_back(
      "without optimizer and random states: the run needs --no-load-optim --no-load-rng");
}

}  // namespace

Target MegatronDeepSpeed::describe(const Source& source, const TargetOptions& options,
                                   Problems& problems) const {
  const Wanted w = wanted_of(source, options);
  Target target;
  target.parallelism = w.p;
  target.unit = "global_step" + std::to_string(w.iteration);
  target.tracker = "latest";
  target.tracker_content = target.unit;
  const MegdsRows rows(w.record, w.choices, w.p.tp, w.padded_vocab, source.model,
                       options.vocab_fill == VocabFill::last);
  Json state;
  problems.collect([&] {
    const Json args = args_of(source, w, target);
    state = model_state(source, w, args, schedule_of(source, w, target));
    if (!w.early()) state[std::string(qkv_key)] = w.choices.at("qkv");
    const Json sizes = {{"padded_vocab_size", w.padded_vocab},
                        {"original_vocab_size", w.record.at("vocab")}};
    if (w.early() || !w.pipeline) {
      state["checkpoint_info"] = sizes;
    } else {
      state["universal_checkpoint_info"] = universal_info(rows, w);
    }
  });
  std::vector<LayerFile> parts = {{LayerKind::embedding, 0}};
  const auto layers = w.record.at("layers").get<std::uint64_t>();
  for (std::uint64_t l = 0; l < layers; ++l) parts.push_back({LayerKind::layer, l});
  parts.insert(parts.end(), {{LayerKind::final_norm, 0}, {LayerKind::head, 0}});
  Files files(source, options, w, rows, target);
  if (w.pipeline) {
    for (const LayerFile& part : parts) {
      for (std::uint64_t t = 0; t < w.p.tp; ++t) {
        problems.collect([&] { files.add_layer(part, t); });
      }
    }
  }
  for (std::uint64_t rank = 0; rank < w.p.tp * w.p.pp; ++rank) {
    problems.collect(
        [&] { files.add_model(rank, state, w.pipeline ? std::vector<LayerFile>{} : parts); });
  }
  problems.raise();
  if (const std::string text = files.use().warning(); !text.empty()) {
    target.warnings.push_back(text);
  }
  for (const std::string& role : uncovered_roles(source.model, files.use().covered)) {
    problems.add(role + ": Megatron-DeepSpeed has no tensor for it");
  }
  if (source.config.is_object()) {
    const std::string folder = std::string(hf_config_folder) + "/";
    target.files.push_back(
        plain_file(folder + "config.json",
                   config_with_dtype(source.config, w.record.at("dtype")).dump(2) + "\n"));
    for (FileDescription& file : companion_files(source.companions, folder)) {
      target.files.push_back(std::move(file));
    }
  }
  add_notes(w, target);
  return target;
}

}  // namespace reshard::formats
