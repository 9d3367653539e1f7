#include "app/shared_options.hpp"

#include <charconv>

#include "core/error.hpp"
#include "formats/container/safetensors.hpp"
#include "formats/dialect/dialect.hpp"

namespace reshard::app {
namespace {

std::vector<std::string> dialect_names() {
  std::vector<std::string> names;
  for (const formats::Dialect* dialect : formats::dialects()) names.emplace_back(dialect->name());
  return names;
}

std::optional<Dtype> dtype_of_word(const std::string& word) {
  if (word == "keep") return std::nullopt;
  if (word == "bf16") return Dtype::bf16;
  if (word == "fp16") return Dtype::f16;
  if (word == "fp32") return Dtype::f32;
  throw Error(Kind::usage, "--dtype " + word + ": wanted keep, bf16, fp16 or fp32");
}

std::vector<std::uint64_t> numbers_of(const std::string& text, const char* option) {
  std::vector<std::uint64_t> numbers;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at != end) {
    std::uint64_t number = 0;
    const auto [next, error] = std::from_chars(at, end, number);
    if (error != std::errc() || (next != end && *next != ',')) {
      throw Error(Kind::usage, std::string(option) + " " + text + ": wanted numbers like 4,6,6");
    }
    numbers.push_back(number);
    at = next == end ? end : next + 1;
  }
  return numbers;
}

/// Options that only some targets can follow; the others would leave them without effect.
void check_effect(const OptionWords& words, const formats::TargetOptions& o) {
  const bool huggingface = o.to.starts_with("hf");
  const std::pair<const char*, bool> layout[] = {
      {"--tp", o.tp.has_value()},
      {"--pp", o.pp.has_value()},
      {"--vpp", o.vpp.has_value()},
      {"--ep", o.ep.has_value()},
      {"--etp", o.etp.has_value()},
      {"--stage-layers", !words.stage_layers.empty()},
      {"--vocab-multiple", o.vocab_multiple.has_value()},
      {"--vocab-fill", !words.vocab_fill.empty()},
      {"--transformer-impl", !o.transformer_impl.empty()},
      {"--megatron-names", !o.megatron_names.empty()},
      {"--iteration", o.iteration.has_value()},
      {"--for-release", o.for_release}};
  for (const auto& [name, given] : layout) {
    if (huggingface && given) {
      throw Error(Kind::usage, std::string(name) + ": --to " + o.to +
                                   " writes a folder without layout, padding or iterations");
    }
  }
  if (!huggingface && !words.max_shard_size.empty()) {
    throw Error(Kind::usage, "--max-shard-size: --to " + o.to + " writes one file for each rank");
  }
}

std::uint64_t size_of(const char* option, const std::string& text) {
  return with_context(option, [&] { return formats::parse_size(text); });
}

constexpr std::uint64_t most_degree = 65536;
constexpr std::uint64_t most_count = std::uint64_t{1} << 40;

void add_megds_options(CLI::App& command, formats::TargetOptions& options) {
  if (CLI::Option* const qkv = command.get_option_no_throw("--mds-qkv-layout")) {
    qkv->each([&options](const std::string& word) { options.mds_qkv_layout = word; });
  }
  command
      .add_option("--lineage", options.lineage,
                  "of Megatron-DeepSpeed: bigscience, deepspeed (default: the source's, else the "
                  "one that holds the model)")
      ->check(CLI::IsMember({"bigscience", "deepspeed"}))
      ->group("Target");
  command
      .add_flag("--no-pipeline-files", options.no_pipeline_files,
                "Megatron-DeepSpeed without pipeline: the model in mp_rank files")
      ->group("Target");
}

/// Options that only one target can follow.
void check_megds_options(const formats::TargetOptions& o) {
  if (o.to == "megatron-deepspeed" || (o.lineage.empty() && !o.no_pipeline_files)) return;
  throw Error(Kind::usage, std::string(o.lineage.empty() ? "--no-pipeline-files" : "--lineage") +
                               ": only --to megatron-deepspeed has it");
}

}  // namespace

CLI::Validator whole(std::uint64_t least, std::uint64_t most) {
  return {
      [least, most](std::string& word) -> std::string {
        std::uint64_t number = 0;
        const char* end = word.data() + word.size();
        const auto [at, error] = std::from_chars(word.data(), end, number);
        const bool fits = error == std::errc() && at == end && number >= least && number <= most;
        return fits ? ""
                    : word + ": wanted " + std::to_string(least) + " to " + std::to_string(most);
      },
      ""};
}

