#include "formats/dialect/zero_bias.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "families/arguments.hpp"
#include "families/pattern.hpp"
#include "families/record.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/source_reader.hpp"

namespace reshard::formats {
namespace {

bool fits(const Json& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const Json& pattern) {
    return families::matches(pattern.get<std::string>(), name);
  });
}

/// Whether a bias, elements one after another, has no byte that is not zero.
bool is_zero(const Found& found, const FileIndex& index, const TensorEntry& bias) {
  constexpr std::uint64_t step = std::uint64_t{1} << 18;
  const bool is_dense = bias.strides.empty() || bias.strides.front() == 1;
  if (bias.shape.size() != 1 || !is_dense) return false;
  const std::vector<SourceFile> files{{index.path, index.bytes, {}, bias.chunks}};
  SourceReader reader(found.unit, files, 1, 0);
  const std::uint64_t width = bytes(bias.dtype), count = bias.shape.front();
  std::vector<std::byte> block(std::min(step, count) * width);
  for (std::uint64_t at = 0; at < count; at += step) {
    const std::uint64_t some = std::min(step, count - at);
    const ReadRequest request{0, bias.offset + at * width, {some}, {1}, {1}, width, block.data()};
    reader.read({&request, 1});
    const auto end = block.begin() + static_cast<std::ptrdiff_t>(some * width);
    if (std::any_of(block.begin(), end, [](std::byte b) { return b != std::byte{0}; })) {
      return false;
    }
  }
  return true;
}

}  // namespace

Json patterns_of_output_bias(const Json& config, const SourceOptions& options) {
  Json patterns = Json::array();
  Source model;
  model.config = config;
  try {
    settle_family(options, model);
    model.record = families::read_config(model.family, config, options.ignore_config);
  } catch (const Error&) {
    return patterns;  // opening it says so, with all else
  }
  const auto has = [&](const char* line) { return model.record.value(line, Json()) == true; };
  const bool is_alone = has("attention_bias") && has("output_bias") && !has("mlp_bias");
  if (!is_alone || !families::may_fill(families::load_arguments("megatron"), model.model_type)) {
    return patterns;
  }
  for (const families::Row& row : model.family.rows) {
    const bool is_bias = std::any_of(row.parts.begin(), row.parts.end(), [](const auto& part) {
      return part.second.ends_with(".attention.o.bias");
    });
    if (!is_bias) continue;
    patterns.push_back(row.name);
    const std::string& base = model.family.base;
    if (row.name.starts_with(base)) patterns.push_back(row.name.substr(base.size()));
  }
  return patterns;
}

void note_zero_biases(const Found& found, FileIndex& index) {
  const Json patterns = found.facts.value("output_bias", Json::array());
  if (patterns.empty()) return;
  Json zeros = Json::array();
  for (const TensorEntry& entry : index.tensors) {
    if (fits(patterns, entry.name) && is_zero(found, index, entry)) zeros.push_back(entry.name);
  }
  index.facts["zero_biases"] = std::move(zeros);
}

std::set<std::string> leave_out_zero_biases(const std::vector<FileIndex>& indices, Source& source) {
  const Json patterns = source.found.facts.value("output_bias", Json::array());
  std::set<std::string> zeros;
  if (patterns.empty()) return zeros;
  for (const FileIndex& index : indices) {
    const Json names = index.facts.value("zero_biases", Json::array());
    zeros.insert(names.begin(), names.end());
  }
  if (zeros.size() != source.record.at("layers")) return {};
  source.record["output_bias"] = false;
  source.notes.push_back(*zeros.begin() + " is zero, as in all layers: taken as none");
  return zeros;
}

}  // namespace reshard::formats
