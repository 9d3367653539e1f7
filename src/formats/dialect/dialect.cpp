#include "formats/dialect/dialect.hpp"

#include <algorithm>
#include <filesystem>

#include "core/error.hpp"
#include "core/transform.hpp"
#include "formats/dialect/foreign.hpp"
#include "formats/dialect/hdf5.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/megatron_dist.hpp"
#include "formats/dialect/megds.hpp"
#include "formats/dialect/merak.hpp"
#include "formats/dialect/template.hpp"

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;

std::string dialect_names() {
  std::string names;
  for (const Dialect* dialect : dialects()) {
    names += (names.empty() ? "" : ", ") + std::string(dialect->name());
  }
  return names;
}

/// Runs work; to its refusal adds what the path seems to be instead.
template <class Work>
auto with_hint(const SourceOptions& options, Work&& work) {
  try {
    return work();
  } catch (const Error& error) {
    const std::string hint = error.kind() == Kind::input ? foreign_hint(options.path, true) : "";
    if (hint.empty()) throw;
    throw Error::again(Kind::input, error.what()).with(": " + hint);
  }
}

/// What a dialect finds; a checkpoint that it refuses, or that cannot be looked at, is none.
std::optional<Found> quietly_detected(const Dialect& dialect, const SourceOptions& options) {
  try {
    return dialect.detect(options);
  } catch (const Error&) {
    return std::nullopt;
  } catch (const fs::filesystem_error&) {
    return std::nullopt;
  }
}

/// A second format under the path: two spellings of one folder are a warning, else it is not to be
/// guessed which is meant.
void add_other(const std::string& path, const std::string& other, Found& found) {
  if (!found.facts.contains("warnings")) {
    throw Error(Kind::usage, path + ": holds checkpoints of two formats, " + found.dialect +
                                 " and " + other + ": choose one with --from");
  }
  found.facts["warnings"].push_back(path + ": ignored its " + other + " files, the " +
                                    found.dialect + " files are taken; --from " + other +
                                    " reads them");
}

void check_ignored_keys(const std::vector<std::string>& keys, const Json& config) {
  for (const std::string& key : keys) {
    if (config.is_object() && config.contains(key.substr(0, key.find('.')))) continue;
    throw Error(Kind::usage, "--ignore-config " + key +
                                 (config.is_object() ? ": config.json has no such key"
                                                     : ": the source has no config.json"));
  }
}

/// A router's score bias is an fp32 buffer in every framework (megatron.md section 8, trap 23).
bool keeps_dtype(std::string_view role) {
  return role.ends_with(".router.score_bias");
}

}  // namespace

const std::vector<const Dialect*>& dialects() {
  static const HuggingFace safetensors(WeightFiles::safetensors), bin(WeightFiles::bin);
  static const Megatron megatron;
  static const MegatronDist megatron_dist;  // before Megatron, whose tracker it shares
  static const Merak merak;                 // before Megatron, whose tracker and folders look alike
  static const MegatronDeepSpeed megatron_deepspeed;
  static const DeepSpeed deepspeed;
  static const Hdf5 hdf5;
  static const std::vector<const Dialect*> all = {
      &megatron_deepspeed, &deepspeed,   &megatron_dist, &merak,
      &megatron,           &safetensors, &bin,           &hdf5};
  return all;
}

const Dialect& dialect_named(std::string_view name) {
  for (const Dialect* dialect : dialects()) {
    if (dialect->name() == name) return *dialect;
  }
  throw Error(Kind::usage, "no format '" + std::string(name) + "'; there are " + dialect_names());
}

Found detect(const SourceOptions& wanted) {
  SourceOptions options = wanted;
  for (const std::string& path : {options.path, options.config}) {
    if (!path.empty() && !fs::exists(path)) throw Error(Kind::input, path + ": does not exist");
  }
  if (fs::is_regular_file(options.path) && !fs::path(options.path).has_parent_path()) {
    options.path = "./" + options.path;  // its folder has a name then
  }
  if (!options.tokenizer.empty()) {
    companions_of("--tokenizer", options.tokenizer, "tokenizer files");
  }
  std::optional<Found> found;
  if (!options.from.empty()) {
    found = with_hint(options, [&] { return dialect_named(options.from).detect(options); });
  } else {
    for (const Dialect* dialect : dialects()) {
      if (!found) {
        found = with_hint(options, [&] { return dialect->detect(options); });
      } else if (quietly_detected(*dialect, options)) {
        add_other(options.path, std::string(dialect->name()), *found);
      }
    }
  }
  if (!found) {
    const std::string looked_for = options.from.empty() ? dialect_names() : options.from;
    const std::string hint = foreign_hint(options.path, false);
    throw Error(Kind::input, options.path + ": no checkpoint of a format that reshard knows (" +
                                 looked_for + ")" + (hint.empty() ? "" : ": " + hint));
  }
  check_ignored_keys(options.ignore_config, found->facts.value("config", Json()));
  add_template(options, *found);
  return *found;
}

bool holds_checkpoint(const std::string& folder) {
  SourceOptions options;
  options.path = folder;
  return std::any_of(dialects().begin(), dialects().end(), [&](const Dialect* dialect) {
    const std::optional<Found> found = quietly_detected(*dialect, options);
    return found && fs::equivalent(found->unit, folder);
  });
}

Dtype target_dtype(const StoredTensor& tensor, const Source& source,
                   const std::optional<Dtype>& wanted) {
  std::optional<Dtype> found;
  for (const std::uint32_t part : tensor.parts) {
    const Dtype stored = source.dtypes[part];
    const Dtype dtype = wanted && !keeps_dtype(source.model[part].role) ? *wanted : stored;
    if (dtype != stored && !is_castable(stored)) {
      throw Error(Kind::input,
                  tensor.name + ": --dtype casts no numbers of dtype " + std::string(name(stored)));
    }
    if (found && *found != dtype) {
      throw Error(Kind::input, tensor.name + ": its parts have different dtypes, " +
                                   std::string(name(*found)) + " and " + std::string(name(dtype)) +
                                   ": choose one with --dtype");
    }
    found = dtype;
    const bool shifted = source.adds[part] != tensor.add;
    if (shifted && dtype != Dtype::f32 && dtype != Dtype::f64) {
      throw Error(Kind::input, tensor.name + ": adding 1 to a zero-centred norm is not exact in " +
                                   std::string(name(dtype)) + ": choose --dtype fp32");
    }
  }
  return found.value_or(Dtype::f32);
}

families::Record target_record(const Source& source, const std::optional<Dtype>& wanted) {
  families::Record record = source.record;
  if (wanted) record["dtype"] = torch_name(*wanted);
  return record;
}

}  // namespace reshard::formats
