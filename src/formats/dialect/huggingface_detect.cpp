#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/checked_json.hpp"
#include "core/error.hpp"
#include "formats/container/torch_file.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/zero_bias.hpp"
#include "formats/file.hpp"

// Which files are a checkpoint, and the header of one.

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t largest_config = std::uint64_t{16} << 20,
                        largest_index = std::uint64_t{64} << 20;

std::string_view single_name(WeightFiles files) {
  return files == WeightFiles::safetensors ? "model.safetensors" : "pytorch_model.bin";
}

/// "model-00001-of-00002.safetensors and 3 more"
std::string first_of(const std::vector<std::string>& names) {
  return names.front() +
         (names.size() > 1 ? " and " + std::to_string(names.size() - 1) + " more" : "");
}

/// What detection finds in a folder.
struct Weights {
  std::vector<std::string> files;     ///< in Transformers' order of preference; may be empty
  Json map = Json::object();          ///< {file: [tensor, ...], ...} of the index that names them
  std::vector<std::string> warnings;  ///< what lies beside them and is not read
};

/// Says which files look like weights but are not read.
void tell_ignored(const fs::path& folder, WeightFiles kind, Weights& weights) {
  const std::string index = index_file_name(kind);
  std::vector<std::string> ignored;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool alike = kind == WeightFiles::safetensors
                           ? name.ends_with(".safetensors")
                           : name.starts_with("pytorch_model") && name.ends_with(".bin");
    const auto& read = weights.files;
    const bool stale_index = name == index && weights.map.empty();
    if (stale_index || (alike && std::find(read.begin(), read.end(), name) == read.end())) {
      ignored.push_back(name);
    }
  }
  if (ignored.empty()) return;
  std::sort(ignored.begin(), ignored.end());
  weights.warnings.push_back(folder.string() + ": ignored " + first_of(ignored) + ": " +
                             (weights.map.empty() ? weights.files.front() + " is the model"
                                                  : "in no weight_map of " + index));
}

Weights weights_in(const fs::path& folder, WeightFiles kind) {
  Weights weights;
  const fs::path index = folder / index_file_name(kind);
  if (const std::string single(single_name(kind)); fs::exists(folder / single)) {
    weights.files = {single};
  } else if (fs::exists(index)) {
    for (auto& [file, tensors] : read_weight_map(read_text(index, largest_index), index)) {
      if (!fs::exists(folder / file)) {
        throw Error(Kind::input, index.string() + ": its weight_map names " + file +
                                     ", which is missing in " + folder.string());
      }
      weights.map.get_ref<Json::object_t&>().emplace_back(file, std::move(tensors));
      weights.files.push_back(file);
    }
  }
  if (!weights.files.empty()) tell_ignored(folder, kind, weights);
  return weights;
}

}  // namespace

Json read_json(const std::string& path) {
  const std::string text = read_text(path, largest_config);
  return with_context(path, [&] {
    Json json = json_of_text(text, {32, largest_config});
    if (!json.is_object()) throw Error(Kind::input, "not a JSON object");
    return json;
  });
}

void check_weight_map(const Json& map, const std::string& index_name,
                      const std::vector<FileIndex>& indices, Source& source, Problems& problems) {
  if (map.empty()) return;
  std::map<std::string, std::set<std::string>> files_of;
  for (const FileIndex& index : indices) {
    for (const TensorEntry& entry : index.tensors) files_of[entry.name].insert(index.path);
  }
  std::vector<std::string> nowhere, left_out;
  std::set<std::string_view> listed;
  for (const auto& [file, tensors] : map.items()) {
    for (const Json& each : tensors) {
      const auto& tensor = each.get_ref<const std::string&>();
      listed.insert(tensor);
      const auto at = files_of.find(tensor);
      if (at == files_of.end()) {
        nowhere.push_back(tensor + " in " + file);
      } else if (at->second.count(file) == 0) {
        problems.add(index_name + ": weight_map: " + tensor + " is in " + *at->second.begin() +
                     ", wanted in " + file);
      }
    }
  }
  for (const auto& [tensor, files] : files_of) {
    if (listed.count(tensor) == 0) left_out.push_back(tensor + " in " + *files.begin());
  }
  const std::string begin = index_name + ": its weight_map ";
  if (!nowhere.empty()) {
    source.warnings.push_back(begin + "names what no file has, ignored: " + first_of(nowhere));
  }
  if (!left_out.empty()) {
    source.warnings.push_back(begin +
                              "leaves out what was read all the same: " + first_of(left_out));
  }
}

std::optional<Found> HuggingFace::detect(const SourceOptions& options) const {
  const fs::path path(options.path);
  const bool whole = fs::is_directory(path);
  const fs::path folder = whole ? path : path.parent_path();
  Weights weights =
      whole ? weights_in(folder, files_) : Weights{{path.filename().string()}, {}, {}};
  const std::string_view ending = files_ == WeightFiles::safetensors ? ".safetensors" : ".bin";
  const bool fits = !weights.files.empty() && weights.files.front().ends_with(ending);
  if (!fits) return std::nullopt;
  const std::string config =
      options.config.empty() ? (folder / "config.json").string() : options.config;
  if (!fs::exists(config)) {
    throw Error(Kind::input,
                folder.string() + ": has weights but no config.json: give one with --config");
  }
  const std::string companions = options.tokenizer.empty() ? folder.string() : options.tokenizer;
  const Json told = read_json(config);
  return Found{std::string(name()),
               folder.string(),
               std::move(weights.files),
               {{"config", told},
                {"output_bias", patterns_of_output_bias(told, options)},
                {"companions", to_json(companions_in(companions))},
                {"weight_map", std::move(weights.map)},
                {"warnings", weights.warnings}}};
}

FileIndex HuggingFace::index(const Found& found, const std::string& name) const {
  const File file = File::open_read((fs::path(found.unit) / name).string());
  FileIndex index = files_ == WeightFiles::safetensors ? read_safetensors(source_of(file), name)
                                                       : read_torch_file(source_of(file), name);
  note_zero_biases(found, index);
  return index;
}

}  // namespace reshard::formats
