#pragma once

#include <mpi.h>

#include <optional>

#include "mpi/comm.hpp"

namespace reshard::test {

/// The first ranks of a communicator, the others apart.
class Part {
 public:
  Part(const mpi::Comm& whole, int ranks) {
    MPI_Comm handle = MPI_COMM_NULL;
    mpi::check(MPI_Comm_split(whole.handle(), whole.rank() < ranks ? 0 : 1, 0, &handle),
               "MPI_Comm_split");
    if (whole.rank() < ranks) comm_.emplace(handle);
    mpi::check(MPI_Comm_free(&handle), "MPI_Comm_free");
  }
  [[nodiscard]] const std::optional<mpi::Comm>& comm() const { return comm_; }

 private:
  std::optional<mpi::Comm> comm_;
};

}  // namespace reshard::test
