#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/dialect/dialect.hpp"
#include "formats/dialect/megatron.hpp"

namespace reshard::formats {

/// Megatron-Core's `torch_dist` format (megatron.md sections 6, 7): a distributed checkpoint of
/// torch (container/dcp.hpp) whose tensors are those of the whole model, whatever the parallelism.
///
///     latest_checkpointed_iteration.txt    as of the format `torch`
///     iter_0001000/.metadata               what is where
///     iter_0001000/__R_W.distcp            chunks and byte entries; R tells nothing
///     iter_0001000/common.pt               {args, checkpoint_version, iteration, ...}
///     iter_0001000/metadata.json           written last
///
/// Since the middle of 2026 the byte entry common_state/shard_0_1 stands for common.pt.
/// Read with layers stacked in one tensor or one by one, keys with or without "module.", chunks cut
/// in any way; without args by --config. Optimizer state is counted and left out. Written as runs
/// of the degrees of --tp, --pp, ... cut it, rank R's chunks in --dist-files files, with common.pt.
/// hf_config/ is ours, as in a unit of `torch`.
class MegatronDist final : public Dialect {
 public:
  [[nodiscard]] std::string_view name() const override { return "megatron-dist"; }
  [[nodiscard]] std::optional<Found> detect(const SourceOptions& options) const override;
  [[nodiscard]] FileIndex index(const Found& found, const std::string& file) const override;
  [[nodiscard]] Source open(const Found& found, const std::vector<FileIndex>& indices,
                            const SourceOptions& options, Problems& problems) const override;
  [[nodiscard]] Target describe(const Source& source, const TargetOptions& options,
                                Problems& problems) const override;
};

/// A part of a stored tensor that Megatron writes as one chunk, and the rank whose it is.
struct DistCut {
  Box box;
  std::uint64_t rank = 0;  ///< global, of the smallest run of the degrees
};

/// A tensor of the checkpoint, whole.
struct DistTensor {
  StoredTensor stored;
  std::vector<DistCut> cuts;
};

/// The rows of table megatron_dist for a model, whose layers are stacked when they hold the same.
struct DistRows {
  MegatronRows megatron;
  bool stacked = false;

  /// `homogeneous`: every layer has the same tensors, and the run knows it.
  DistRows(const families::Record& record, const Json& choices, const Parallelism& parallelism,
           std::uint64_t padded_vocab, const CanonicalModel& model, bool homogeneous,
           bool repeat_last = false);
};

/// Every tensor of the model, in its order; `use` is added to.
std::vector<DistTensor> dist_tensors(const DistRows& rows, TableUse& use);
/// The same with the cuts of a run of these degrees.
std::vector<DistTensor> dist_tensors(const DistRows& rows, const Parallelism& parallelism,
                                     TableUse& use);

/// The placements of a tensor, by the chunk that holds them.
class ChunkPlacements {
 public:
  /// The tensor must outlive this.
  explicit ChunkPlacements(const StoredTensor& tensor);

  struct Held {
    std::vector<Placement> placements;  ///< in the memory of the chunk alone, row-major
    std::size_t repeats = 0;            ///< see StoredTensor
  };
  /// What a box of the tensor holds.
  [[nodiscard]] Held in(const Box& box) const;
  [[nodiscard]] const StoredTensor& tensor() const { return *tensor_; }

 private:
  struct Place {
    std::uint64_t row = 0;   ///< index of the first element along the first dimension
    std::size_t number = 0;  ///< of the placement
  };
  const StoredTensor* tensor_;
  std::vector<Place> order_;  ///< ascending
  std::uint64_t reach_ = 0;   ///< most rows from a placement's first to its last
};

/// A key without the levels that some exporters put in front: "module.", "model.".
std::string_view dist_key(std::string_view key);

}  // namespace reshard::formats
