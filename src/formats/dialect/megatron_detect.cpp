#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "formats/container/crc32.hpp"
#include "formats/container/torch_file.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/file.hpp"

// Which files are a checkpoint, and the header of one.

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view tracker_name = "latest_checkpointed_iteration.txt";
constexpr std::string_view model_file = "model_optim_rng.pt", optimizer_file = "distrib_optim.pt";

bool has_rank_folders(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return false;
  for (const auto& entry : fs::directory_iterator(folder)) {
    // DeepSpeed has files of such names.
    if (entry.is_directory(error) && entry.path().filename().string().starts_with("mp_rank_")) {
      return true;
    }
  }
  return false;
}

/// The tracker's text: "release" or an iteration (megatron.md section 1.2).
std::string read_tracker(const fs::path& path) {
  std::string text = read_text(path.string(), 4096);
  const auto is_space = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  std::erase_if(text, is_space);
  return text;
}

/// The unit below a root, by the tracker or the user's word.
std::optional<fs::path> unit_below(const fs::path& root, const SourceOptions& options,
                                   const HoldsUnit& holds) {
  const fs::path tracker = root / tracker_name;
  require_file(tracker.string());
  if (!fs::exists(tracker)) {
    // Naming the iteration is as explicit as naming its folder.
    if (options.iteration && holds((root / iteration_folder(*options.iteration)).string())) {
      return root / iteration_folder(*options.iteration);
    }
    for (const auto& entry : fs::directory_iterator(root)) {
      if (entry.path().filename().string().starts_with("iter_") && holds(entry.path().string())) {
        throw Error(
            Kind::incomplete,
            root.string() + ": has " + entry.path().filename().string() + " but no " +
                std::string(tracker_name) +
                ", which Megatron writes last; name the folder itself or --from-iteration to "
                "read it anyway");
      }
    }
    return std::nullopt;
  }
  const std::string text = read_tracker(tracker);
  const std::optional<std::uint64_t> latest = whole_number(text);
  if (!latest && text != "release") {
    throw Error(Kind::input, tracker.string() + ": '" + text.substr(0, 40) +
                                 "' is neither an iteration nor 'release'");
  }
  if (options.iteration && latest && *options.iteration > *latest) {
    throw Error(Kind::incomplete, tracker.string() + ": the latest finished iteration is " + text +
                                      ", wanted " + std::to_string(*options.iteration));
  }
  if (options.iteration) return root / iteration_folder(*options.iteration);
  return latest ? root / iteration_folder(*latest) : root / "release";
}

}  // namespace

void check_keys(const Json& top, const std::string& name) {
  constexpr std::size_t most = 1000;
  std::size_t others = 0;
  for (const auto& [key, value] : top.items()) {
    const bool is_tensor = value.is_object() && value.value("!", Json()) == "tensor";
    if (!is_tensor && ++others > most) {
      throw Error(Kind::input, name + ": more than " + std::to_string(most) +
                                   " keys at the top, of which none is a tensor");
    }
  }
}

std::uint32_t content_of(const File& file) {
  constexpr std::uint64_t places = 16, piece = 4096;
  const std::uint64_t size = file.size();
  std::vector<std::byte> bytes(std::min(size, piece));
  std::uint32_t crc = 0;
  for (std::uint64_t i = 0; i < places; ++i) {
    file.read_at((size - bytes.size()) / (places - 1) * i, bytes);
    crc ^= crc32_shift(crc32_of(bytes), i * piece);
  }
  return crc;
}

std::optional<std::string> megatron_unit(const SourceOptions& options, const HoldsUnit& holds) {
  const fs::path path(options.path);
  if (!fs::is_directory(path)) return std::nullopt;
  if (!holds(options.path)) {
    const std::optional<fs::path> unit = unit_below(path, options, holds);
    return unit ? std::optional(unit->string()) : std::nullopt;
  }
  if (options.iteration && path.filename() != iteration_folder(*options.iteration)) {
    throw Error(Kind::usage, "--from-iteration " + std::to_string(*options.iteration) + ": " +
                                 path.string() + " is one iteration already");
  }
  return options.path;
}

void find_kept_files(const SourceOptions& options, Found& found) {
  const fs::path kept = fs::path(found.unit) / hf_config_folder;
  const std::string config =
      options.config.empty() ? (kept / "config.json").string() : options.config;
  if (!options.config.empty() && !fs::exists(config)) {
    throw Error(Kind::input, config + ": does not exist");
  }
  found.facts["config"] = fs::exists(config) ? read_json(config) : Json();
  found.facts["companions"] =
      to_json(companions_in(options.tokenizer.empty() ? kept.string() : options.tokenizer));
}

Json run_facts(const Json& top, const std::string& name) {
  Json facts = Json::object(), keys = Json::array();
  check_keys(top, name);
  for (const auto& [key, value] : top.items()) {
    keys.push_back(key);
    const bool small = value.is_primitive() && !value.is_string();
    if (small) facts[key] = value;
  }
  facts["keys"] = std::move(keys);  // whatever the file has of that name
  if (!top.contains("args")) return facts;
  const Json& args = top.at("args");
  facts["args"] = args.contains("state") ? args.at("state") : args;
  if (!facts["args"].is_object()) throw Error(Kind::input, name + ": args is not a Namespace");
  return facts;
}

std::optional<Found> Megatron::detect(const SourceOptions& options) const {
  const std::optional<std::string> unit = megatron_unit(options, has_rank_folders);
  if (!unit) return std::nullopt;
  if (!has_rank_folders(*unit)) {
    throw Error(Kind::input,
                *unit + (fs::exists(*unit) ? ": has no folder mp_rank_*" : ": does not exist"));
  }
  Found found{std::string(name()), *unit, {}, Json::object()};
  Json others = Json::array();
  for (const auto& entry : fs::directory_iterator(*unit)) {
    const std::string folder = entry.path().filename().string();
    if (!folder.starts_with("mp_rank_")) continue;
    for (const auto& file : fs::directory_iterator(entry.path())) {
      const std::string leaf = file.path().filename().string();
      if (leaf == model_file) {
        found.files.push_back(folder + "/" + leaf);
      } else if (leaf == optimizer_file && file.is_regular_file()) {
        found.optimizer.push_back({folder + "/" + leaf, file.file_size()});
      } else {
        others.push_back(folder + "/" + leaf);
      }
    }
  }
  std::sort(found.files.begin(), found.files.end());
  std::sort(found.optimizer.begin(), found.optimizer.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  if (found.files.empty()) {
    throw Error(Kind::input, *unit + ": no mp_rank_*/" + std::string(model_file));
  }
  found.facts["others"] = std::move(others);
  find_kept_files(options, found);
  return found;
}

FileIndex Megatron::index(const Found& found, const std::string& name) const {
  const File file = File::open_read((fs::path(found.unit) / name).string());
  FileIndex index = read_torch_file(source_of(file), name);
  if (!index.facts.is_object() || !index.facts.contains("args")) {
    throw Error(Kind::input, name + ": not a Megatron checkpoint: no 'args' at the top");
  }
  Json facts = run_facts(index.facts, name);
  facts["content"] = content_of(file);
  index.facts = std::move(facts);
  std::erase_if(index.tensors, [](const TensorEntry& entry) {
    const std::string key = entry.name.substr(0, entry.name.find('.'));
    return !families::matches("model", key) && !families::matches("model{v}", key);
  });
  return index;
}

}  // namespace reshard::formats
