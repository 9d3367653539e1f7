#include "formats/dialect/hdf5.hpp"

#include <algorithm>
#include <filesystem>

#include "core/strides.hpp"
#include "formats/canonical_reader.hpp"
#include "formats/container/hdf5_file.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/rows.hpp"
#include "formats/dialect/zero_bias.hpp"
#include "formats/file.hpp"

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;

constexpr const char* file_name = "model.h5";
constexpr const char* config_name = "config.json";
constexpr std::uint64_t most_config = std::uint64_t{1} << 24;

/// The HDF5 file of a folder; "" if there is none.
std::string hdf5_in(const fs::path& folder) {
  if (is_hdf5((folder / file_name).string())) return file_name;
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool tensorflow = name.starts_with("tf_model");
    const bool named = name.ends_with(".h5") || name.ends_with(".hdf5");
    if (named && !tensorflow && is_hdf5(entry.path().string())) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  if (names.size() > 1) {
    throw Error(Kind::input, folder.string() + ": has " + std::to_string(names.size()) +
                                 " HDF5 files and none of them is " + file_name +
                                 ": pass one, as " + (folder / names.front()).string());
  }
  return names.empty() ? "" : names.front();
}

/// The config.json within a file, null if there is none.
Json inner_config(const FileIndex& index, const std::string& path) {
  const auto metadata = index.facts.find("metadata");
  if (metadata == index.facts.end() || !metadata->contains(config_name)) return nullptr;
  const Json& place = metadata->at(config_name);
  const auto bytes = place[1].get<std::uint64_t>();
  return with_context(path + ": " + config_name, [&]() -> Json {
    if (bytes > most_config) throw Error(Kind::input, std::to_string(bytes) + " bytes");
    std::string text(bytes, '\0');
    File::open_read(path).read_at(place[0].get<std::uint64_t>(),
                                  std::as_writable_bytes(std::span(text)));
    try {
      return Json::parse(text);
    } catch (const Json::exception& error) {
      throw Error(Kind::input, error.what());
    }
  });
}

/// JSON that an attribute of the root holds; an empty object if there is no such attribute.
Json object_in(const Json& attributes, const char* name) {
  const auto at = attributes.find(name);
  if (at == attributes.end()) return Json::object();
  return with_context(std::string("attribute ") + name, [&] {
    const Json json =
        at->is_string() ? Json::parse(at->get<std::string>(), nullptr, false) : Json();
    if (!json.is_object()) throw Error(Kind::input, "not a JSON object: " + at->dump());
    return json;
  });
}

/// What the file says of the model beyond its config.json: flags that a family has one key for
/// (families::CompleteRecord).
void settle_hyperparameters(const Json& told, Source& source) {
  for (const auto& [name, value] : told.items()) {
    const auto at = source.record.find(name);
    if (at == source.record.end() || *at == value || name == "dtype") continue;
    if (!at->is_boolean() || !value.is_boolean()) {
      throw Error(Kind::input, "hyperparameter " + name + " is " + value.dump() + " in " +
                                   source.found.files.front() + ", config.json says " + at->dump());
    }
    *at = value;
  }
}

StoredTensor canonical_tensor(const CanonicalModel& model, std::uint32_t index) {
  const CanonicalTensor& tensor = model[index];
  StoredTensor stored;
  stored.name = tensor.role;
  stored.shape = tensor.shape;
  stored.parts = {index};
  stored.placements = {{index, whole(tensor), 0, strides_of(tensor)}};
  return stored;
}

std::vector<StoredTensor> canonical_tensors(const CanonicalModel& model) {
  std::vector<StoredTensor> tensors;
  for (std::uint32_t t = 0; t < model.tensors().size(); ++t) {
    tensors.push_back(canonical_tensor(model, t));
  }
  return tensors;
}

