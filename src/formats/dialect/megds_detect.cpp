#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <set>

#include "core/error.hpp"
#include "formats/container/torch_file.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megds.hpp"
#include "formats/file.hpp"

// Which files DeepSpeed wrote (deepspeed.md section 1), and the header of one.

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;
constexpr std::array whole_models = {"model.safetensors", "model.safetensors.index.json",
                                     "pytorch_model.bin", "pytorch_model.bin.index.json"};

/// The numbers that stand for "#" when the name is the pattern otherwise; Error(input) when one is
/// larger than any rank or layer.
std::optional<std::vector<std::uint64_t>> numbers_in(std::string_view name,
                                                     std::string_view pattern) {
  const std::string whole(name);
  std::vector<std::uint64_t> numbers;
  bool fits = true;
  while (!pattern.empty()) {
    if (pattern.front() != '#') {
      if (name.empty() || name.front() != pattern.front()) return std::nullopt;
      name.remove_prefix(1);
    } else {
      const std::size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
      if (digits == 0) return std::nullopt;
      const auto number = rank_number(name.substr(0, digits));
      fits = fits && number;
      numbers.push_back(number.value_or(0));
      name.remove_prefix(digits);
    }
    pattern.remove_prefix(1);
  }
  if (!name.empty()) return std::nullopt;
  if (!fits) throw Error(Kind::input, whole + ": a number that no rank and no layer has");
  return numbers;
}

bool has_files(const fs::path& folder) {
  if (!fs::is_directory(folder)) return false;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file() && deepspeed_file(entry.path().filename().string())) return true;
  }
  return false;
}

/// Whether a Trainer left the whole model beside the folder of the tag: that is taken first.
bool has_whole_model(const fs::path& root) {
  return std::any_of(whole_models.begin(), whole_models.end(),
                     [&](const char* name) { return fs::exists(root / name); });
}

/// Two files that say they are the same rank's part.
void check_names(const std::string& unit, const std::vector<std::string>& files) {
  std::map<std::array<std::uint64_t, 5>, std::string> seen;
  for (const std::string& name : files) {
    const DeepSpeedFile f = *deepspeed_file(name);
    const auto [at, is_new] = seen.emplace(
        std::array{static_cast<std::uint64_t>(f.kind), f.layer, f.tp, f.mp, f.dp}, name);
    if (!is_new) {
      throw Error(Kind::input, unit + ": " + name + " and " + at->second +
                                   " are the same rank's file under two names");
    }
  }
}

/// Numbers of the pipeline's layers that a stage's optimizer knows: names begin with them.
Json layers_of_stage(const Json& shapes) {
  std::set<std::uint64_t> layers;
  if (!shapes.is_array()) return layers;
  for (const Json& group : shapes) {
    if (!group.is_object()) continue;
    for (const auto& [name, shape] : group.items()) {
      const auto layer = whole_number(std::string_view(name).substr(0, name.find('.')));
      if (layer) layers.insert(*layer);
    }
  }
  return layers;
}

/// The folder in a zip archive, which torch.save names after the file; "" for a legacy stream.
std::string archive_root(const ByteSource& source) {
  constexpr std::uint64_t header = 30, length_at = 26;
  const std::string begin = read_bytes(source, 0, std::min(source.size, header), "begin");
  if (begin.size() < header || !begin.starts_with("PK")) return "";
  const auto byte = [&](std::uint64_t at) {
    return static_cast<std::uint64_t>(static_cast<unsigned char>(begin[at]));
  };
  const std::uint64_t length = byte(length_at) + 256 * byte(length_at + 1);
  const std::string name =
      read_bytes(source, header, std::min(length, source.size - header), "begin");
  return name.substr(0, name.find('/'));
}

