#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/dialect/options.hpp"
#include "formats/dialect/source.hpp"
#include "formats/dialect/target.hpp"

namespace reshard::formats {

/// How one framework names, cuts and lays out a model over files.
class Dialect {
 public:
  virtual ~Dialect() = default;
  /// The name that --to and --from take.
  [[nodiscard]] virtual std::string_view name() const = 0;
  /// Whether the path holds a checkpoint of this dialect, and which files; reads small files only.
  /// Error(incomplete) when it does but is not finished.
  [[nodiscard]] virtual std::optional<Found> detect(const SourceOptions& options) const = 0;
  /// The header of one of the found files.
  [[nodiscard]] virtual FileIndex index(const Found& found, const std::string& file) const = 0;
  /// The source, from the headers of all its files in the order of found.files. A pure function;
  /// adds to `problems` what the headers refuse and goes on where it can.
  [[nodiscard]] virtual Source open(const Found& found, const std::vector<FileIndex>& indices,
                                    const SourceOptions& options, Problems& problems) const = 0;
  /// Number of the pipeline module that holds a stored tensor, in a dialect whose names count them.
  [[nodiscard]] virtual std::optional<std::uint64_t> module_of(
      const std::string& /*file*/, const std::string& /*tensor*/) const {
    return std::nullopt;
  }
  /// What this framework would write for the source's model.
  [[nodiscard]] virtual Target describe(const Source& source, const TargetOptions& options,
                                        Problems& problems) const = 0;
};

/// Every dialect of this build, in the order of detection.
const std::vector<const Dialect*>& dialects();
/// The dialect of a name; Error(usage) lists them.
const Dialect& dialect_named(std::string_view name);
/// The first dialect whose checkpoint the path is, or the one that --from names. Error(input) says
/// what was looked for and what the path seems to be; Error(usage) for a path with checkpoints of
/// two frameworks, and for source options without effect.
Found detect(const SourceOptions& options);
/// Whether a checkpoint of any dialect lies in the folder itself, not in a folder of it.
bool holds_checkpoint(const std::string& folder);

/// dtype of a target tensor: that of its parts in the source, cast as the user wishes; Error(input)
/// when the parts differ. Tensors that frameworks keep in fp32 whatever the model's dtype stay.
Dtype target_dtype(const StoredTensor& tensor, const Source& source,
                   const std::optional<Dtype>& wanted);
/// The source's record with the dtype that the target will have.
families::Record target_record(const Source& source, const std::optional<Dtype>& wanted);

}  // namespace reshard::formats
