#pragma once

#include "formats/container/safetensors.hpp"
#include "formats/dialect/dialect.hpp"

namespace reshard::formats {

/// A folder that Transformers' save_pretrained writes: config.json, weights in one file or several
/// with an index (containers.md section 1.5), tokenizer files. Tensor names and layouts are the
/// family's rows. Dialects `hf` (safetensors) and `hf-bin` (pytorch_model*.bin).
class HuggingFace final : public Dialect {
 public:
  explicit HuggingFace(WeightFiles files) : files_(files) {}
  [[nodiscard]] std::string_view name() const override;
  [[nodiscard]] std::optional<Found> detect(const SourceOptions& options) const override;
  [[nodiscard]] FileIndex index(const Found& found, const std::string& file) const override;
  [[nodiscard]] Source open(const Found& found, const std::vector<FileIndex>& indices,
                            const SourceOptions& options, Problems& problems) const override;
  [[nodiscard]] Target describe(const Source& source, const TargetOptions& options,
                                Problems& problems) const override;

 private:
  WeightFiles files_;
};

/// The model that found.facts tell: "config", "warnings", "companions"; no tensors yet.
Source source_of_config(const Found& found, const SourceOptions& options);

/// What a Hugging Face checkpoint of the source's model stores, in the order of its state dict.
std::vector<StoredTensor> huggingface_tensors(const Source& source, const TargetOptions& options,
                                              const families::Record& record, Target& target,
                                              Problems& problems);

/// Says what a config.json lacks when the source has none.
void note_token_ids(const Source& source, Target& target);

/// The record that a config.json of the target says.
families::Record config_record_of(const Source& source, const TargetOptions& options);

/// The family that an option names, a table's file or an embedded one.
families::Family family_named(const std::string& name);

/// Sets family and model type of a source with a config.json: those that the options name, else
/// those of the config.
void settle_family(const SourceOptions& options, Source& source);

/// The config.json of a record: the source's own, key for key, where it says the same.
Json config_of(const Source& source, const families::Record& record);

/// A config.json with its dtype, under whichever key it has one, set to torch's name for it.
Json config_with_dtype(Json config, const Json& dtype);

/// Holds an index's weight_map, {file: [tensor, ...], ...}, against the headers of the files: a
/// tensor elsewhere is a problem, one that only one side has a warning.
void check_weight_map(const Json& map, const std::string& index_name,
                      const std::vector<FileIndex>& indices, Source& source, Problems& problems);

/// A JSON file; Error(input) names it and where it cannot be parsed.
Json read_json(const std::string& path);

}  // namespace reshard::formats