void add_source_options(CLI::App& command, formats::SourceOptions& options) {
  command.add_option("SRC", options.path, "checkpoint to read: its folder, or one iteration of it")
      ->required();
  command.add_option("--from", options.from, "format of SRC (default: found out)")
      ->check(CLI::IsMember(dialect_names()))
      ->group("Source");
  command
      .add_option("--from-iteration", options.iteration, "iteration to read (default: the latest)")
      ->check(whole(0, most_count))
      ->group("Source");
  command
      .add_option("--family", options.family,
                  "architecture: a name, or a table FILE.json (default: found out)")
      ->group("Source");
  command.add_option("--config", options.config, "config.json to use for the source")
      ->group("Source");
  command
      .add_option("--ignore-config", options.ignore_config,
                  "keys of config.json to be left unread: KEY,...")
      ->delimiter(',')
      ->group("Source");
  command
      .add_flag("--strict-args", options.strict_args,
                "arguments that reshard does not know are an error")
      ->group("Source");
  command
      .add_option("--vocab-size", options.vocab_size,
                  "true vocabulary, where the source does not tell it")
      ->check(whole(1, most_count))
      ->group("Source");
  command
      .add_option("--tokenizer", options.tokenizer,
                  "folder whose tokenizer files travel instead of the source's")
      ->group("Source");
  command
      .add_option("--mds-qkv-layout", options.mds_qkv_layout,
                  "rows of query_key_value in Megatron-DeepSpeed: grouped (default), blocked; of "
                  "SRC, or of the target when SRC is of another format")
      ->check(CLI::IsMember({"grouped", "blocked"}))
      ->group("Source");
}

void add_target_options(CLI::App& command, formats::TargetOptions& options, OptionWords& words) {
  command.add_option("--to", options.to, "format to write")
      ->required()
      ->check(CLI::IsMember(dialect_names()))
      ->group("Target");
  const auto add_degree = [&](const char* name, std::optional<std::uint64_t>& degree,
                              const char* help) {
    command.add_option(name, degree, help)->check(whole(1, most_degree))->group("Target");
  };
  add_degree("--tp", options.tp, "tensor parallel degree (default: 1, whatever the source's)");
  add_degree("--pp", options.pp, "pipeline stages (default: those of --stage-layers, else 1)");
  add_degree("--vpp", options.vpp, "virtual chunks of a pipeline stage (default: 1)");
  add_degree("--ep", options.ep, "expert parallel degree (default: 1)");
  add_degree("--etp", options.etp, "expert tensor parallel degree (default: --tp)");
  command
      .add_option("--stage-layers", words.stage_layers,
                  "layers of each stage: 4,6,6 (default: the source's at its --pp, else equal)")
      ->group("Target");
  command.add_option("--dtype", words.dtype, "keep, bf16, fp16 or fp32 (default: keep)")
      ->group("Target");
  command
      .add_option(
          "--vocab-multiple", options.vocab_multiple,
          "vocabulary is padded to a multiple of this times tp (default: the source's, 128)")
      ->check(whole(1, most_count))
      ->group("Target");
  command
      .add_option(
          "--vocab-fill", words.vocab_fill,
          "padding rows that only the target has: zero or a copy of the last (default: zero)")
      ->check(CLI::IsMember({"zero", "last"}))
      ->group("Target");
  command
      .add_option("--max-shard-size", words.max_shard_size,
                  "largest Hugging Face file (default: 5GB)")
      ->group("Target");
  command
      .add_option("--transformer-impl", options.transformer_impl,
                  "spelling of Megatron's norms (default: the source's)")
      ->check(CLI::IsMember({"transformer_engine", "local"}))
      ->group("Target");
  command.add_option("--megatron-names", options.megatron_names, "mcore (default) or legacy")
      ->check(CLI::IsMember({"mcore", "legacy"}))
      ->group("Target");
  command
      .add_option("--iteration", options.iteration, "iteration to write (default: the source's)")
      ->check(whole(0, most_count))
      ->group("Target");
  command
      .add_flag("--for-release", options.for_release, "write a release: iteration counters reset")
      ->group("Target");
  command.add_option("--optimizer", words.optimizer, "drop; keep is not there yet")
      ->group("Target");
  add_megds_options(command, options);
}

void settle(const OptionWords& words, formats::TargetOptions& options) {
  options.dtype = dtype_of_word(words.dtype);
  options.vocab_fill =
      words.vocab_fill == "last" ? formats::VocabFill::last : formats::VocabFill::zero;
  if (!words.max_shard_size.empty()) {
    options.max_shard_bytes = size_of("--max-shard-size", words.max_shard_size);
  }
  options.stage_layers = numbers_of(words.stage_layers, "--stage-layers");
  if (words.optimizer != "drop") {
    throw Error(Kind::usage, "--optimizer " + words.optimizer +
                                 ": this version converts model weights only; wanted drop");
  }
  check_effect(words, options);
  check_megds_options(options);
}

std::uint64_t memory_of(const OptionWords& words) {
  return words.memory.empty() ? 0 : size_of("--memory", words.memory);
}

}  // namespace reshard::app