/// What a conversion needs of the top of an mp_rank file.
Json model_facts(const Json& top) {
  Json facts = Json::object(), keys = Json::array();
  for (const auto& [key, value] : top.items()) {
    keys.push_back(key);
    const bool kept = (value.is_primitive() && !value.is_string()) || key == "checkpoint_info" ||
                      key == "universal_checkpoint_info" || key == "lr_scheduler" ||
                      key == "checkpoint_parallel_dimensions" || key == qkv_key;
    if (kept) facts[key] = value;
  }
  facts["keys"] = std::move(keys);
  facts["stage_layers"] = layers_of_stage(top.value("param_shapes", Json()));
  facts["module"] = !top.value("module", Json()).is_null();
  const Json args = top.value("args", Json());
  facts["args"] = args.is_object() && args.contains("state") ? args.at("state") : args;
  return facts;
}

}  // namespace

std::optional<DeepSpeedFile> deepspeed_file(std::string_view name) {
  using Of = DeepSpeedFile::Kind;
  for (const char* pattern : {"layer_#-model_#-model_states.pt", "layer_#-model_#_model_states.pt",
                              "layer_#-model_states.pt"}) {
    if (const auto n = numbers_in(name, pattern)) {
      return DeepSpeedFile{Of::layer, (*n)[0], n->size() > 1 ? (*n)[1] : 0, 0, 0};
    }
  }
  if (const auto n = numbers_in(name, "mp_rank_#_model_states.pt")) {
    return DeepSpeedFile{Of::model, 0, 0, (*n)[0], 0};
  }
  for (const std::string prefix : {"", "bf16_", "fp16_"}) {
    for (const char* rest :
         {"zero_pp_rank_#_mp_rank_#_optim_states.pt", "zero_pp_rank_#_mp_rank_#optim_states.pt"}) {
      if (const auto n = numbers_in(name, prefix + rest)) {
        return DeepSpeedFile{Of::optimizer, 0, 0, (*n)[1], (*n)[0]};
      }
    }
  }
  if (const auto n = numbers_in(name, "zero_pp_rank_#_mp_rank_#_model_states.pt")) {
    return DeepSpeedFile{Of::partition, 0, 0, (*n)[1], (*n)[0]};
  }
  if (numbers_in(name, "layer_#_expert_#_mp_rank_#_model_states.pt") ||
      numbers_in(name, "expert_#_mp_rank_#_model_states.pt")) {
    return DeepSpeedFile{Of::expert, 0, 0, 0, 0};
  }
  return std::nullopt;
}

std::optional<std::string> deepspeed_unit(const SourceOptions& options) {
  const fs::path root(options.path);
  if (has_files(root)) return root.string();
  if (options.from.empty() && has_whole_model(root)) return std::nullopt;
  const fs::path latest = root / "latest";
  if (!fs::is_directory(root) || (!options.iteration && !fs::is_regular_file(latest))) {
    return std::nullopt;
  }
  std::string tag;
  if (options.iteration) {
    tag = "global_step" + std::to_string(*options.iteration);
    if (!has_files(root / tag)) return std::nullopt;
    return (root / tag).string();
  }
  tag = read_text(latest.string(), 4096);
  std::erase_if(tag, [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; });
  const bool plain = !tag.empty() &&
                     tag.find_first_of(std::string_view("/\0", 2)) == std::string::npos &&
                     tag != "..";
  if (plain && has_files(root / tag)) return (root / tag).string();
  if (!tag.starts_with("global_step")) return std::nullopt;  // a file of another program
  throw Error(fs::exists(root / tag) ? Kind::input : Kind::incomplete,
              latest.string() + ": names " + tag + ", which holds no file of DeepSpeed");
}

