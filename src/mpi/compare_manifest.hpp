#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/dialect/options.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// What a checkpoint's numbers are, held against a manifest; equal on all ranks.
struct RolesReport {
  std::string unit, manifest;  ///< folders of the two
  std::uint64_t tensors = 0;   ///< whose digests were compared
  std::uint64_t as_source =
      0;  ///< of them, equal to the conversion's source, which had other values
  std::uint64_t replicas = 0;         ///< copies held against their original
  std::vector<std::string> padding;   ///< rows left out, one line a tensor
  std::vector<std::string> findings;  ///< one line a difference
};

/// Collective. Digests every canonical tensor of a checkpoint, whatever its format and layout, and
/// compares with the manifest in `folder`: with the digest of what was written where dtype and
/// constant are those, else with that of the source where they are the source's. Hyperparameters
/// and copies within the checkpoint are compared, too; vocabulary padding is left out.
RolesReport compare_manifest(const Comm& comm, const formats::SourceOptions& options,
                             const std::string& folder);

}  // namespace reshard::mpi
