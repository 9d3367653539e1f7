#include <algorithm>
#include <array>

#include "core/error.hpp"
#include "families/arguments.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron.hpp"

// The writing half of the dialect: what Megatron would save, so that its own loader takes it
// (megatron.md section 7).

namespace reshard::formats {
namespace {

Parallelism target_parallelism(const Source& source, const TargetOptions& options) {
  const std::uint64_t layers = source.record.at("layers").get<std::uint64_t>();
  const Parallelism& from = source.parallelism;
  Parallelism p;
  p.tp = options.tp.value_or(1);
  p.pp = options.pp.value_or(options.stage_layers.empty() ? 1 : options.stage_layers.size());
  p.vpp = options.vpp.value_or(1);
  p.ep = options.ep.value_or(1);
  p.etp = options.etp.value_or(p.tp);
  // Other frameworks may give a stage nothing but an embedding.
  const bool usable = source.found.dialect == "megatron" ||
                      std::all_of(from.chunks.begin(), from.chunks.end(),
                                  [](const LayerRange& chunk) { return chunk.count > 0; });
  const bool same_stages = options.stage_layers.empty() && p.pp == from.pp && p.vpp == from.vpp &&
                           from.chunks.size() == p.pp * p.vpp && usable;
  p.chunks = same_stages ? from.chunks : stage_table(layers, p.pp, p.vpp, options.stage_layers);
  if (p.ep > 1 && source.record.at("experts") == 0) {
    throw Error(Kind::usage, "--ep " + std::to_string(p.ep) + ": the model has no experts");
  }
  return p;
}

std::uint64_t padded(std::uint64_t vocab, std::uint64_t multiple, std::uint64_t tp) {
  const std::uint64_t step = checked_product(multiple, tp);
  if (step == 0) throw Error(Kind::usage, "--vocab-multiple must be at least 1");
  return checked_product((vocab + step - 1) / step, step);
}

/// What args say of the stages: first and last where only these differ and have layers, as
/// Megatron wants, else a layout string.
void describe_stages(const Parallelism& p, bool legacy, Json& degrees) {
  const std::vector<std::uint64_t> stages = p.layers_of_stages();
  degrees["first_stage_layers"] = nullptr;
  degrees["last_stage_layers"] = nullptr;
  degrees["stage_layout"] = nullptr;
  degrees["embedding_in_split"] = false;
  degrees["loss_in_split"] = false;
  bool regular = true;  // every chunk of a stage is of the same size
  for (std::size_t c = 0; c < p.chunks.size(); ++c) {
    regular = regular && p.chunks[c].count * p.vpp == stages[c % p.pp];
  }
  const auto all_are = [&](std::size_t first, std::size_t last, std::uint64_t wanted) {
    return std::all_of(&stages[first], &stages[0] + last, [&](auto n) { return n == wanted; });
  };
  if (regular && all_are(0, stages.size(), stages.front())) return;
  if (legacy) {
    std::string sizes;
    for (const std::uint64_t n : stages) sizes += (sizes.empty() ? "" : ",") + std::to_string(n);
    throw Error(Kind::input, "stages of " + sizes +
                                 " layers: Megatron's legacy models have stages of one size only");
  }
  const bool none_empty = std::find(stages.begin(), stages.end(), 0) == stages.end();
  if (regular && none_empty && all_are(1, stages.size() - 1, stages[1])) {
    degrees["first_stage_layers"] = stages.front();
    degrees["last_stage_layers"] = stages.back();
    return;
  }
  std::string layout = "E";
  for (std::size_t c = 0; c < p.chunks.size(); ++c) {
    layout += (c == 0 ? "" : "|") + std::string(p.chunks[c].count, 't');
  }
  degrees["stage_layout"] = layout + "L";
}

/// What the code of Megatron's legacy models leaves out, whatever args say (its language_model.py
/// and transformer.py): a window of attention, and of rotary positions all but their share and a
/// linear factor. A source of that form was computed by code that we do not know.
void check_legacy(const Source& source, const families::Record& record, Problems& problems) {
  if (source.found.dialect == "megatron" && source.choices.at("legacy_names") == true) return;
  const auto refuse = [&](const char* name, bool fits) {
    if (fits) return;
    problems.add(std::string(name) + " " + record.at(name).dump() +
                 ": Megatron's legacy models do not compute it: wanted --megatron-names mcore");
  };
  refuse("window", record.at("window").is_null());
  if (record.at("position") != "rope") return;
  refuse("rope_base", record.at("rope_base") == 10000.0);
  refuse("rope_scaling",
         record.at("rope_scaling").is_null() || record.at("rope_scaling") == "linear");
}

/// Megatron's own kind of tokenizer learns its size from args, which must mean the rows that are
/// written (tables/arguments/megatron.json, "vocab").
void fit_null_tokenizer(std::uint64_t vocab, Json& args) {
  const Json size = args.value("vocab_size", Json());
  if (args.value("tokenizer_type", Json()) != "NullTokenizer" || !size.is_number_integer()) return;
  if (size != vocab && size != vocab - 1) args["vocab_size"] = vocab - 1;
}

Json degrees_of(const Parallelism& p, std::uint64_t padded_vocab, std::uint64_t multiple,
                bool legacy) {
  const std::uint64_t ranks = ranks_of_stage(p);
  Json degrees = {{"tp", p.tp},
                  {"pp", p.pp},
                  {"vpp", p.vpp},
                  {"ep", p.ep},
                  {"etp", p.etp},
                  {"cp", 1},
                  {"dp", ranks / p.tp},
                  {"world", ranks * p.pp},
                  {"padded_vocab", padded_vocab},
                  {"vocab_multiple", multiple},
                  {"distributed_optimizer", false}};
  describe_stages(p, legacy, degrees);
  return degrees;
}

/// The lowest global rank that holds the parts of a file, in Megatron's order of ranks
/// (megatron.md section 1.3).
std::uint64_t global_rank(const Parallelism& p, const FileRank& file) {
  std::uint64_t inner = file.tp;
  while (inner % p.etp != file.etp || inner / p.etp % p.ep != file.ep) inner += p.tp;
  return file.pp * ranks_of_stage(p) + inner;
}

/// What the run must be told beside `--use-checkpoint-args`.
void add_notes(const families::CommandLine& line, bool release, Target& target) {
  std::string flags, fields;
  for (const std::string& flag : line.flags) flags += " " + flag;
  if (!release) flags += " --no-load-optim --no-load-rng";
  for (const std::string& field : line.fields) fields += " " + field;
  if (!flags.empty()) {
    target.notes.push_back("Megatron does not read these from a checkpoint; the run needs" + flags);
  }
  if (!fields.empty()) {
    target.notes.push_back(
        "Megatron has no flags for these fields of the model's config; the run must set" + fields);
  }
}

/// Whether a tensor is the weight of a parallel linear layer: these ask for `_extra_state` beside
/// it when they load strictly (megatron.md sections 2.9, 7.1). Returns the layer's name, else "".
std::string_view linear_layer(std::string_view name) {
  constexpr std::array layers = {"linear_qkv",       "linear_proj",         "linear_fc1",
                                 "linear_fc2",       "linear_q_proj",       "linear_q_down_proj",
                                 "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj",
                                 "output_layer",     "query_key_value",     "dense",
                                 "dense_h_to_4h",    "dense_4h_to_h"};
  const std::size_t end = name.rfind(".weight");
  if (end == std::string_view::npos) return {};
  const std::string_view layer = name.substr(0, end);
  const std::string_view last = layer.substr(layer.rfind('.') + 1);  // npos + 1 is 0
  const bool linear = std::find(layers.begin(), layers.end(), last) != layers.end();
  return linear ? layer : std::string_view{};
}

/// Puts a leaf at a dotted name whose first levels are dicts, as `nested` lists them outermost
/// first.
void put_leaf(Json& model, const std::vector<std::string>& nested, const std::string& name,
              const Json& leaf) {
  Json* at = &model;
  std::size_t begin = 0;
  for (const std::string& level : nested) {
    if (!name.starts_with(level + ".")) continue;
    at = &(*at)[level.substr(begin)];
    begin = level.size() + 1;
  }
  (*at)[name.substr(begin)] = leaf;
}

/// The tree of one file; tensor leaves name their index, stages without tensors have their dicts.
Json tree_of(const std::vector<StoredTensor>& tensors, const families::DialectTable& table,
             const Json& args, std::uint64_t iteration, std::uint64_t vpp) {
  Json tree = {{"args",
                {{"!", "object"},
                 {"class", "argparse.Namespace"},
                 {"args", Json::array()},
                 {"state", args}}},
               {"checkpoint_version", 3.0},
               {"iteration", iteration}};
  for (std::uint64_t v = 0; v < vpp; ++v) {
    tree[vpp > 1 ? "model" + std::to_string(v) : "model"] = Json::object();
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::size_t dot = tensors[i].name.find('.');
    Json& model = tree[tensors[i].name.substr(0, dot)];
    const std::string inner = tensors[i].name.substr(dot + 1);
    put_leaf(model, table.nested, inner, {{"!", "tensor"}, {"index", i}});
    const std::string layer(linear_layer(inner));
    if (!layer.empty()) put_leaf(model, table.nested, layer + "._extra_state", nullptr);
  }
  return tree;
}

/// Choices of the table to be written: the source's where it is Megatron too, else the user's.
Json target_choices(const Source& source, const TargetOptions& options, bool legacy) {
  Json choices = {{"spec", "te"},
                  {"experts_as", "sequential"},
                  {"zero_centred_norms", 0},
                  {"rotary_interleaved", false}};
  choices.update(source.choices);
  if (options.transformer_impl == "local") choices["spec"] = "local";
  if (options.transformer_impl == "transformer_engine") choices["spec"] = "te";
  if (legacy) choices["spec"] = "local";  // whose names the legacy ones are
  choices["legacy_names"] = legacy;
  return choices;
}

/// Those of the choices that a table knows.
Json known_choices(const families::DialectTable& table, const Json& choices) {
  Json known = Json::object();
  for (const auto& [name, values] : table.choices) {
    if (choices.contains(name)) known[name] = choices.at(name);
  }
  return known;
}

}  // namespace

Target Megatron::describe(const Source& source, const TargetOptions& options,
                          Problems& problems) const {
  const families::ArgumentTable table = families::load_arguments("megatron");
  Target target;
  target.parallelism = target_parallelism(source, options);
  const Parallelism& p = target.parallelism;
  const bool legacy = options.megatron_names == "legacy";
  const families::Record record = target_record(source, options.dtype);
  std::uint64_t multiple = options.vocab_multiple.value_or(128);
  if (!options.vocab_multiple && source.args.is_object()) {
    const Json theirs = source.args.value("make_vocab_size_divisible_by", Json());
    if (theirs.is_number_integer() && theirs > 0) multiple = theirs.get<std::uint64_t>();
  }
  const std::uint64_t padded_vocab =
      padded(record.at("vocab").get<std::uint64_t>(), multiple, p.tp);
  const Json choices = target_choices(source, options, legacy);
  const std::string_view names = legacy ? "megatron_legacy" : "megatron_mcore";
  const MegatronRows rows(names, record, known_choices(families::load_dialect(names), choices), p,
                          padded_vocab, source.model, options.vocab_fill == VocabFill::last);

  if (legacy) check_legacy(source, record, problems);
  Json args;
  problems.collect([&] {
    Json carried = source.args.is_object() ? source.args : Json::object();
    fit_null_tokenizer(record.at("vocab").get<std::uint64_t>(), carried);
    if (options.for_release) target.notes.push_back(reset_counters(source, carried));
    args = families::write_arguments(table, record, degrees_of(p, padded_vocab, multiple, legacy),
                                     choices, carried);
  });
  const std::uint64_t iteration = options.iteration.value_or(iteration_of(source));
  const bool release = options.for_release || iteration == 0;
  target.unit = release ? "release" : iteration_folder(iteration);
  target.tracker = "latest_checkpointed_iteration.txt";
  target.tracker_content = release ? "release" : std::to_string(iteration);

  TableUse use{std::vector<bool>(source.model.tensors().size(), false), {}};
  const std::uint64_t world = p.pp * ranks_of_stage(p);
  const std::size_t before = problems.texts().size();
  for (const FileRank& rank : file_grid(p, world)) {
    problems.collect([&] {
      FileDescription file;
      Shard shard = megatron_shard(rows, p, rank, use);
      file.path = shard.path;
      file.container = FileDescription::Container::torch;
      file.tensors = std::move(shard.tensors);
      for (StoredTensor& tensor : file.tensors) {
        tensor.dtype = target_dtype(tensor, source, options.dtype);
      }
      if (args.is_object()) args["rank"] = global_rank(p, rank);
      file.value = tree_of(file.tensors, rows.table, args, release ? 0 : iteration, p.vpp);
      target.files.push_back(std::move(file));
    });
  }
  if (const std::string text = use.warning(); !text.empty()) target.warnings.push_back(text);
  if (problems.texts().size() == before) {  // a file without description leaves roles uncovered
    for (const std::string& role : uncovered_roles(source.model, use.covered)) {
      problems.add(role + ": Megatron's format has no tensor for it");
    }
  }
  const std::string folder = std::string(hf_config_folder) + "/";
  if (source.config.is_object()) {
    target.files.push_back(
        plain_file(folder + "config.json",
                   config_with_dtype(source.config, record.at("dtype")).dump(2) + "\n"));
  }
  for (FileDescription& file : companion_files(source.companions, folder)) {
    target.files.push_back(std::move(file));
  }
  if (args.is_object()) add_notes(families::command_line(table, args), release, target);
  return target;
}

}  // namespace reshard::formats
