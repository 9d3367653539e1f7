#include "formats/dialect/megatron_target.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron.hpp"

// What both of Megatron's formats need of a target: degrees, vocabulary, args, the folder's name
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
                      source.found.dialect == "megatron-dist" ||
                      std::all_of(from.chunks.begin(), from.chunks.end(),
                                  [](const LayerRange& chunk) { return chunk.count > 0; });
  const bool same_stages = options.stage_layers.empty() && p.pp == from.pp && p.vpp == from.vpp &&
                           from.chunks.size() == p.pp * p.vpp && usable;
  p.chunks = same_stages ? from.chunks : stage_table(layers, p.pp, p.vpp, options.stage_layers);
  if (source.record.at("experts") == 0 && (p.ep > 1 || p.etp != p.tp)) {
    throw Error(Kind::usage,
                (p.ep > 1 ? "--ep " + std::to_string(p.ep) : "--etp " + std::to_string(p.etp)) +
                    ": the model has no experts");
  }
  if (p.vpp > 1 && p.pp == 1) {
    throw Error(Kind::usage, "--vpp " + std::to_string(p.vpp) +
                                 ": Megatron interleaves the chunks of stages: --pp 2 or more");
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

}  // namespace

TargetRun plan_run(const Source& source, const TargetOptions& options, const char* format,
                   Problems& problems, Target& target) {
  target.parallelism = target_parallelism(source, options);
  const Parallelism& p = target.parallelism;
  const bool legacy = options.megatron_names == "legacy";
  TargetRun run;
  run.record = target_record(source, options.dtype);
  const std::uint64_t multiple = options.vocab_multiple.value_or(vocabulary_multiple(source.args));
  run.padded_vocab = padded(run.record.at("vocab").get<std::uint64_t>(), multiple, p.tp);
  run.choices = target_choices(source, options, legacy);
  problems.collect([&] {
    Json carried = source.args.is_object() ? source.args : Json::object();
    fit_null_tokenizer(run.record.at("vocab").get<std::uint64_t>(), carried);
    if (options.for_release) target.notes.push_back(reset_counters(source, carried));
    run.args = families::write_arguments(families::load_arguments("megatron"), run.record,
                                         degrees_of(p, run.padded_vocab, multiple, legacy),
                                         run.choices, carried);
    run.args["ckpt_format"] = format;  // which a run may take from here
  });
  const std::uint64_t iteration = options.iteration.value_or(iteration_of(source));
  run.release = options.for_release || iteration == 0;
  run.iteration = run.release ? 0 : iteration;
  target.unit = run.release ? "release" : iteration_folder(iteration);
  target.tracker = "latest_checkpointed_iteration.txt";
  target.tracker_content = run.release ? "release" : std::to_string(iteration);
  return run;
}

Json known_choices(const families::DialectTable& table, const Json& choices) {
  Json known = Json::object();
  for (const auto& [name, values] : table.choices) {
    if (choices.contains(name)) known[name] = choices.at(name);
  }
  return known;
}

Json common_state(const Source& source, const TargetRun& run) {
  Json state = {{"args",
                 {{"!", "object"},
                  {"class", "argparse.Namespace"},
                  {"args", Json::array()},
                  {"state", run.args}}},
                {"checkpoint_version", 3.0},
                {"iteration", run.iteration}};
  const char* const operations = "num_floating_point_operations_so_far";
  const Json count = source.training.value(operations, Json());
  if (count.is_number() && !run.release) state[operations] = count;
  return state;
}

void finish_target(const Source& source, const TargetRun& run, Target& target) {
  const std::string folder = std::string(hf_config_folder) + "/";
  if (source.config.is_object()) {
    target.files.push_back(
        plain_file(folder + "config.json",
                   config_with_dtype(source.config, run.record.at("dtype")).dump(2) + "\n"));
  }
  for (FileDescription& file : companion_files(source.companions, folder)) {
    target.files.push_back(std::move(file));
  }
  if (!run.args.is_object()) return;
  const families::ArgumentTable table = families::load_arguments("megatron");
  add_notes(families::command_line(table, run.args), run.release, target);
}

}  // namespace reshard::formats
