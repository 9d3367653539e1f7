#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mpi/comm.hpp"
#include "mpi/prepare.hpp"

namespace reshard::mpi {

/// Size and time of the last change (ns) of a file that a conversion reads.
struct Stamp {
  std::string path;
  std::uint64_t bytes = 0;
  std::uint64_t changed = 0;
  friend bool operator==(const Stamp&, const Stamp&) = default;
};

/// Collective. The stamps of all files of the source and of those that travel along.
std::vector<Stamp> stamps_of(const Comm& comm, const Prepared& prepared);

/// What two runs have in common when one can go on with what the other wrote: the source's stamps,
/// and where every element comes from and goes to. JSON of one line.
std::string identity_of(const Prepared& prepared, const std::vector<Stamp>& stamps);

/// Error(input) with the first file that is not as it was.
void check_unchanged(const std::vector<Stamp>& before, const std::vector<Stamp>& after);

}  // namespace reshard::mpi
