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

constexpr std::uint64_t most_degree = 65536;
constexpr std::uint64_t most_count = std::uint64_t{1} << 40;
constexpr std::uint64_t most_multiple = std::uint64_t{1} << 24;

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

void add_merak_options(CLI::App& command, formats::TargetOptions& options, OptionWords& words) {
  command
      .add_option("--merak-era", options.merak_era,
                  "1 (v1.1.0), 1-flat (v1.1.1) or 2 (v2; default: the source's, 2)")
      ->check(CLI::IsMember({"1", "1-flat", "2"}))
      ->group("Merak");
  command.add_option("--merak-default-era", options.merak_default_era)->group("");  // aliases.cpp
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

void add_hdf5_options(CLI::App& command, formats::TargetOptions& options, OptionWords& words) {
  command
      .add_option("--hdf5-names", options.hdf5_names,
                  "datasets of an HDF5 file: hf, the model's tensors in Transformers (default), or "
                  "canonical, the finest that reshard knows, with vocabulary padding")
      ->check(CLI::IsMember({"hf", "canonical"}))
      ->group("Target");
  command
      .add_option(
          "--hdf5-filter", options.hdf5_filter,
          "filter of chunked datasets, where this HDF5 has it: fletcher32 (checksums), deflate, "
          "zstd; slower, without --resume (default: none, contiguous)")
      ->check(CLI::IsMember({"none", "fletcher32", "deflate", "zstd"}))
      ->group("Target");
  command
      .add_option("--hdf5-chunk-size", words.hdf5_chunk_size,
                  "of a chunk of --hdf5-filter, at most, before it is packed (default: 1MiB)")
      ->group("Target");
}

}  // namespace

std::uint64_t bytes_of(const char* option, const std::string& text) {
  return with_context(option, [&] { return formats::parse_size(text); });
}

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
      .add_option("--hf-template", options.hf_template,
                  "folder with model code and tokenizer files of your own, which travel; its "
                  "config.json names the family")
      ->group("Source");
  command
      .add_option("--mds-qkv-layout", options.mds_qkv_layout,
                  "rows of query_key_value in Megatron-DeepSpeed: grouped (default), blocked; of "
                  "SRC, or of the target when SRC is of another format")
      ->check(CLI::IsMember({"grouped", "blocked"}))
      ->group("Source");
}

void add_replicas_option(CLI::App& command, formats::SourceOptions& options) {
  command
      .add_option_function<std::string>(
          "--replicas",
          [&options](const std::string& word) { options.average_replicas = word == "average"; },
          "norms and biases of tensor parallel ranks: equal (default), or average where "
          "Megatron-DeepSpeed let them drift")
      ->check(CLI::IsMember({"equal", "average"}))
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
      ->check(whole(1, most_multiple))
      ->group("Target");
  command
      .add_option(
          "--vocab-fill", words.vocab_fill,
          "padding rows that only the target has: zero or a copy of the last (default: zero; "
          "Merak's own are copies)")
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
      .add_option("--dist-files", options.dist_files,
                  "files of each rank of the target in torch_dist (default: 1)")
      ->check(whole(1, most_degree))
      ->group("Target");
  command
      .add_option("--iteration", options.iteration, "iteration to write (default: the source's)")
      ->check(whole(0, most_count))
      ->group("Target");
  command
      .add_flag("--for-release", options.for_release, "write a release: iteration counters reset")
      ->group("Target");
  add_merak_options(command, options, words);
  command.add_option("--optimizer", words.optimizer, "drop; keep is not there yet")
      ->group("Target");
  add_megds_options(command, options);
  add_hdf5_options(command, options, words);
}

void settle(const OptionWords& words, formats::TargetOptions& options) {
  options.dtype = dtype_of_word(words.dtype);
  if (!words.max_shard_size.empty()) {
    options.max_shard_bytes = bytes_of("--max-shard-size", words.max_shard_size);
  }
  if (!words.hdf5_chunk_size.empty()) {
    options.hdf5_chunk_bytes = bytes_of("--hdf5-chunk-size", words.hdf5_chunk_size);
  }
  if (!words.vocab_fill.empty()) {
    options.vocab_fill =
        words.vocab_fill == "last" ? formats::VocabFill::last : formats::VocabFill::zero;
  }
  options.custom_partition = numbers_of(words.custom_partition, "--custom-partition");
  options.stage_layers = numbers_of(words.stage_layers, "--stage-layers");
  if (words.optimizer != "drop") {
    throw Error(Kind::usage, "--optimizer " + words.optimizer +
                                 ": this version converts model weights only; wanted drop");
  }
}

std::uint64_t memory_of(const OptionWords& words) {
  return words.memory.empty() ? 0 : bytes_of("--memory", words.memory);
}

}  // namespace reshard::app
