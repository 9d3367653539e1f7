#include "formats/dialect/foreign.hpp"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "formats/dialect/dialect.hpp"
#include "formats/dialect/megds.hpp"

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::status(path, ignored).type() != fs::file_type::not_found;
}

bool is_regular(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

/// The first of the names that fits a pattern.
std::optional<std::string> first_like(const std::set<std::string>& names, const char* pattern) {
  const auto at = std::find_if(names.begin(), names.end(), [&](const std::string& name) {
    return families::matches(pattern, name);
  });
  return at == names.end() ? std::nullopt : std::optional(*at);
}

/// What the path is; "" once this build has a dialect of that name, whose own error says more.
std::string not_read(const fs::path& path, const std::string& what, std::string_view dialect) {
  const auto& all = dialects();
  const bool known = std::any_of(all.begin(), all.end(),
                                 [&](const Dialect* one) { return one->name() == dialect; });
  return known ? "" : path.string() + " is " + what + ", which this build does not read yet";
}

/// Snapshots of a Hub cache, models--OWNER--NAME/snapshots/HASH.
std::string snapshots_of(const fs::path& folder) {
  std::string paths;
  for (const std::string& name : names_in(folder / "snapshots")) {
    paths += (paths.empty() ? "" : " or ") + (folder / "snapshots" / name).string();
  }
  return folder.string() +
         " is a Hub cache: " + (paths.empty() ? "it has no snapshot" : "pass " + paths);
}

/// `refused`: a format was found, and says itself what is wrong.
std::string hint_of_folder(const fs::path& folder, bool refused) {
  const std::set<std::string> names = names_in(folder);
  const auto has = [&](const char* pattern) { return first_like(names, pattern).has_value(); };
  if (has("snapshots") && (has("blobs") || has("refs"))) return snapshots_of(folder);
  if (has("model_optim_rng.pt")) {
    return folder.string() + " is the folder of one rank: pass the folder above, " +
           folder.parent_path().string();
  }
  if (is_regular(folder / "weights" / ".metadata")) {
    return folder.string() + " keeps its weights one level down: pass " +
           (folder / "weights").string();
  }
  if (has("zero") && has("mp_rank_*_model_states.pt")) {
    return not_read(folder, "a universal checkpoint of DeepSpeed", "universal");
  }
  if (has("*zero_pp_rank_*_states.pt") && !has("mp_rank_*_model_states.pt")) {
    return folder.string() + " has files of a DeepSpeed (ZeRO) optimizer, but none of the model";
  }
  for (const char* pattern : {"*.safetensors", "*.bin", "*.h5", "*.pt", "config.json"}) {
    const std::optional<std::string> name = first_like(names, pattern);
    if (name && fs::is_symlink(folder / *name) && !is_there(folder / *name)) {
      return (folder / *name).string() + " is a link that leads nowhere";
    }
  }
  if (has("model-*.safetensors") || has("pytorch_model-*.bin")) {
    const std::string index =
        std::string(has("model-*.safetensors") ? "model.safetensors" : "pytorch_model.bin") +
        ".index.json";
    if (names.count(index) == 0) {
      return folder.string() + " has weights in numbered files, but no index " + index +
             " that names them";
    }
    if (!refused) return (folder / index).string() + " names none of the weights";
  }
  if (has("tf_model*.h5")) {
    return folder.string() + " has TensorFlow's weights (tf_model.h5), which are not read";
  }
  return "";
}

/// Whether DeepSpeed's file with the name of the latest folder is there, but not that folder.
bool names_no_folder(const fs::path& root) {
  try {
    std::string tag = read_text((root / "latest").string(), 4096);
    std::erase_if(tag, [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; });
    std::error_code ignored;
    return tag.find_first_of(std::string_view("/\0", 2)) != std::string::npos ||
           !fs::is_directory(root / tag, ignored);
  } catch (const Error&) {  // a hint is not worth an error
    return false;
  }
}

}  // namespace

bool is_unit_name(std::string_view name) {
  return name.starts_with("iter_") || name.starts_with("global_step") || name == "release" ||
         name == "best_model";
}

std::string foreign_hint(const std::string& path, bool refused) {
  fs::path root(path);
  if (!root.has_filename()) root = root.parent_path();
  if (!fs::is_directory(root)) {
    if (deepspeed_file(root.filename().string())) {
      return root.string() + " is one file of a DeepSpeed checkpoint: pass its folder, " +
             root.parent_path().string();
    }
    return root.filename() == "model_optim_rng.pt" ? hint_of_folder(root.parent_path(), refused)
                                                   : "";
  }
  std::string hint = hint_of_folder(root, refused);
  // What a training run writes: one folder for each step, beside a tracker.
  const bool is_tracked = fs::exists(root / "latest_checkpointed_iteration.txt");
  for (const std::string& name : names_in(root)) {
    if (!hint.empty()) break;
    std::error_code ignored;
    if (!is_unit_name(name) || !fs::is_directory(root / name, ignored)) continue;
    hint = hint_of_folder(root / name, refused);
    if (hint.empty() && !is_tracked && fs::exists(root / name / ".metadata")) {
      hint =
          (root / name).string() + " is a torch_dist checkpoint, which no tracker names: pass it";
    }
  }
  const std::optional<std::string> step = first_like(names_in(root), "global_step*");
  if (hint.empty() && !refused && step && !is_there(root / "latest")) {
    hint = "no file " + (root / "latest").string() + " names a folder: pass " +
           (root / *step).string();
  }
  if (hint.empty() && step && names_no_folder(root)) {
    hint = (root / "latest").string() + " names none of the folders global_step* beside it";
  }
  return hint;
}

}  // namespace reshard::formats
