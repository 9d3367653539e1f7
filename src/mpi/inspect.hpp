#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mpi/open_source.hpp"

namespace reshard::mpi {

/// Values of a canonical tensor; NaN and infinities are counted apart.
struct TensorStatistics {
  double least = 0, most = 0, sum = 0;
  std::uint64_t finite = 0, nans = 0, infinities = 0;
};

/// What inspect found: a checkpoint that a dialect knows, or single files with tensors. The same on
/// all ranks, but for single files, which rank 0 alone has.
struct InspectReport {
  std::optional<formats::Source> source;
  std::vector<formats::FileIndex> indices;   ///< headers of all files
  std::string failure;                       ///< why there is no source
  std::vector<std::string> problems;         ///< what headers refuse, files that cannot be read
  std::vector<TensorStatistics> statistics;  ///< by canonical tensor, where asked for
};

/// Collective. Phases 1 and 2; a path that no dialect takes is searched for files of a known
/// container and for pickles instead, and only when none can be read does the dialects' error
/// leave. `statistics` reads all tensors, spread over ranks.
InspectReport inspect(const Comm& comm, const formats::SourceOptions& options, bool statistics);

}  // namespace reshard::mpi