/// A source whose datasets are the canonical tensors.
Source open_canonical(const Found& found, const FileIndex& index, const SourceOptions& options,
                      Problems& problems) {
  Source source = source_of_config(found, options);
  settle_hyperparameters(object_in(index.facts.at("attributes"), "hyperparameters"), source);
  source.model = canonical_model(source.family, source.record);
  const auto vocab = source.record.at("vocab").get<std::uint64_t>();
  const auto padding = std::find_if(
      index.tensors.begin(), index.tensors.end(),
      [](const TensorEntry& entry) { return entry.name == padding_role("embedding.weight"); });
  if (padding != index.tensors.end() && !padding->shape.empty()) {
    add_padding(source.model, vocab, checked_sum(vocab, padding->shape.front()));
  }
  const auto as_it_is = [](const std::string& name) { return name; };
  match_shard(
      {index.path, canonical_tensors(source.model)}, index, as_it_is,
      [](std::string_view) { return false; }, source, problems);
  settle_dtypes(source, problems);
  return source;
}

/// How the user wishes datasets to be packed; Error(usage) for what cannot be.
Hdf5Packing packing_of(const TargetOptions& options) {
  Hdf5Packing packing;
  if (options.hdf5_filter.empty() || options.hdf5_filter == "none") {
    if (options.hdf5_chunk_bytes) {
      throw Error(Kind::usage, "--hdf5-chunk-size: datasets without --hdf5-filter are contiguous");
    }
    return packing;
  }
  check_hdf5_filter(options.hdf5_filter);
  packing.filter = options.hdf5_filter;
  packing.chunk_bytes = options.hdf5_chunk_bytes.value_or(packing.chunk_bytes);
  if (packing.chunk_bytes < 16 || packing.chunk_bytes > Hdf5Packing::most_chunk_bytes) {
    throw Error(Kind::usage, "--hdf5-chunk-size " + std::to_string(packing.chunk_bytes) +
                                 ": wanted 16 to " + std::to_string(Hdf5Packing::most_chunk_bytes) +
                                 " bytes");
  }
  return packing;
}

/// The files within the file, and those beside it that have other names.
std::vector<Companion> inner_companions(const Found& found, const FileIndex& index,
                                        const std::vector<Companion>& beside) {
  std::vector<Companion> companions;
  const Json metadata = index.facts.value("metadata", Json::object());
  for (const auto& [name, place] : metadata.items()) {
    if (name == config_name) continue;
    companions.push_back({name, (fs::path(found.unit) / index.path).string(),
                          place[1].get<std::uint64_t>(), place[0].get<std::uint64_t>()});
  }
  for (const Companion& companion : beside) {
    if (!metadata.contains(companion.name)) companions.push_back(companion);
  }
  std::sort(companions.begin(), companions.end(),
            [](const Companion& a, const Companion& b) { return a.name < b.name; });
  return companions;
}

}  // namespace

std::optional<Found> Hdf5::detect(const SourceOptions& options) const {
  const fs::path path(options.path);
  const bool whole = fs::is_directory(path);
  const fs::path folder = whole ? path : path.parent_path();
  const std::string file = whole                    ? hdf5_in(folder)
                           : is_hdf5(path.string()) ? path.filename().string()
                                                    : "";
  if (file.empty()) return std::nullopt;
  const fs::path beside = folder / config_name;
  Json config;
  if (!options.config.empty()) {
    config = read_json(options.config);
  } else if (fs::exists(beside)) {
    config = read_json(beside.string());
  } else {
    const std::string whole_path = (folder / file).string();
    config = inner_config(read_hdf5(whole_path, file), whole_path);
    if (!config.is_object()) {
      throw Error(Kind::input, whole_path + ": has no " + config_name +
                                   " in it or beside it: give one with --config");
    }
  }
  const std::string companions = options.tokenizer.empty() ? folder.string() : options.tokenizer;
  const Json biases = patterns_of_output_bias(config, options);
  return Found{std::string(name()),
               folder.string(),
               {file},
               {{"config", std::move(config)},
                {"output_bias", biases},
                {"companions", to_json(companions_in(companions))},
                {"weight_map", Json::array()},
                {"warnings", Json::array()}}};
}

