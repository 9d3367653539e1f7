#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/dialect/dialect.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/rows.hpp"

namespace reshard::formats {

/// Megatron-DeepSpeed, both lineages (deepspeed.md sections 1 to 3, 8):
///
///     latest                                       "global_step1000"
///     global_step1000/layer_NN-model_TT-model_states.pt   {name: tensor}, one a layer and tp rank
///     global_step1000/mp_rank_XX_model_states.pt   {args, iteration, ...}, XX = pp rank * tp + tp
///     rank
///
/// or, without pipeline, the model below `module` of mp_rank_TT. Layer files are told apart by what
/// they hold, never by their numbers. ZeRO's optimizer files are counted and left out. hf_config/
/// is ours, as in a Megatron unit.
class MegatronDeepSpeed final : public Dialect {
 public:
  [[nodiscard]] std::string_view name() const override { return "megatron-deepspeed"; }
  [[nodiscard]] std::optional<Found> detect(const SourceOptions& options) const override;
  [[nodiscard]] FileIndex index(const Found& found, const std::string& file) const override;
  [[nodiscard]] Source open(const Found& found, const std::vector<FileIndex>& indices,
                            const SourceOptions& options, Problems& problems) const override;
  [[nodiscard]] std::optional<std::uint64_t> module_of(const std::string& file,
                                                       const std::string& tensor) const override;
  [[nodiscard]] Target describe(const Source& source, const TargetOptions& options,
                                Problems& problems) const override;
};

/// A Transformers model that DeepSpeed trained without model parallelism: its weights, in its own
/// names, lie in `module` of mp_rank_00_model_states.pt (ZeRO 0 to 2). Read only; with ZeRO 3 the
/// weights lie in the optimizer's files alone: refused.
class DeepSpeed final : public Dialect {
 public:
  [[nodiscard]] std::string_view name() const override { return "deepspeed"; }
  [[nodiscard]] std::optional<Found> detect(const SourceOptions& options) const override;
  [[nodiscard]] FileIndex index(const Found& found, const std::string& file) const override;
  [[nodiscard]] Source open(const Found& found, const std::vector<FileIndex>& indices,
                            const SourceOptions& options, Problems& problems) const override;
  [[nodiscard]] Target describe(const Source& source, const TargetOptions& options,
                                Problems& problems) const override;
};

/// A file of DeepSpeed by its name; numbers that its kind lacks are 0.
struct DeepSpeedFile {
  enum class Kind { layer, model, optimizer, partition, expert };
  Kind kind = Kind::layer;
  std::uint64_t layer = 0, tp = 0, mp = 0, dp = 0;
};
/// What a file's name says; nothing for a name that DeepSpeed gives to no file of ours.
std::optional<DeepSpeedFile> deepspeed_file(std::string_view name);
/// The folder of the tag: the path itself, or below it by `latest` or --from-iteration; nothing
/// when no file of DeepSpeed is there, or a whole model lies beside and --from does not ask for
/// this.
std::optional<std::string> deepspeed_unit(const SourceOptions& options);
/// Files with weights by rising numbers, those of the optimizer in the facts; config.json, if any.
/// Error(input) for ZeRO 3, experts and files of two names for one rank.
Found deepspeed_found(std::string dialect, const std::string& unit, const SourceOptions& options);
/// The header of one file: tensors of the model without "module.", facts without large ones.
FileIndex deepspeed_index(const Found& found, const std::string& file);
/// Says that fp32 masters are left behind where the model's own files hold half precision.
void note_masters(Source& source);
/// Data-parallel ranks, by the optimizer's files, whose grid must be complete, else by what model
/// files say; announces what is dropped.
std::uint64_t settle_optimizer(const Found& found, std::uint64_t model_ranks, const Json& facts,
                               Source& source, Problems& problems);

/// What a pipeline file holds of the model.
enum class LayerKind { embedding, layer, final_norm, head };
struct LayerFile {
  LayerKind kind = LayerKind::embedding;
  std::uint64_t layer = 0;  ///< of a layer, counted from 0
};
/// The kind of file that holds a role.
LayerKind kind_of_role(std::string_view role);

/// The rows of the table, held against a model.
struct MegdsRows {
  families::DialectTable table;
  Rows rows;

  /// See MegatronRows.
  MegdsRows(const families::Record& record, const Json& choices, std::uint64_t tp,
            std::uint64_t padded_vocab, const CanonicalModel& model, bool repeat_last = false);
};

/// Adds what tp rank `rank` of `tp` stores of one pipeline file; `whole` gives names of the layout
/// without pipeline, below "language_model.".
void add_megds_tensors(const MegdsRows& megds, const LayerFile& file, std::uint64_t rank,
                       std::uint64_t tp, bool whole, TableUse& use,
                       std::vector<StoredTensor>& tensors);

/// Key beside args by which our own files tell their QKV layout; no framework reads it.
inline constexpr std::string_view qkv_key = "reshard_qkv_layout";

/// "07", "123"
std::string two_digits(std::uint64_t number);

/// Stages of DeepSpeed's own partition by transformer layers: the first are the larger ones.
std::vector<LayerRange> deepspeed_stages(std::uint64_t layers, std::uint64_t pp);

}  // namespace reshard::formats
