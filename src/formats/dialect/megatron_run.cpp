#include "core/error.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/settle.hpp"

// What args tell of the run that wrote a checkpoint, in either of Megatron's formats.

namespace reshard::formats {
namespace {

/// Reads degrees and holds them against the files that are there.
Parallelism read_degrees(const Json& degrees) {
  constexpr std::int64_t most = 65536;
  const auto degree = [&](const char* name) {
    const Json value = degrees.value(name, Json(1));
    if (!value.is_number_integer() || value.get<std::int64_t>() < 1 || value > most) {
      throw Error(Kind::input, std::string("args: ") + name + " is " + value.dump() +
                                   ", wanted 1 to " + std::to_string(most));
    }
    return value.get<std::uint64_t>();
  };
  Parallelism parallelism;
  parallelism.tp = degree("tp");
  parallelism.pp = degree("pp");
  parallelism.vpp = degree("vpp");
  parallelism.ep = degree("ep");
  parallelism.etp = degree("etp");
  parallelism.cp = degree("cp");
  parallelism.dp = degree("dp");
  return parallelism;
}

/// Rows of the true vocabulary: by the user, by the config.json that came from Hugging Face, by
/// args, which tell them for Megatron's own kind of tokenizer only.
void settle_vocabulary(const SourceOptions& options, const Json& args, std::uint64_t padded,
                       families::Record& record, Source& source) {
  const auto told = record.at("vocab").get<std::uint64_t>();  // all rows when args do not tell
  const Json size = args.value("vocab_size", Json());
  const bool all_told = size.is_number_integer() && (size == padded || size == padded - 1);
  if (options.vocab_size) {
    if (*options.vocab_size > padded) {
      throw Error(Kind::usage, "--vocab-size " + std::to_string(*options.vocab_size) +
                                   ": the files have " + std::to_string(padded) + " rows");
    }
    if (*options.vocab_size < told && (told < padded || all_told)) {
      source.warnings.push_back("--vocab-size " + std::to_string(*options.vocab_size) +
                                " leaves out " + std::to_string(told - *options.vocab_size) +
                                " rows that args call vocabulary");
    }
    record["vocab"] = *options.vocab_size;
    return;
  }
  const std::uint64_t multiple = checked_product(vocabulary_multiple(args), source.parallelism.tp);
  if (told < padded && padded - told >= multiple) {
    throw Error(Kind::input, "args.vocab_size " + size.dump() +
                                 " would be padded to a multiple of " + std::to_string(multiple) +
                                 ", but the files have " + std::to_string(padded) +
                                 " rows: --vocab-size says how many count");
  }
  const Json kept = source.config.is_object() ? source.config.value("vocab_size", Json()) : Json();
  if (kept.is_number_integer() && kept > 0 && kept <= padded) {
    if (kept != told && told < padded) {
      throw Error(Kind::input, "config.json says vocab_size " + kept.dump() + ", args " +
                                   std::to_string(told) + ": --vocab-size says which is right");
    }
    record["vocab"] = kept;
  } else if (told == padded && !all_told) {
    source.warnings.push_back("nothing tells the true vocabulary: all " + std::to_string(padded) +
                              " rows are kept; --vocab-size says otherwise");
  }
}

}  // namespace

std::uint64_t vocabulary_multiple(const Json& args) {
  constexpr std::uint64_t standard = 128;
  if (!args.is_object()) return standard;
  const Json told = args.value("make_vocab_size_divisible_by", Json());
  return told.is_number_integer() && told > 0 ? told.get<std::uint64_t>() : standard;
}

SourceRun read_run(const Found& found, const Json& facts, const std::string& where,
                   const SourceOptions& options, Source& source, Problems& problems) {
  source.found = found;
  source.config = found.facts.at("config");
  source.companions = companions_from_json(found.facts.at("companions"));
  source.args = facts.at("args");
  drop_tensors(source.args, "args", source.dropped);
  SourceRun run;
  run.arguments = with_context(where, [&] {
    return families::read_arguments(families::load_arguments("megatron"), source.args, facts);
  });
  for (const std::string& unknown : run.arguments.unknown) {
    const std::string text = "args." + unknown + " is in no table of reshard";
    if (options.strict_args) {
      problems.add(text + ": refused by --strict-args");
    } else {
      source.warnings.push_back(text);
    }
  }
  run.padded_vocab = run.arguments.degrees.at("padded_vocab").get<std::uint64_t>();
  run.world = run.arguments.degrees.value("world", std::uint64_t{1});
  source.parallelism = read_degrees(run.arguments.degrees);
  return run;
}

void settle_run(const SourceOptions& options, SourceRun& run, Source& source) {
  const families::ArgumentTable table = families::load_arguments("megatron");
  settle_vocabulary(options, source.args, run.padded_vocab, run.arguments.record, source);
  settle_record(table, options, run.arguments, source);
  source.function_args = families::function_arguments(table, source.args);
  drop_runnable(source.args, "args", source.dropped);
  source.choices = run.arguments.choices;
  source.training = run.arguments.training;
}

}  // namespace reshard::formats
