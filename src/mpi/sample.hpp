#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "formats/dialect/options.hpp"
#include "formats/sample.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// The user's wishes for one synthetic checkpoint.
struct SampleOptions {
  formats::SampleOptions model;
  formats::TargetOptions target;
  bool sparse = false;  ///< headers only, holes (zeros) for the numbers
  bool overwrite = false;
  std::uint64_t tile_bytes = 0;  ///< 0: by the size of the target (see Geometry)
  /// Called on rank 0 between tiles.
  std::function<void(std::uint64_t done, std::uint64_t all)> progress;
};

/// What was made, equal on all ranks.
struct SampleReport {
  std::string unit, family;
  std::uint64_t tensors = 0, parameters = 0, files = 0, bytes = 0;
  std::vector<std::string> notes;
};

/// Collective. Writes a synthetic checkpoint: the same model has the same values in every format
/// and layout. Throws the same Error on all ranks, and then nothing lies under the target's name.
SampleReport sample(const Comm& comm, const SampleOptions& options);

}  // namespace reshard::mpi
