#pragma once

#include "formats/dialect/dialect.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// Collective. Phases 1 and 2: rank 0 finds out the format, each header is read once, by one rank,
/// and shared; every rank then has the same source. What headers refuse goes to `problems`.
formats::Source open_source(const Comm& comm, const formats::SourceOptions& options,
                            formats::Problems& problems);

}  // namespace reshard::mpi
