#pragma once

#include <vector>

#include "formats/dialect/dialect.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// A checkpoint's files as their headers tell them.
struct Headers {
  formats::Found found;
  std::vector<formats::FileIndex> indices;  ///< in the order of found.files
};

/// Collective. Rank 0 finds out the format, each header is read once, by one rank, and shared.
Headers read_headers(const Comm& comm, const formats::SourceOptions& options);

/// Collective. Phases 1 and 2: every rank then has the same source. What headers refuse goes to
/// `problems`.
formats::Source open_source(const Comm& comm, const formats::SourceOptions& options,
                            formats::Problems& problems);

}  // namespace reshard::mpi
