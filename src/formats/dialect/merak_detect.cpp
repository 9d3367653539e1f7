#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "core/error.hpp"
#include "formats/container/torch_file.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/merak.hpp"
#include "formats/file.hpp"

// Which files are a checkpoint, and the header of one (merak.md sections 1, 3.5, 15).

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view tracker_name = "latest_checkpointed_iteration.txt";
constexpr std::string_view whole_file = "model_optim.pt", stage_file = "partial_model_optim.pt";

/// "mp_rank_01_pp_rank_003" -> tp 1, stage 3; has_stage tells the two forms apart.
struct RankFolder {
  std::uint64_t tp = 0, pp = 0;
  bool has_stage = false;
};

std::optional<RankFolder> rank_folder(std::string_view name) {
  constexpr std::string_view tp_mark = "mp_rank_", pp_mark = "_pp_rank_";
  if (!name.starts_with(tp_mark)) return std::nullopt;
  name.remove_prefix(tp_mark.size());
  const std::size_t at = name.find(pp_mark);
  RankFolder folder;
  folder.has_stage = at != std::string_view::npos;
  const auto tp = rank_number(name.substr(0, at));
  const auto pp = folder.has_stage ? rank_number(name.substr(at + pp_mark.size()))
                                   : std::optional<std::uint64_t>(0);
  if (!tp || !pp) return std::nullopt;
  folder.tp = *tp;
  folder.pp = *pp;
  return folder;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  if (!fs::is_directory(folder)) return names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Model files below a folder that may be a unit, by rank.
std::vector<std::string> model_files(const fs::path& unit) {
  std::vector<std::string> files;
  if (fs::is_regular_file(unit / whole_file)) files.emplace_back(whole_file);
  for (const std::string& name : names_in(unit)) {
    if (!rank_folder(name)) continue;
    for (const std::string_view leaf : {stage_file, whole_file}) {
      if (fs::is_regular_file(unit / name / leaf)) files.push_back(name + "/" + std::string(leaf));
    }
  }
  return files;
}

std::string tracker_text(const fs::path& root) {
  std::string text = read_text((root / tracker_name).string(), 4096);
  std::erase_if(text, [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; });
  return text;
}

/// The first of the unit's possible names that holds model files.
std::optional<fs::path> unit_of(const fs::path& root, const std::string& tracker) {
  const std::optional<std::uint64_t> iteration = whole_number(tracker);
  const std::string name = iteration ? iteration_folder(*iteration) : tracker;
  for (const std::string& each : {name, iteration_folder(iteration.value_or(0)) + "_all_dp"}) {
    if (!model_files(root / each).empty()) return root / each;
  }
  return std::nullopt;
}

/// The folder with a tracker below an output folder, which has one for every day of the run.
fs::path root_below(const fs::path& path, const SourceOptions& options) {
  require_file((path / tracker_name).string());
  if (fs::exists(path / tracker_name)) return path;
  std::optional<fs::path> best;
  std::uint64_t latest = 0;
  for (const std::string& name : names_in(path)) {
    const fs::path root = path / name;
    if (!name.ends_with("_ckpt") || !fs::is_regular_file(root / tracker_name)) continue;
    const std::uint64_t iteration = whole_number(tracker_text(root)).value_or(0);
    const bool wanted = options.iteration
                            ? unit_of(root, std::to_string(*options.iteration)).has_value()
                            : !best || iteration >= latest;
    if (!wanted) continue;
    latest = iteration;
    best = root;
  }
  return best.value_or(path);
}

/// The unit below a root, by the user's word or the tracker; nothing when its files are no Merak's.
std::optional<fs::path> unit_below(const fs::path& path, const SourceOptions& options) {
  const fs::path root = root_below(path, options);
  const bool tracked = fs::exists(root / tracker_name);
  const std::string text = tracked ? tracker_text(root) : "";
  if (options.iteration) {
    const std::optional<fs::path> unit = unit_of(root, std::to_string(*options.iteration));
    const std::optional<std::uint64_t> latest = whole_number(text);
    if (unit && latest && *latest < *options.iteration) {
      throw Error(Kind::incomplete, (root / tracker_name).string() +
                                        ": the latest finished iteration is " + text + ", wanted " +
                                        std::to_string(*options.iteration));
    }
    return unit;
  }
  if (tracked) {
    return whole_number(text) || text == "release" ? unit_of(root, text) : std::nullopt;
  }
  const bool best = fs::exists(root / "best_model_loss.txt");
  std::vector<fs::path> units;
  for (const std::string& name : names_in(root)) {
    const bool fits = name.starts_with("iter_") || name == "best_model";
    if (fits && !model_files(root / name).empty()) units.push_back(root / name);
  }
  if (best && units.size() == 1) return units.front();
  if (units.empty()) return std::nullopt;
  throw Error(Kind::incomplete, root.string() + ": has " + units.front().filename().string() +
                                    " but no " + std::string(tracker_name) +
                                    ", which Merak writes last; name the folder itself or "
                                    "--from-iteration to read it anyway");
}

/// The single file of a path that is one.
std::optional<std::string> single_file(const fs::path& path, const SourceOptions& options) {
  const std::string leaf = path.filename().string();
  if (leaf == stage_file) {
    throw Error(Kind::input, path.string() +
                                 ": one rank's part of a checkpoint; wanted the folder "
                                 "with all of its mp_rank_* folders, " +
                                 path.parent_path().parent_path().string());
  }
  if (leaf == whole_file || options.from == "merak") return leaf;
  return std::nullopt;
}

/// Everything in a unit that is no model file: ZeRO's files, all else by its name below the unit.
void add_other_files(const fs::path& unit, Found& found) {
  Json& others = found.facts["others"];
  for (const std::string& name : names_in(unit)) {
    if (name == hf_config_folder || name == run_file) continue;
    const std::vector<std::string> inner =
        fs::is_directory(unit / name) ? names_in(unit / name) : std::vector<std::string>{""};
    for (const std::string& leaf : inner) {
      std::string path = name;
      if (!leaf.empty()) path += "/" + leaf;
      if (std::find(found.files.begin(), found.files.end(), path) != found.files.end()) continue;
      if (leaf.empty() && name.starts_with("zero_dp_rank_") && name.ends_with("_opt_states.pt") &&
          fs::is_regular_file(unit / path)) {
        found.optimizer.push_back({path, fs::file_size(unit / path)});
      } else {
        others.push_back(path);
      }
    }
  }
}

/// Degrees and each file's rank, from the names: {"tp", "pp", "ranks": {file: [tp, pp]}}.
Json grid_of(const fs::path& unit, const std::vector<std::string>& files) {
  Json ranks = Json::object();
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::string> file_of;
  std::set<std::string> forms;
  std::uint64_t tp = 1, pp = 1;
  for (const std::string& file : files) {
    const std::size_t slash = file.find('/');
    RankFolder rank;
    if (slash != std::string::npos) rank = *rank_folder(file.substr(0, slash));
    forms.insert(slash == std::string::npos ? std::string(whole_file)
                 : rank.has_stage           ? "mp_rank_RR_pp_rank_SSS"
                                            : "mp_rank_RR");
    const auto [at, is_new] = file_of.emplace(std::pair(rank.tp, rank.pp), file);
    if (!is_new) {
      throw Error(Kind::input, unit.string() + ": " + file + " and " + at->second +
                                   " are both of tp rank " + std::to_string(rank.tp) + ", stage " +
                                   std::to_string(rank.pp));
    }
    ranks[file] = {rank.tp, rank.pp};
    tp = std::max(tp, rank.tp + 1);
    pp = std::max(pp, rank.pp + 1);
  }
  if (forms.size() > 1) {
    std::string text;
    for (const std::string& form : forms) text += (text.empty() ? "" : " and ") + form;
    throw Error(Kind::input, unit.string() + ": holds files of several checkpoints: " + text);
  }
  return {{"tp", tp}, {"pp", pp}, {"ranks", ranks}};
}

}  // namespace

