#include "formats/dialect/dialect.hpp"

#include <filesystem>

#include "core/error.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/merak.hpp"

namespace reshard::formats {
namespace {

bool is_floating(Dtype dtype) {
  return dtype == Dtype::f64 || dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16;
}

/// A router's score bias is an fp32 buffer in every framework (megatron.md section 8, trap 23).
bool keeps_dtype(std::string_view role) {
  return role.ends_with(".router.score_bias");
}

}  // namespace

const std::vector<const Dialect*>& dialects() {
  static const HuggingFace safetensors(WeightFiles::safetensors), bin(WeightFiles::bin);
  static const Megatron megatron;
  static const Merak merak;  // before Megatron, whose tracker and folders look alike
  static const std::vector<const Dialect*> all = {&merak, &megatron, &safetensors, &bin};
  return all;
}

const Dialect& dialect_named(std::string_view name) {
  std::string names;
  for (const Dialect* dialect : dialects()) {
    if (dialect->name() == name) return *dialect;
    names += (names.empty() ? "" : ", ") + std::string(dialect->name());
  }
  throw Error(Kind::usage, "no format '" + std::string(name) + "'; there are " + names);
}

Found detect(const SourceOptions& options) {
  if (!std::filesystem::exists(options.path)) {
    throw Error(Kind::input, options.path + ": does not exist");
  }
  std::string looked_for;
  for (const Dialect* dialect : dialects()) {
    if (!options.from.empty() && dialect->name() != options.from) continue;
    if (std::optional<Found> found = dialect->detect(options)) return *found;
    looked_for += (looked_for.empty() ? "" : ", ") + std::string(dialect->name());
  }
  if (looked_for.empty()) dialect_named(options.from);
  throw Error(Kind::input,
              options.path + ": no checkpoint of a format that reshard knows (" + looked_for + ")");
}

Dtype target_dtype(const StoredTensor& tensor, const Source& source,
                   const std::optional<Dtype>& wanted) {
  std::optional<Dtype> found;
  for (const std::uint32_t part : tensor.parts) {
    const Dtype stored = source.dtypes[part];
    const bool kept = keeps_dtype(source.model[part].role) || !is_floating(stored);
    const Dtype dtype = wanted && !kept ? *wanted : stored;
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
