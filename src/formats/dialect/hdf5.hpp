#pragma once

#include "formats/dialect/dialect.hpp"

namespace reshard::formats {

/// A folder with one HDF5 file and the model's config.json beside it: `model.h5` as reshard writes
/// it (container/hdf5_layout.hpp), or any whose datasets have the names and shapes of the model's
/// tensors in Transformers; groups stand for the dots in them.
///
/// Our own file has, of `--hdf5-names`, either these tensors or the canonical ones under their
/// roles, with vocabulary padding. The root's attributes are
///
///     names            "hf" or "canonical"
///     family           of reshard's tables
///     model_type       of config.json
///     hyperparameters  JSON: the record of the model that the file's tensors are of
///     training         JSON: iteration, consumed samples, ... of the run
///
/// and config.json, tokenizer and generation config lie in it too, so that it can travel alone.
class Hdf5 final : public Dialect {
 public:
  [[nodiscard]] std::string_view name() const override { return "hdf5"; }
  [[nodiscard]] std::optional<Found> detect(const SourceOptions& options) const override;
  [[nodiscard]] FileIndex index(const Found& found, const std::string& file) const override;
  [[nodiscard]] Source open(const Found& found, const std::vector<FileIndex>& indices,
                            const SourceOptions& options, Problems& problems) const override;
  [[nodiscard]] Target describe(const Source& source, const TargetOptions& options,
                                Problems& problems) const override;
};

}  // namespace reshard::formats
