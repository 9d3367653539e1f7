#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "families/expression.hpp"
#include "formats/dialect/dialect.hpp"
#include "formats/dialect/rows.hpp"

namespace reshard::formats {

/// Checkpoints of HPDL-Group/Merak and of its converter tools (merak.md sections 1 to 5):
///
///     latest_checkpointed_iteration.txt         "1000" or "release"
///     iter_0001000/mp_rank_RR[_pp_rank_SSS]/partial_model_optim.pt       tp * pp > 1
///     iter_0001000/model_optim.pt               tp = pp = 1, era 2
///     iter_0001000_all_dp/model_optim.pt        tp = pp = 1, era 1 (a release:
///     iter_0000000_all_dp)
///         {model: {"module.<S>.<name>": tensor}, checkpoint_version, iteration, ...}
///
/// Era 1 (v0.1 to v1.1) begins names with "module.", era 2 (v2) does not; <S> is the number of a
/// module that Merak cut out of the model's graph, <name> Transformers' own, with col_linear or
/// row_linear before its last component where tensor parallelism replaced the layer. Stages and
/// degrees stand in the names of folders alone. The folder hf_config/ in the unit is ours, as in
/// Megatron's format, and so is reshard.json: what a run must be told to load the files.
class Merak final : public Dialect {
 public:
  [[nodiscard]] std::string_view name() const override { return "merak"; }
  [[nodiscard]] std::optional<Found> detect(const SourceOptions& options) const override;
  [[nodiscard]] FileIndex index(const Found& found, const std::string& file) const override;
  [[nodiscard]] Source open(const Found& found, const std::vector<FileIndex>& indices,
                            const SourceOptions& options, Problems& problems) const override;
  [[nodiscard]] std::optional<std::uint64_t> module_of(const std::string& file,
                                                       const std::string& tensor) const override;
  [[nodiscard]] Target describe(const Source& source, const TargetOptions& options,
                                Problems& problems) const override;
};

/// Beside our own files: what a run must be told to load them.
inline constexpr std::string_view run_file = "reshard.json";

/// How the dialect's table makes rows from those of a family ("derive").
struct MerakTable {
  struct Rule {
    std::vector<std::string> roles;  ///< patterns
    std::string suffix;              ///< before the name's last component; empty: none
    std::string split;
    families::Expression when;
  };
  families::DialectTable dialect;
  std::vector<std::pair<families::Expression, std::string>> names;  ///< when, template
  std::vector<std::pair<std::string, std::string>> pad;
  std::vector<Rule> parallel;
};

/// The embedded table.
MerakTable load_merak();

/// One layer of a row, or all of a row without layers.
struct MerakTensor {
  std::size_t row = 0;
  std::optional<std::uint64_t> layer;
};

/// The rows of Merak's table and of a family, held against a model.
class MerakRows {
 public:
  /// `choices` of the table; `padded_vocab`, `repeat_last`: see Rows. The model must outlive this.
  /// Error(input) for a family that Merak's lists of parallel layers do not know.
  MerakRows(const families::Family& family, const families::Record& record, const Json& choices,
            std::uint64_t tp, std::uint64_t padded_vocab, const CanonicalModel& model,
            bool repeat_last = false);

  /// Every tensor that the model has, copies (`tied_modules`) first, else in the rows' order.
  [[nodiscard]] const std::vector<MerakTensor>& tensors() const { return tensors_; }
  /// What the file of a tp rank holds of it; `module` stands for <S>. Error(input) when a factor
  /// does not divide by tp.
  [[nodiscard]] StoredTensor stored(const MerakTensor& tensor, std::string_view module,
                                    std::uint64_t tp_rank) const;
  /// Number of the module that holds it; Error(input) where no formula tells.
  [[nodiscard]] std::uint64_t module_of(const MerakTensor& tensor) const;
  /// Whether it is a tied copy.
  [[nodiscard]] bool is_copy(const MerakTensor& tensor) const { return tensor.row < copies_; }
  /// Whether tp ranks hold different parts of it.
  [[nodiscard]] bool is_split(const MerakTensor& tensor) const;
  /// Transformers' name, with the suffix of parallel layers.
  [[nodiscard]] std::string hugging_face_name(const MerakTensor& tensor) const;
  [[nodiscard]] const MerakTable& table() const { return table_; }

 private:
  MerakTable table_;
  std::size_t copies_;  ///< rows before those of the family
  Rows rows_;
  std::uint64_t tp_;
  std::string template_;
  std::vector<MerakTensor> tensors_;
};

/// A name in a file, taken apart.
struct MerakName {
  int era = 2;
  std::optional<std::uint64_t> module;  ///< none: a tied copy
  std::string rest;                     ///< behind the module
};
/// Nothing for a name of another form.
std::optional<MerakName> merak_name(std::string_view name);

/// Degrees that the names of a checkpoint's folders and ZeRO files tell.
struct MerakGrid {
  std::uint64_t tp = 1, pp = 1, dp = 1;
};

/// Record, family and config of a source: by its config.json, or its args; else a problem, and a
/// record by shapes that serves for inspection only. Sets source.family, .model_type, .record,
/// .config_record and .config.
void settle_merak_record(const SourceOptions& options, const std::vector<FileIndex>& indices,
                         const MerakGrid& grid, Source& source, Problems& problems);

/// What args of all ranks of one run agree on: of a training run's, all that changes the files.
Json merak_run_arguments(const Json& args);

/// What is to be written, settled from the user's words and the source.
struct MerakPlan {
  int era = 2;
  bool flat = false;
  std::uint64_t tp = 1, pp = 1, layers = 0, hidden = 0, rows = 0;
  bool gpt2 = false, tied = false;
  Json choices;
  std::string buffers;  ///< "masks", "traced" or "none"
  std::uint64_t traced_positions = 0;
};

/// Error(usage) for options that Merak does not have, Error(input) for a model that its era lacks;
/// adds what was taken to `notes`.
MerakPlan merak_plan(const Source& source, const TargetOptions& options,
                     std::vector<std::string>& notes);

/// Bounds b[0] = 0 .. b[pp] = n of the stages over n modules (merak.md section 8). Error(usage) for
/// bounds that are none, with what the modules are.
std::vector<std::uint64_t> merak_bounds(std::uint64_t modules, std::uint64_t pp, int era,
                                        std::string_view method,
                                        const std::vector<std::uint64_t>& custom,
                                        const std::string& description);

}  // namespace reshard::formats
