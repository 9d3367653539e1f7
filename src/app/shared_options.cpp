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

void add_merak_options(CLI::App& command, formats::TargetOptions& options, OptionWords& words) {
  command
      .add_option("--merak-era", options.merak_era,
                  "1 (v1.1.0), 1-flat (v1.1.1) or 2 (v2; default: the source's, 2)")
      ->check(CLI::IsMember({"1", "1-flat", "2"}))
      ->group("Merak");
  command
      .add_option("--vocab-parallel", options.vocab_parallel,
                  "cut tied embeddings over tp (default: the source's, yes in era 1)")
      ->check(CLI::IsMember({"yes", "no"}))
      ->group("Merak");
  command
      .add_option("--partition-method", options.partition_method,
                  "uniform (default in era 1), uniform_floor (in era 2) or custom")
      ->check(CLI::IsMember({"uniform", "uniform_floor", "custom"}))
      ->group("Merak");
  command
      .add_option("--custom-partition", words.custom_partition,
                  "first module of each stage, and their number: 0,3,7,11,15")
      ->group("Merak");
  command
      .add_option("--merak-buffers", options.merak_buffers,
                  "GPT-2's masks in era 1: masks, traced or none (default: the source's, masks)")
      ->check(CLI::IsMember({"masks", "traced", "none"}))
      ->group("Merak");
  command
      .add_option(
          "--merak-tied-keys", options.merak_tied_keys,
          "tied_modules keys, for runs without --no_tie_modules (default: the source's, no)")
      ->check(CLI::IsMember({"yes", "no"}))
      ->group("Merak");
}

}  // namespace

void add_source_options(CLI::App& command, formats::SourceOptions& options) {
  command.add_option("SRC", options.path, "checkpoint to read: its folder, or one iteration of it")
      ->required();
  command.add_option("--from", options.from, "format of SRC (default: found out)")
      ->check(CLI::IsMember(dialect_names()))
      ->group("Source");
  command
      .add_option("--from-iteration", options.iteration, "iteration to read (default: the latest)")
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
      ->group("Source");
  command
      .add_option("--tokenizer", options.tokenizer,
                  "folder whose tokenizer files travel instead of the source's")
      ->group("Source");
}

void add_target_options(CLI::App& command, formats::TargetOptions& options, OptionWords& words) {
  command.add_option("--to", options.to, "format to write")
      ->required()
      ->check(CLI::IsMember(dialect_names()))
      ->group("Target");
  command.add_option("--tp", options.tp, "tensor parallel degree")->group("Target");
  command.add_option("--pp", options.pp, "pipeline stages")->group("Target");
  command.add_option("--vpp", options.vpp, "virtual chunks of a pipeline stage")->group("Target");
  command.add_option("--ep", options.ep, "expert parallel degree")->group("Target");
  command.add_option("--etp", options.etp, "expert tensor parallel degree (default: --tp)")
      ->group("Target");
  command.add_option("--stage-layers", words.stage_layers, "layers of each stage: 4,6,6")
      ->group("Target");
  command.add_option("--dtype", words.dtype, "keep, bf16, fp16 or fp32")->group("Target");
  command
      .add_option(
          "--vocab-multiple", options.vocab_multiple,
          "vocabulary is padded to a multiple of this times tp (default: the source's, 128)")
      ->group("Target");
  command
      .add_option("--vocab-fill", words.vocab_fill,
                  "padding rows that only the target has (default: zero; merak: last)")
      ->check(CLI::IsMember({"zero", "last"}))
      ->group("Target");
  command.add_option("--max-shard-size", words.max_shard_size, "largest Hugging Face file: 5GB")
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
      ->group("Target");
  command
      .add_flag("--for-release", options.for_release, "write a release: iteration counters reset")
      ->group("Target");
  add_merak_options(command, options, words);
  command.add_option("--optimizer", words.optimizer, "drop; keep is not there yet")
      ->group("Target");
}

void settle(const OptionWords& words, formats::TargetOptions& options) {
  options.dtype = dtype_of_word(words.dtype);
  if (!words.vocab_fill.empty()) {
    options.vocab_fill =
        words.vocab_fill == "last" ? formats::VocabFill::last : formats::VocabFill::zero;
  }
  options.custom_partition = numbers_of(words.custom_partition, "--custom-partition");
  options.max_shard_bytes = formats::parse_size(words.max_shard_size);
  options.stage_layers = numbers_of(words.stage_layers, "--stage-layers");
  if (words.optimizer != "drop") {
    throw Error(Kind::usage, "--optimizer " + words.optimizer +
                                 ": this version converts model weights only; wanted drop");
  }
  const std::pair<const char*, std::optional<std::uint64_t>> degrees[] = {{"--tp", options.tp},
                                                                          {"--pp", options.pp},
                                                                          {"--vpp", options.vpp},
                                                                          {"--ep", options.ep},
                                                                          {"--etp", options.etp}};
  for (const auto& [name, degree] : degrees) {
    if (degree && (*degree == 0 || *degree > 65536)) {
      throw Error(Kind::usage,
                  std::string(name) + " " + std::to_string(*degree) + ": wanted 1 to 65536");
    }
  }
}

}  // namespace reshard::app
