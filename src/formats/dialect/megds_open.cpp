#include <algorithm>
#include <map>
#include <set>

#include "core/error.hpp"
#include "families/arguments.hpp"
#include "families/pattern.hpp"
#include "formats/dialect/megds.hpp"
#include "formats/dialect/megds_files.hpp"
#include "formats/dialect/settle.hpp"

// A Megatron-DeepSpeed source from the headers of all files.

namespace reshard::formats {
namespace {

/// Args with what lies beside them under "@", as the table of arguments speaks of both.
Json args_and_beside(const FileIndex& index) {
  Json args = index.facts.at("args");
  for (const char* name : {"checkpoint_info", "universal_checkpoint_info"}) {
    if (!index.facts.contains(name)) continue;
    const Json& info = index.facts.at(name);
    const Json rows = info.is_object() ? info.value("original_vocab_size", Json()) : Json();
    if (!rows.is_number_integer() || rows < 1) {
      throw Error(Kind::input, index.path + ": " + name + " has original_vocab_size " +
                                   rows.dump() + ", wanted a number of rows");
    }
    args["@" + std::string(name)] = info;
  }
  return args;
}

/// Rows of the true vocabulary: by the user, by the config.json that came from Hugging Face, by
/// what lies beside args.
void settle_vocabulary(const SourceOptions& options, std::uint64_t padded, bool is_told,
                       families::Record& record, Source& source) {
  const auto told = record.at("vocab").get<std::uint64_t>();
  if (told > padded || options.vocab_size.value_or(0) > padded) {
    throw Error(told > padded ? Kind::input : Kind::usage,
                "a vocabulary of " +
                    std::to_string(std::max(told, options.vocab_size.value_or(0))) +
                    ": the files have " + std::to_string(padded) + " rows");
  }
  const Json kept = source.config.is_object() ? source.config.value("vocab_size", Json()) : Json();
  if (options.vocab_size) {
    record["vocab"] = *options.vocab_size;
    if (is_told && *options.vocab_size < told) {
      source.warnings.push_back("--vocab-size " + std::to_string(*options.vocab_size) +
                                " leaves out rows of the " + std::to_string(told) +
                                " that the files call vocabulary");
    }
  } else if (is_told && kept.is_number_integer() && kept != told) {
    throw Error(Kind::input, "config.json says vocab_size " + kept.dump() + ", the files " +
                                 std::to_string(told) + ": --vocab-size says which is right");
  } else if (!is_told && kept.is_number_integer() && kept > 0 && kept <= padded) {
    record["vocab"] = kept;
  } else if (!is_told) {
    source.warnings.push_back("nothing tells the true vocabulary: all " + std::to_string(padded) +
                              " rows are kept; --vocab-size says otherwise");
  }
}

std::uint64_t degree(const Json& degrees, const char* name, std::uint64_t most = 65536) {
  const Json value = degrees.at(name);
  if (!value.is_number_integer() || value < 1 || value > most) {
    throw Error(Kind::input, std::string("args: ") + name + " is " + value.dump() +
                                 ", wanted 1 to " + std::to_string(most));
  }
  return value.get<std::uint64_t>();
}

/// Degrees by the names of the files, which args must confirm.
void settle_degrees(const MegdsFiles& files, const Json& degrees, Source& source,
                    Problems& problems) {
  Parallelism& p = source.parallelism;
  p.tp = files.tp;
  p.pp = files.pp;
  p.etp = files.tp;
  for (const char* name : {"vpp", "ep"}) {
    if (degree(degrees, name) == 1) continue;
    problems.add(std::string("args: ") + name + " " + degrees.at(name).dump() +
                 ": only 1 is supported in Megatron-DeepSpeed");
  }
  const auto check = [&](const char* name, std::uint64_t found) {
    if (degree(degrees, name) == found) return;
    problems.add(std::string("args: ") + name + " is " + degrees.at(name).dump() +
                 ", but the names of the files say " + std::to_string(found));
  };
  check("tp", p.tp);
  check("pp", p.pp);
  const Json& facts = files.models.front()->facts;
  const std::uint64_t copies =
      settle_optimizer(source.found, files.models.size(), facts, source, problems);
  p.cp = degree(degrees, "sp");  // Ulysses: parts of the sequence count as data ranks
  p.dp = copies / std::max<std::uint64_t>(p.cp, 1);
  if (p.dp * p.cp != copies) {
    problems.add(std::to_string(copies) + " data-parallel ranks are not divided by " +
                 std::to_string(p.cp) + " ranks of a sequence");
  }
}

/// The QKV layout and all else that the dialect's table asks for.
Json choices_of(const MegdsFiles& files, const SourceOptions& options,
                const families::MegatronArguments& arguments, Source& source) {
  Json choices = arguments.choices;
  const Json version = files.models.front()->facts.value("checkpoint_version", Json(0));
  if (!version.is_number() || version < 0 || version > 3) {
    throw Error(Kind::input, files.models.front()->path + ": checkpoint_version is " +
                                 version.dump() + ", wanted 0 to 3");
  }
  choices["checkpoint_version"] = static_cast<int>(version.get<double>());
  const bool late = choices.at("numbering") == "plain";
  const bool equal = source.record.at("groups") == source.record.at("heads");
  choices["qkv"] = files.split_qkv ? "split" : "grouped";
  const Json key = files.models.front()->facts.value(std::string(qkv_key), Json());
  const std::string told = key.is_string() ? key.get<std::string>() : options.mds_qkv_layout;
  if (!options.mds_qkv_layout.empty() && told != options.mds_qkv_layout) {
    throw Error(Kind::usage, "--mds-qkv-layout " + options.mds_qkv_layout +
                                 ": the files say that they are " + told);
  }
  if (told == "blocked") {
    if (!late || !equal || files.split_qkv) {
      throw Error(Kind::usage,
                  "QKV layout blocked: only the later lineage stores three blocks, and "
                  "only where every head has a key of its own");
    }
    choices["qkv"] = "blocked";
  } else if (told.empty() && late && equal && !files.split_qkv) {
    source.notes.push_back(
        "rows of query_key_value taken as grouped by head, which no file tells; of code since "
        "2024-12-04 they lie in three blocks: --mds-qkv-layout blocked");
  }
  return choices;
}

/// Which stage holds which layer: as ZeRO's lists of shapes say, else as DeepSpeed would cut.
void settle_stages(const MegdsFiles& files, std::uint64_t layers, Source& source) {
  Parallelism& p = source.parallelism;
  std::vector<std::uint64_t> counts(p.pp, 0);
  std::uint64_t sum = 0;
  for (std::uint64_t stage = 0; stage < p.pp && files.pipeline; ++stage) {
    for (const Json& number : files.models[stage * p.tp]->facts.at("stage_layers")) {
      const auto at = files.kinds.find(number.get<std::uint64_t>());
      if (at == files.kinds.end() || at->second.kind != LayerKind::layer) continue;
      ++counts[stage];
      ++sum;
    }
  }
  p.chunks = sum == layers ? chunks_of_counts(counts) : deepspeed_stages(layers, p.pp);
  if (sum != layers && p.pp > 1) {
    source.notes.push_back(
        "nothing tells how the layers lie on the stages: taken as DeepSpeed cuts them");
  }
}

/// The tp rank and the stage of every file.
void settle_ranks(const MegdsFiles& files, Source& source) {
  const Parallelism& p = source.parallelism;
  for (std::uint64_t i = 0; i < files.models.size(); ++i) {
    source.ranks[files.models[i]->path] = {i % p.tp, i / p.tp, 0, i % p.tp};
  }
  for (const FileIndex* index : files.layers) {
    const DeepSpeedFile name = *deepspeed_file(index->path);
    const LayerFile& part = files.kinds.at(name.layer);
    std::uint64_t stage = part.kind == LayerKind::embedding ? 0 : p.pp - 1;
    for (std::uint64_t s = 0; s < p.pp && part.kind == LayerKind::layer; ++s) {
      const LayerRange& layers = p.chunks[s];
      if (part.layer - layers.first < layers.count) stage = s;
    }
    source.ranks[index->path] = {name.tp, stage, 0, name.tp};
  }
}

/// Every tensor of every file against the description of its part of the model.
void match_files(const MegdsFiles& files, const MegdsRows& rows, Source& source,
                 Problems& problems) {
  TableUse use{std::vector<bool>(source.model.tensors().size(), false), {}};
  const auto ignored = [&](std::string_view seen) {
    return std::any_of(rows.table.ignored.begin(), rows.table.ignored.end(),
                       [&](const std::string& p) { return families::matches(p, seen); });
  };
  const auto match = [&](const FileIndex& index, const std::vector<LayerFile>& parts,
                         std::uint64_t rank) {
    problems.collect([&] {
      Shard shard{index.path, {}};
      for (const LayerFile& part : parts) {
        add_megds_tensors(rows, part, rank, files.tp, !files.pipeline, use, shard.tensors);
      }
      match_shard(
          shard, index, [](const std::string& seen) { return seen; }, ignored, source, problems);
    });
  };
  for (const FileIndex* index : files.layers) {
    const DeepSpeedFile file = *deepspeed_file(index->path);
    match(*index, {files.kinds.at(file.layer)}, file.tp);
  }
  if (!files.pipeline) {
    std::vector<LayerFile> parts = {{LayerKind::embedding, 0}};
    const auto layers = source.record.at("layers").get<std::uint64_t>();
    for (std::uint64_t l = 0; l < layers; ++l) {
      parts.push_back({LayerKind::layer, l});
    }
    parts.insert(parts.end(), {{LayerKind::final_norm, 0}, {LayerKind::head, 0}});
    for (std::size_t t = 0; t < files.models.size(); ++t) match(*files.models[t], parts, t);
  }
  problems.raise();
  if (const std::string text = use.warning(); !text.empty()) source.warnings.push_back(text);
  for (const std::string& role : uncovered_roles(source.model, use.covered)) {
    problems.add(role + ": no file of this checkpoint holds it");
  }
}

void announce_dropped(const MegdsFiles& files, Source& source) {
  const Json& keys = files.models.front()->facts.at("keys");
  std::string random;
  for (const Json& key : keys) {
    const auto name = key.get<std::string>();
    if (name.find("rng") != std::string::npos) random += (random.empty() ? "" : ", ") + name;
  }
  if (!random.empty()) source.dropped.push_back(random + " in mp_rank files");
  note_masters(source);
}

}  // namespace

Source MegatronDeepSpeed::open(const Found& found, const std::vector<FileIndex>& indices,
                               const SourceOptions& options, Problems& problems) const {
  const families::ArgumentTable table = families::load_arguments("megatron_deepspeed");
  MegdsFiles files = megds_files(indices, problems);
  const FileIndex& first = *files.models.front();
  const Json args = args_and_beside(first);
  Source source;
  source.found = found;
  source.config = found.facts.at("config");
  source.companions = companions_from_json(found.facts.at("companions"));
  source.args = first.facts.at("args");
  drop_tensors(source.args, "args", source.dropped);
  Json beside = {{"lr_scheduler", first.facts.value("lr_scheduler", Json())}};
  drop_tensors(beside, first.path, source.dropped);
  drop_runnable(beside, first.path, source.dropped);
  source.found.facts["lr_scheduler"] = beside.value("lr_scheduler", Json());
  check_models(table, files, source, problems);
  families::MegatronArguments arguments =
      with_context(first.path, [&] { return families::read_arguments(table, args, first.facts); });
  for (const std::string& unknown : arguments.unknown) {
    const std::string text = "args." + unknown + " is in no table of reshard";
    options.strict_args ? problems.add(text + ": refused by --strict-args")
                        : source.warnings.push_back(text);
  }
  constexpr std::uint64_t most_rows = std::uint64_t{1} << 32;
  const std::uint64_t padded = degree(arguments.degrees, "padded_vocab", most_rows);
  const bool is_told =
      args.contains("@checkpoint_info") || args.contains("@universal_checkpoint_info");
  settle_vocabulary(options, padded, is_told, arguments.record, source);
  settle_record(table, options, arguments, source);
  source.function_args = families::function_arguments(table, source.args);
  drop_runnable(source.args, "args", source.dropped);
  source.training = arguments.training;
  source.choices = choices_of(files, options, arguments, source);
  settle_degrees(files, arguments.degrees, source, problems);
  with_context(first.path, [&] {
    source.model = canonical_model(source.family, source.record);
    add_padding(source.model, source.record.at("vocab").get<std::uint64_t>(), padded);
  });
  const auto layers = source.record.at("layers").get<std::uint64_t>();
  check_layers(files, layers, source.model.find("head.weight") != CanonicalModel::none, problems);
  problems.raise();  // what follows would repeat it tensor by tensor

  settle_stages(files, layers, source);
  settle_ranks(files, source);
  match_files(files, MegdsRows(source.record, source.choices, files.tp, padded, source.model),
              source, problems);
  source.choices.erase("checkpoint_version");  // of the files read, not of the model
  settle_dtypes(source, problems);
  announce_dropped(files, source);
  return source;
}

}  // namespace reshard::formats
