#include <algorithm>

#include "core/error.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megds.hpp"

// A Transformers model under DeepSpeed, and the optimizer's files of any DeepSpeed checkpoint.

namespace reshard::formats {

std::uint64_t settle_optimizer(const Found& found, std::uint64_t model_ranks, const Json& facts,
                               Source& source, Problems& problems) {
  const std::vector<SourceFile>& files = found.optimizer;
  const Json told = facts.value("dp_world_size", Json());
  std::uint64_t copies = 0, bytes = 0;
  for (const SourceFile& each : files) {
    const DeepSpeedFile file = *deepspeed_file(each.path);
    copies = std::max(copies, file.dp + 1);
    bytes += each.bytes;
    if (file.mp >= model_ranks) {
      problems.add(each.path + ": no mp_rank_" + two_digits(file.mp) +
                   "_model_states.pt beside it");
    }
  }
  if (files.empty()) {
    const bool known = told.is_number_integer() && told >= 1;
    return known ? told.get<std::uint64_t>() : 1;
  }
  if (files.size() != copies * model_ranks) {
    problems.add(std::to_string(files.size()) + " optimizer files, as " + files.front().path +
                 ", are not those of " + std::to_string(copies) + " data-parallel ranks times " +
                 std::to_string(model_ranks) + " mp_rank files: one is missing, or of another run");
  }
  if (told.is_number_integer() && told != copies) {
    problems.add("dp_world_size is " + told.dump() + ", but there are optimizer files of " +
                 std::to_string(copies) + " data-parallel ranks");
  }
  source.dropped.push_back("optimizer of ZeRO: " + std::to_string(files.size()) + " files of " +
                           std::to_string(copies) + " data-parallel ranks, " +
                           std::to_string(bytes) + " bytes");
  return copies;
}

void note_masters(Source& source) {
  const bool half = std::any_of(source.dtypes.begin(), source.dtypes.end(), [](Dtype dtype) {
    return dtype == Dtype::bf16 || dtype == Dtype::f16;
  });
  if (!half || source.found.optimizer.empty()) return;
  source.notes.push_back(
      "the model's files hold half precision; fp32 masters lie in the optimizer's files, which are "
      "not read");
}

std::optional<Found> DeepSpeed::detect(const SourceOptions& options) const {
  const std::optional<std::string> unit = deepspeed_unit(options);
  if (!unit) return std::nullopt;
  Found found = deepspeed_found(std::string(name()), *unit, options);
  const bool models_only = !found.files.empty() &&
                           deepspeed_file(found.files.front())->kind == DeepSpeedFile::Kind::model;
  if (!models_only) return std::nullopt;
  const FileIndex first = deepspeed_index(found, found.files.front());
  const bool megatron = std::any_of(
      first.tensors.begin(), first.tensors.end(),
      [](const TensorEntry& entry) { return entry.name.starts_with("language_model."); });
  if (first.tensors.empty() || megatron) return std::nullopt;
  if (!found.facts.at("config").is_object()) {
    throw Error(Kind::input, *unit +
                                 ": a model's weights under DeepSpeed, but no config.json here "
                                 "or above: give one with --config");
  }
  return found;
}

FileIndex DeepSpeed::index(const Found& found, const std::string& file) const {
  return deepspeed_index(found, file);
}

Source DeepSpeed::open(const Found& found, const std::vector<FileIndex>& indices,
                       const SourceOptions& options, Problems& problems) const {
  if (indices.size() != 1) {
    throw Error(Kind::input, found.unit + ": " + std::to_string(indices.size()) +
                                 " mp_rank files: tensor parallelism around a Transformers model "
                                 "is not read");
  }
  const FileIndex& index = indices.front();
  Found files = found;  // as a folder of one pytorch_model.bin
  files.facts["weight_map"] = Json::object();
  files.facts["warnings"] = Json::array();
  SourceOptions of_folder = options;
  of_folder.iteration.reset();
  Source source = HuggingFace(WeightFiles::bin).open(files, indices, of_folder, problems);
  source.found = found;
  for (const char* name : {"global_steps", "global_samples", "skipped_steps"}) {
    if (index.facts.contains(name)) source.training[name] = index.facts.at(name);
  }
  if (source.training.contains("global_steps")) {
    source.training["iteration"] = source.training.at("global_steps");
  }
  source.parallelism.dp = settle_optimizer(found, 1, index.facts, source, problems);
  source.ranks[index.path] = {};
  note_masters(source);
  return source;
}

Target DeepSpeed::describe(const Source& /*source*/, const TargetOptions& /*options*/,
                           Problems& /*problems*/) const {
  throw Error(Kind::usage,
              "--to deepspeed: a Transformers model is not written in DeepSpeed's own files: write "
              "--to hf and load that before deepspeed.initialize");
}

}  // namespace reshard::formats
