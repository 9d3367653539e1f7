#include "formats/dialect/huggingface.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "families/record.hpp"
#include "formats/dialect/rows.hpp"
#include "formats/dialect/template.hpp"
#include "formats/dialect/zero_bias.hpp"

namespace reshard::formats {
namespace {

/// The described tensors of one form of a family's rows. A row whose roles the model lacks but
/// that the config asks for has no placements: it is filled with zeros.
std::vector<StoredTensor> stored_tensors(const Rows& rows, const families::Record& record,
                                         bool with_optional) {
  std::vector<StoredTensor> tensors;
  for (const families::Instance& instance : families::instances(rows.rows(), record)) {
    if (instance.row->optional && !with_optional) continue;
    const auto number = static_cast<std::size_t>(instance.row - rows.rows().data());
    tensors.push_back(rows.stored(number, instance.name, {instance.layer, instance.expert}, {}));
  }
  return tensors;
}

struct Place {
  std::size_t file;
  const TensorEntry* entry;
};
using Places = std::map<std::string, Place>;

/// All tensors of all files by name, with the prefix that files of a bare model leave out.
Places tensors_by_name(const families::Family& family, const std::vector<FileIndex>& indices,
                       const std::set<std::string>& wanted, Problems& problems) {
  bool bare = !family.base.empty();
  for (const FileIndex& index : indices) {
    for (const TensorEntry& entry : index.tensors)
      bare = bare && !entry.name.starts_with(family.base);
  }
  Places places;
  for (std::size_t f = 0; f < indices.size(); ++f) {
    for (const TensorEntry& entry : indices[f].tensors) {
      const bool prefix = bare && wanted.count(family.base + entry.name) != 0;
      const std::string name = prefix ? family.base + entry.name : entry.name;
      const auto [at, is_new] = places.emplace(name, Place{f, &entry});
      if (!is_new) {
        problems.add(entry.name + ": lies in " + indices[at->second.file].path + " and in " +
                     indices[f].path);
      }
    }
  }
  return places;
}

/// Whether a name, with or without the prefix that bare models leave out, fits one of the family's
/// patterns of names without weights.
bool is_buffer(const families::Family& family, const std::string& pattern, std::string_view name) {
  return families::matches(pattern, name) ||
         (!name.starts_with(family.base) &&
          families::matches(pattern, family.base + std::string(name)));
}

bool is_ignored(const families::Family& family, std::string_view name) {
  return std::any_of(family.ignored.begin(), family.ignored.end(),
                     [&](const std::string& pattern) { return is_buffer(family, pattern, name); });
}

/// The form of the family's rows whose names fit the files best.
std::vector<StoredTensor> fitting_form(const Source& source,
                                       const std::vector<FileIndex>& indices) {
  std::set<std::string> seen;
  for (const FileIndex& index : indices) {
    for (const TensorEntry& entry : index.tensors) seen.insert(entry.name);
  }
  std::vector<StoredTensor> best;
  std::size_t fewest = ~std::size_t{0};
  for (const std::string& form : source.family.forms()) {
    const Rows rows(source.family.rows_of(form), source.record, source.model);
    std::vector<StoredTensor> tensors = stored_tensors(rows, source.record, true);
    std::size_t missing = 0;
    for (const StoredTensor& tensor : tensors) {
      const bool there = seen.count(tensor.name) != 0 ||
                         (tensor.name.starts_with(source.family.base) &&
                          seen.count(tensor.name.substr(source.family.base.size())) != 0);
      missing += there || tensor.optional ? 0 : 1;
    }
    if (missing < fewest) {
      fewest = missing;
      best = std::move(tensors);
    }
  }
  return best;
}

/// Layers together and ascending, as a state dict has them: embedding, layers, the rest.
void sort_by_layer(std::vector<StoredTensor>& tensors, const CanonicalModel& model) {
  std::vector<std::pair<std::string, std::uint64_t>> order;
  const auto key = [&](const StoredTensor& tensor) -> std::uint64_t {
    if (tensor.placements.empty()) return 0;
    const std::string& role = model[tensor.placements.front().tensor].role;
    if (role.starts_with("layers.")) return 1 + std::stoull(role.substr(7));
    return role.starts_with("final_norm") || role.starts_with("head") ? ~std::uint64_t{0} : 0;
  };
  std::stable_sort(tensors.begin(), tensors.end(),
                   [&](const StoredTensor& a, const StoredTensor& b) { return key(a) < key(b); });
}

/// Refuses options that say nothing of a folder whose config.json says it all.
void check_options(const SourceOptions& options, const Found& found) {
  const std::string source = found.dialect == "hdf5" ? "an HDF5 file" : "a Hugging Face folder";
  const Json& config = found.facts.at("config");
  if (options.iteration) {
    throw Error(Kind::usage, "--from-iteration " + std::to_string(*options.iteration) + ": " +
                                 source + " has no iterations");
  }
  if (options.strict_args) {
    throw Error(Kind::usage, "--strict-args: " + source + " has no arguments");
  }
  const Json rows = config.value("vocab_size", Json());
  if (options.vocab_size && rows != *options.vocab_size) {
    throw Error(Kind::usage, "--vocab-size " + std::to_string(*options.vocab_size) +
                                 ": config.json tells the vocabulary, vocab_size is " +
                                 rows.dump());
  }
}

}  // namespace

Json config_of(const Source& source, const families::Record& record) {
  if (!source.config.is_object()) {
    Json config = families::write_config(source.family, record, source.model_type);
    add_told(source, config);
    return config;
  }
  std::vector<std::string> keys;
  for (const auto& [key, value] : source.config.items()) keys.push_back(key);
  families::Record told = families::read_config(source.family, source.config, keys);
  told["dtype"] = record.at("dtype");
  if (told == record) return config_with_dtype(source.config, record.at("dtype"));
  return families::write_config(source.family, record, source.model_type, source.config);
}

Json config_with_dtype(Json config, const Json& dtype) {
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (config.contains(key) && config.at(key).is_string()) config[key] = dtype;
  }
  return config;
}