Found deepspeed_found(std::string dialect, const std::string& unit, const SourceOptions& options) {
  Found found{std::move(dialect), unit, {}, Json::object()};
  if (fs::is_directory(fs::path(unit) / "zero")) {
    throw Error(Kind::input, unit + ": a universal checkpoint, whose weights lie in its folder " +
                                 "zero: not read; the tag that it was made from is");
  }
  std::vector<std::string> all;
  for (const auto& entry : fs::directory_iterator(unit)) {
    const std::string name = entry.path().filename().string();
    const auto file = entry.is_regular_file() ? deepspeed_file(name) : std::nullopt;
    if (!file) continue;
    all.push_back(name);
    if (file->kind == DeepSpeedFile::Kind::partition) {
      throw Error(Kind::input,
                  unit + ": " + name +
                      ": ZeRO 3 keeps the weights in the partitions of the optimizer alone, model "
                      "files hold empty tensors: not read; DeepSpeed's zero_to_fp32.py makes a "
                      "folder that is");
    }
    if (file->kind == DeepSpeedFile::Kind::expert) {
      throw Error(Kind::input, unit + ": " + name + ": experts of DeepSpeed are not read");
    }
    if (file->kind == DeepSpeedFile::Kind::optimizer) {
      found.optimizer.push_back({name, entry.file_size()});
    } else {
      found.files.push_back(name);
    }
  }
  check_names(unit, all);
  const auto numbers = [](const std::string& name) {
    const DeepSpeedFile f = *deepspeed_file(name);
    return std::array{static_cast<std::uint64_t>(f.kind), f.layer, f.mp, f.tp, f.dp};
  };
  std::sort(found.files.begin(), found.files.end(),
            [&](const auto& a, const auto& b) { return numbers(a) < numbers(b); });
  std::sort(found.optimizer.begin(), found.optimizer.end(),
            [&](const auto& a, const auto& b) { return numbers(a.path) < numbers(b.path); });
  std::string config = options.config;
  std::vector<fs::path> folders = {fs::path(unit) / hf_config_folder};
  if (found.dialect == "deepspeed") {  // a Trainer writes config.json above the tag
    folders.insert(folders.end(), {fs::path(unit), fs::path(unit).parent_path()});
  }
  for (const fs::path& folder : folders) {
    if (config.empty() && fs::exists(folder / "config.json")) {
      config = (folder / "config.json").string();
    }
  }
  found.facts["config"] = config.empty() ? Json() : read_json(config);
  const std::string beside = config.empty() ? "" : fs::path(config).parent_path().string();
  found.facts["companions"] =
      to_json(companions_in(options.tokenizer.empty() ? beside : options.tokenizer));
  return found;
}

FileIndex deepspeed_index(const Found& found, const std::string& name) {
  const File file = File::open_read((fs::path(found.unit) / name).string());
  FileIndex index = read_torch_file(source_of(file), name);
  if (!index.facts.is_object()) {
    throw Error(Kind::input, name + ": holds no dict: a placeholder of another storage engine?");
  }
  if (deepspeed_file(name)->kind == DeepSpeedFile::Kind::layer) {
    index.facts = {{"root", archive_root(source_of(file))}};
    return index;
  }
  check_keys(index.facts, name);
  index.facts = model_facts(index.facts);
  index.facts["root"] = archive_root(source_of(file));
  constexpr std::string_view module = "module.";
  std::erase_if(index.tensors, [&](const TensorEntry& e) { return !e.name.starts_with(module); });
  for (TensorEntry& entry : index.tensors) entry.name.erase(0, module.size());
  return index;
}

std::optional<Found> MegatronDeepSpeed::detect(const SourceOptions& options) const {
  const std::optional<std::string> unit = deepspeed_unit(options);
  if (!unit || (options.from.empty() && DeepSpeed().detect(options))) return std::nullopt;
  return deepspeed_found(std::string(name()), *unit, options);
}

std::optional<std::uint64_t> MegatronDeepSpeed::module_of(const std::string& file,
                                                          const std::string& /*tensor*/) const {
  const std::optional<DeepSpeedFile> known = deepspeed_file(file);
  const bool is_layer = known && known->kind == DeepSpeedFile::Kind::layer;
  return is_layer ? std::optional(known->layer) : std::nullopt;
}

FileIndex MegatronDeepSpeed::index(const Found& found, const std::string& file) const {
  return deepspeed_index(found, file);
}

}  // namespace reshard::formats
