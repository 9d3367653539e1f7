#pragma once

#include <cstdint>
#include <vector>

#include "core/json.hpp"

namespace reshard::formats {

/// Consecutive layers, one virtual chunk of a pipeline stage.
struct LayerRange {
  std::uint64_t first = 0, count = 0;
  friend bool operator==(const LayerRange&, const LayerRange&) = default;
};

/// Degrees and the stage table (DESIGN.md section 2).
struct Parallelism {
  std::uint64_t tp = 1, pp = 1, vpp = 1, ep = 1, etp = 1, cp = 1, dp = 1;
  /// Chunk c is virtual chunk c / pp of stage c % pp (megatron.md section 3).
  std::vector<LayerRange> chunks;

  friend bool operator==(const Parallelism&, const Parallelism&) = default;
  [[nodiscard]] std::vector<std::uint64_t> layers_of_stages() const;
};

/// {"tp": 2, ...} with the layers of each chunk.
Json to_json(const Parallelism& parallelism);

/// One file of a Megatron checkpoint: the ranks that its name holds, and the expert tensor rank.
struct FileRank {
  std::uint64_t tp = 0, pp = 0, ep = 0, etp = 0;
  friend bool operator==(const FileRank&, const FileRank&) = default;
};

/// The files that a Megatron run of these degrees writes (megatron.md sections 1.3, 4), by name:
/// those of ranks that are first in their dense or their expert data-parallel group. Error(input)
/// when the world is too small, or two ranks' different parts would lie in files of one name.
std::vector<FileRank> file_grid(const Parallelism& parallelism, std::uint64_t world);
/// Least ranks of a pipeline stage: whole tensor-parallel groups and whole expert groups.
std::uint64_t ranks_of_stage(const Parallelism& parallelism);

/// Stages of equal size, or of the sizes given (a sum unequal to the layers is an Error(usage));
/// each stage is cut into vpp equal chunks.
std::vector<LayerRange> stage_table(std::uint64_t layers, std::uint64_t pp, std::uint64_t vpp,
                                    const std::vector<std::uint64_t>& stage_layers);

/// Chunks of these sizes, in order.
std::vector<LayerRange> chunks_of_counts(const std::vector<std::uint64_t>& counts);

}  // namespace reshard::formats