families::Family family_named(const std::string& name) {
  if (!name.ends_with(".json")) {
    try {
      return families::load_family(name);
    } catch (const Error&) {
    }
    try {
      return families::family_of_model_type(name);
    } catch (const Error& error) {
      throw Error(Kind::usage, "--family " + name + ": " + error.what());
    }
  }
  return families::parse_family(read_json(name), name);
}

void settle_family(const SourceOptions& options, Source& source) {
  source.family = options.family.empty() ? families::family_of_config(source.config)
                                         : family_named(options.family);
  source.model_type = source.config.value("model_type", source.family.model_types.front().name);
}

std::string_view HuggingFace::name() const {
  return files_ == WeightFiles::safetensors ? "hf" : "hf-bin";
}

Source source_of_config(const Found& found, const SourceOptions& options) {
  check_options(options, found);
  Source source;
  source.found = found;
  source.config = found.facts.at("config");
  source.warnings = found.facts.at("warnings").get<std::vector<std::string>>();
  source.companions = companions_from_json(found.facts.at("companions"));
  settle_family(options, source);
  std::vector<std::string> left_unread;
  with_context("config.json", [&] {
    source.record =
        families::read_config(source.family, source.config, options.ignore_config, &left_unread);
  });
  for (const std::string& key : left_unread) {
    source.warnings.push_back("config.json: " + key + " left unread on request");
  }
  source.config_record = source.record;
  source.parallelism.chunks = {{0, source.record.at("layers").get<std::uint64_t>()}};
  return source;
}

Source HuggingFace::open(const Found& found, const std::vector<FileIndex>& indices,
                         const SourceOptions& options, Problems& problems) const {
  Source source = source_of_config(found, options);
  source.dropped = dropped_buffers(source.family.ignored, indices,
                                   [&](const std::string& pattern, const std::string& seen) {
                                     return is_buffer(source.family, pattern, seen);
                                   });
  check_weight_map(found.facts.at("weight_map"), index_file_name(files_), indices, source,
                   problems);
  const std::set<std::string> zeros = leave_out_zero_biases(indices, source);
  source.model =
      with_context("config.json", [&] { return canonical_model(source.family, source.record); });

  std::vector<StoredTensor> described =
      with_context("config.json", [&] { return fitting_form(source, indices); });
  std::set<std::string> wanted;
  for (const StoredTensor& tensor : described) wanted.insert(tensor.name);
  const Places places = tensors_by_name(source.family, indices, wanted, problems);
  std::vector<Shard> shards(indices.size());
  for (StoredTensor& tensor : described) {
    const auto at = places.find(tensor.name);
    shards[at == places.end() ? 0 : at->second.file].tensors.push_back(std::move(tensor));
  }
  for (std::size_t f = 0; f < indices.size(); ++f) {
    match_shard(
        shards[f], indices[f],
        [&](const std::string& seen) {
          const std::string full = source.family.base + seen;
          return wanted.count(seen) == 0 && wanted.count(full) != 0 ? full : seen;
        },
        [&](std::string_view seen) {
          return is_ignored(source.family, seen) || zeros.contains(std::string(seen));
        },
        source, problems);
  }
  settle_dtypes(source, problems);
  return source;
}