FileIndex Hdf5::index(const Found& found, const std::string& file) const {
  const std::string path = (fs::path(found.unit) / file).string();
  FileIndex index = read_hdf5(path, file);
  index.facts["config"] = inner_config(index, path);
  note_zero_biases(found, index);
  return index;
}

Source Hdf5::open(const Found& found, const std::vector<FileIndex>& indices,
                  const SourceOptions& options, Problems& problems) const {
  const FileIndex& index = indices.front();
  const Json attributes = index.facts.value("attributes", Json::object());
  const Json names = attributes.value("names", Json("hf"));
  if (names != "hf" && names != "canonical") {
    throw Error(Kind::input,
                index.path + ": attribute names is " + names.dump() + ", wanted hf or canonical");
  }
  Source source =
      names == "canonical"
          ? open_canonical(found, index, options, problems)
          : HuggingFace(WeightFiles::safetensors).open(found, indices, options, problems);
  source.training = with_context(index.path, [&] { return object_in(attributes, "training"); });
  if (options.tokenizer.empty()) {
    source.companions = inner_companions(found, index, source.companions);
  }
  const Json& inner = index.facts.at("config");
  const auto sorted = [](const Json& json) { return nlohmann::json::parse(json.dump()); };
  if (inner.is_object() && options.config.empty() && sorted(inner) != sorted(source.config)) {
    source.warnings.push_back("config.json beside " + index.path +
                              " says other things than the one in it; the one beside it is taken");
  }
  for (const Json& other : index.facts.value("others", Json::array())) {
    source.dropped.push_back(index.path + ": /" + other.get<std::string>() +
                             ", not of a kind that reshard reads");
  }
  return source;
}

Target Hdf5::describe(const Source& source, const TargetOptions& options,
                      Problems& problems) const {
  Target target;
  target.unit = ".";
  target.parallelism.chunks = {{0, source.record.at("layers").get<std::uint64_t>()}};
  const bool canonical = options.hdf5_names == "canonical";
  const families::Record record = config_record_of(source, options);
  FileDescription file;
  file.path = file_name;
  file.container = FileDescription::Container::hdf5;
  file.packing = packing_of(options);
  if (canonical) {
    file.tensors = canonical_tensors(source.model);
    for (StoredTensor& tensor : file.tensors) {
      problems.collect([&] { tensor.dtype = target_dtype(tensor, source, options.dtype); });
    }
  } else {
    file.tensors = huggingface_tensors(source, options, record, target, problems);
  }
  note_token_ids(source, target);
  Json roles = Json::array();
  for (const StoredTensor& tensor : file.tensors) {
    Json of_tensor = Json::array();
    for (const std::uint32_t part : contents_of(tensor)) {
      of_tensor.push_back(source.model[part].role);
    }
    roles.push_back(std::move(of_tensor));
  }
  Json training = source.training;
  if (options.for_release) {
    Json none = Json::object();
    target.notes.push_back(reset_counters(source, none));
    training = Json::object();
  }
  file.value = {{"attributes",
                 {{"producer", "reshard"},
                  {"names", canonical ? "canonical" : "hf"},
                  {"family", source.family.name},
                  {"model_type", source.model_type},
                  {"hyperparameters", target_record(source, options.dtype).dump()},
                  {"training", training.dump()}}},
                {"roles", std::move(roles)}};
  problems.collect([&] {
    const std::string config = config_of(source, record).dump(2) + "\n";
    file.inner = {plain_file(config_name, config)};
    for (FileDescription& inner : companion_files(source.companions, "")) {
      file.inner.push_back(std::move(inner));
    }
    target.files.push_back(std::move(file));
    target.files.push_back(plain_file(config_name, config));
  });
  return target;
}

}  // namespace reshard::formats
