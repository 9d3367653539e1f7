#include <algorithm>
#include <map>

#include "core/error.hpp"
#include "families/arguments.hpp"
#include "families/pattern.hpp"
#include "families/record.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/settle.hpp"

// A source from the headers of all files.

namespace reshard::formats {
namespace {

/// The tensors of each model chunk, "model" or "model0", ..., in one file's index.
std::map<std::string, std::uint64_t> layers_of_chunks(const FileIndex& index) {
  std::map<std::string, std::uint64_t> layers;
  for (const TensorEntry& entry : index.tensors) {
    const std::size_t dot = entry.name.find('.');
    std::uint64_t& count = layers[entry.name.substr(0, dot)];
    const std::size_t at = entry.name.find(".layers.", dot);
    if (at == std::string::npos) continue;
    const std::size_t begin = at + std::string_view(".layers.").size();
    const std::string_view rest = std::string_view(entry.name).substr(begin);
    if (const auto layer = whole_number(rest.substr(0, rest.find('.')))) {
      count = std::max(count, *layer + 1);
    }
  }
  return layers;
}

/// The files by the rank that their folder's name says, checked against the degrees' grid.
std::map<std::string, FileRank> ranks_of_files(const Parallelism& parallelism, std::uint64_t world,
                                               const std::vector<FileIndex>& indices,
                                               Problems& problems) {
  std::map<std::string, FileRank> wanted, found;
  const std::uint64_t least = checked_product(parallelism.pp, ranks_of_stage(parallelism));
  for (const FileRank& rank : file_grid(parallelism, std::max(world, least))) {
    wanted.emplace(megatron_path(parallelism, rank), rank);
  }
  const std::string degrees = "tp " + std::to_string(parallelism.tp) + ", pp " +
                              std::to_string(parallelism.pp) + ", ep " +
                              std::to_string(parallelism.ep) + " in args";
  for (const FileIndex& index : indices) {
    const auto at = wanted.find(index.path);
    if (at == wanted.end()) {
      problems.add(index.path + ": no file of this name belongs to " + degrees);
      continue;
    }
    found.insert(*at);
    wanted.erase(at);
  }
  for (const auto& [path, rank] : wanted) {
    problems.add(path + ": missing, wanted by " + degrees);
  }
  return found;
}

/// Counts the layers in the files, chunk by chunk; that is right for every way to split stages
/// (megatron.md section 3.5).
void read_stages(const std::vector<FileIndex>& indices,
                 const std::map<std::string, FileRank>& ranks, std::uint64_t layers, Source& source,
                 Problems& problems) {
  Parallelism& p = source.parallelism;
  std::vector<std::uint64_t> counts(p.pp * p.vpp, 0);
  for (const FileIndex& index : indices) {
    const auto rank = ranks.find(index.path);
    if (rank == ranks.end()) continue;
    for (const auto& [chunk, count] : layers_of_chunks(index)) {
      const auto v = chunk == "model" ? 0 : whole_number(std::string_view(chunk).substr(5));
      if (!v || *v >= p.vpp || (chunk == "model") != (p.vpp == 1)) {
        problems.add(index.path + ": holds '" + chunk + "', but args say vpp " +
                     std::to_string(p.vpp));
        continue;
      }
      if (count > index.tensors.size()) {
        problems.add(index.path + ": holds layer " + std::to_string(count - 1) + ", but only " +
                     std::to_string(index.tensors.size()) + " tensors");
        continue;
      }
      std::uint64_t& known = counts[*v * p.pp + rank->second.pp];
      known = std::max(known, count);
    }
  }
  p.chunks = chunks_of_counts(counts);
  std::uint64_t sum = 0;
  for (const std::uint64_t n : counts) sum += n;
  if (sum != layers) {
    problems.add("the files of all stages hold " + std::to_string(sum) + " layers, by chunk " +
                 to_string(counts) + "; args.num_layers says " + std::to_string(layers));
  }
}

/// Names in a file in the spelling of the table: levels of older versions, a stray "module.".
std::string spelled(const families::DialectTable& table, std::string name) {
  const std::size_t dot = name.find('.');
  std::string head = name.substr(0, dot + 1), rest = name.substr(dot + 1);
  while (rest.starts_with("module.")) rest.erase(0, std::string_view("module.").size());
  for (const auto& [ours, others] : table.spellings) {
    for (const std::string& other : others) {
      const std::string dotted = "." + rest + ".", wanted = "." + other + ".";
      const std::size_t at = dotted.find(wanted);
      if (at != std::string::npos) rest.replace(at, other.size(), ours);
    }
  }
  return head + rest;
}

}  // namespace

Source Megatron::open(const Found& found, const std::vector<FileIndex>& indices,
                      const SourceOptions& options, Problems& problems) const {
  check_same_run(families::load_arguments("megatron"), found, indices, problems);
  Source source;
  const FileIndex& first = indices.front();
  SourceRun run = read_run(found, first.facts, first.path, options, source, problems);
  const std::uint64_t padded = run.padded_vocab, world = run.world;
  source.ranks = ranks_of_files(source.parallelism, world, indices, problems);
  const std::map<std::string, FileRank>& ranks = source.ranks;
  check_writers(source.parallelism, world, indices, ranks, source, problems);
  problems.raise();
  settle_run(options, run, source);
  read_stages(indices, ranks, source.record.at("layers").get<std::uint64_t>(), source, problems);
  problems.raise();  // what follows would repeat it tensor by tensor

  with_context(indices.front().path, [&] {
    source.model = canonical_model(source.family, source.record);
    add_padding(source.model, source.record.at("vocab").get<std::uint64_t>(), padded);
  });
  const bool legacy = std::any_of(
      indices.front().tensors.begin(), indices.front().tensors.end(),
      [](const TensorEntry& e) { return e.name.find(".language_model.") != std::string::npos; });
  source.choices["legacy_names"] = legacy;
  Json choices = Json::object();
  if (legacy) {
    const Json version = indices.front().facts.value("checkpoint_version", Json(0));
    if (!version.is_number() || version < 0 || version > 3) {
      throw Error(Kind::input, indices.front().path + ": checkpoint_version is " + version.dump() +
                                   ", wanted 0 to 3");
    }
    choices["checkpoint_version"] = static_cast<int>(version.get<double>());
    choices["zero_centred_norms"] = source.choices.at("zero_centred_norms");
  } else {
    for (const char* choice : {"spec", "experts_as", "zero_centred_norms", "rotary_interleaved"}) {
      choices[choice] = source.choices.at(choice);
    }
  }
  const MegatronRows rows(legacy ? "megatron_legacy" : "megatron_mcore", source.record, choices,
                          source.parallelism, padded, source.model);
  TableUse use{std::vector<bool>(source.model.tensors().size(), false), {}};
  for (const FileIndex& index : indices) {
    problems.collect([&] {
      const Shard shard = megatron_shard(rows, source.parallelism, ranks.at(index.path), use);
      match_shard(
          shard, index, [&](const std::string& seen) { return spelled(rows.table, seen); },
          [&](std::string_view seen) {
            return std::any_of(rows.table.ignored.begin(), rows.table.ignored.end(),
                               [&](const std::string& p) { return families::matches(p, seen); });
          },
          source, problems);
    });
  }
  problems.raise();  // files that could not be described would leave all their roles uncovered
  if (const std::string text = use.warning(); !text.empty()) source.warnings.push_back(text);
  for (const std::string& role : uncovered_roles(source.model, use.covered)) {
    problems.add(role + ": Megatron's format has no tensor for it");
  }
  settle_dtypes(source, problems);
  for (std::string& buffer : dropped_buffers(
           rows.table.ignored, indices, [&](const std::string&pattern, const std::string&seen) {
             return families::matches(pattern, spelled(rows.table, seen));
           })) {
    source.dropped.push_back(std::move(buffer));
  }
  for (const Json& key : indices.front().facts.at("keys")) {
    const auto name = key.get<std::string>();
    for (const char* other :
         {"optimizer", "opt_param_scheduler", "rng_state", "rerun_state_machine"}) {
      if (name == other) source.dropped.push_back(name + " in " + "model_optim_rng.pt");
    }
  }
  if (!found.optimizer.empty()) {
    source.dropped.push_back(std::to_string(found.optimizer.size()) +
                             " files of the optimizer, as " + found.optimizer.front().path);
  }
  if (!found.facts.at("others").empty()) {
    source.dropped.push_back(std::to_string(found.facts.at("others").size()) +
                             " files beside, as " +
                             found.facts.at("others").front().get<std::string>());
  }
  return source;
}

}  // namespace reshard::formats