families::Record config_record_of(const Source& source, const TargetOptions& options) {
  families::Record record = source.config_record;
  if (options.dtype) record["dtype"] = torch_name(*options.dtype);
  return record;
}

std::vector<StoredTensor> huggingface_tensors(const Source& source, const TargetOptions& options,
                                              const families::Record& record, Target& target,
                                              Problems& problems) {
  const Rows rows(source.family.rows_of(source.family.forms().front()), record, source.model);
  std::vector<StoredTensor> tensors = stored_tensors(rows, record, false);
  sort_by_layer(tensors, source.model);
  for (StoredTensor& tensor : tensors) {
    problems.collect([&] { tensor.dtype = target_dtype(tensor, source, options.dtype); });
    if (tensor.parts.empty()) {
      const auto dtype = dtype_of_torch_name(record.at("dtype").get<std::string>());
      tensor.dtype = dtype.value_or(Dtype::f32);
      target.notes.push_back(tensor.name + ": not in the source, written as zeros");
    }
  }
  return tensors;
}

void note_token_ids(const Source& source, Target& target) {
  if (source.config.is_object()) return;
  const Json ids = source.found.facts.value("token_ids", Json::object());
  const Json& rows = source.record.at("vocab");
  for (const auto& [name, id] : ids.items()) {
    const std::string where = "config.json: " + name;
    if (id.is_null()) {
      target.notes.push_back(where +
                             ": the tokenizer's files have that token, but no number of it");
    } else if (id >= rows) {
      target.warnings.push_back(where + ": " + id.dump() + " is beyond the " + rows.dump() +
                                " rows of the vocabulary: is the tokenizer of another model?");
    }
  }
  if (!ids.empty()) return;
  target.notes.push_back(
      "config.json: the source does not tell bos_token_id, eos_token_id and pad_token_id; "
      "--config or --tokenizer gives them");
}

Target HuggingFace::describe(const Source& source, const TargetOptions& options,
                             Problems& problems) const {
  Target target;
  target.unit = ".";
  target.parallelism.chunks = {{0, source.record.at("layers").get<std::uint64_t>()}};
  const families::Record record = config_record_of(source, options);
  const std::vector<StoredTensor> tensors =
      huggingface_tensors(source, options, record, target, problems);
  std::vector<TensorSpec> specs;
  for (const StoredTensor& tensor : tensors) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  note_token_ids(source, target);
  if (options.for_release) {
    target.notes.emplace_back("for a release: a Hugging Face folder has no counters to reset");
  }
  const ShardSplit split =
      split_shards(specs, options.max_shard_bytes.value_or(5'000'000'000), files_);
  std::uint64_t parameters = 0;
  for (const StoredTensor& tensor : tensors) parameters += elements(tensor.shape);
  for (const ShardSplit::Shard& shard : split.shards) {
    FileDescription file;
    file.path = shard.file;
    file.container = files_ == WeightFiles::safetensors ? FileDescription::Container::safetensors
                                                        : FileDescription::Container::torch;
    file.value = files_ == WeightFiles::safetensors ? Json{{"format", "pt"}} : Json::object();
    for (const std::uint32_t t : shard.tensors) {
      if (files_ == WeightFiles::bin) {
        file.value[tensors[t].name] = {{"!", "tensor"}, {"index", file.tensors.size()}};
      }
      file.tensors.push_back(tensors[t]);
    }
    target.files.push_back(std::move(file));
  }
  if (split.shards.size() > 1) {
    target.files.push_back(
        plain_file(index_file_name(files_), index_json(split, specs, parameters)));
  }
  problems.collect([&] {
    const Json config = config_of(source, record);
    check_auto_map(source, config, target.notes, problems);
    target.files.push_back(plain_file("config.json", config.dump(2) + "\n"));
  });
  for (FileDescription& file : companion_files(source.companions, "")) {
    target.files.push_back(std::move(file));
  }
  return target;
}

}  // namespace reshard::formats