std::optional<Found> Merak::detect(const SourceOptions& options) const {
  const fs::path path(options.path);
  std::optional<fs::path> unit = path;
  std::vector<std::string> files;
  if (!fs::is_directory(path)) {
    const std::optional<std::string> file = single_file(path, options);
    if (!file) return std::nullopt;
    unit = path.parent_path();
    files = {*file};
  } else {
    files = model_files(path);
    if (files.empty()) {
      unit = unit_below(path, options);
      if (unit) files = model_files(*unit);
    } else if (options.iteration && path.filename() != iteration_folder(*options.iteration)) {
      throw Error(Kind::usage, "--from-iteration " + std::to_string(*options.iteration) + ": " +
                                   path.string() + " is one iteration already");
    }
  }
  if (!unit || files.empty()) return std::nullopt;
  Found found{std::string(name()), unit->string(), files, grid_of(*unit, files)};
  const fs::path kept = *unit / hf_config_folder;
  const std::string config =
      options.config.empty() ? (kept / "config.json").string() : options.config;
  found.facts["config"] = fs::exists(config) ? read_json(config) : Json();
  const fs::path run = *unit / run_file;
  found.facts["run"] = fs::exists(run) ? read_json(run.string()) : Json::object();
  found.facts["others"] = Json::array();
  if (fs::is_directory(path)) add_other_files(*unit, found);
  found.facts["companions"] =
      to_json(companions_in(options.tokenizer.empty() ? kept.string() : options.tokenizer));
  return found;
}

FileIndex Merak::index(const Found& found, const std::string& name) const {
  const File file = File::open_read((fs::path(found.unit) / name).string());
  FileIndex index = read_torch_file(source_of(file), name);
  if (!index.facts.is_object()) throw Error(Kind::input, name + ": not a dict of tensors");
  Json facts = Json::object(), keys = Json::array();
  check_keys(index.facts, name);
  const bool flat = !index.facts.contains("model");
  for (const auto& [key, value] : index.facts.items()) {
    const bool is_tensor = value.is_object() && value.value("!", Json()) == "tensor";
    if (is_tensor && flat) continue;
    keys.push_back(key);
    if (value.is_number()) facts[key] = value;
  }
  facts["flat"] = flat;
  const Json args = index.facts.value("args", Json());
  facts["args"] = args.is_object() && args.contains("state") ? args.at("state") : args;
  facts["content"] = content_of(file);
  std::erase_if(index.tensors, [&](const TensorEntry& entry) {
    const std::string key = entry.name.substr(0, entry.name.find('.'));
    // Below the other keys lie the states of optimizer and random generators.
    return flat ? std::find(keys.begin(), keys.end(), key) != keys.end() : key != "model";
  });
  if (!flat) {
    for (TensorEntry& entry : index.tensors) entry.name.erase(0, entry.name.find('.') + 1);
  }
  facts["keys"] = std::move(keys);
  index.facts = std::move(facts);
  return index;
}

}  // namespace reshard::formats
