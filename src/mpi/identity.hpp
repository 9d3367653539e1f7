#pragma once

#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "mpi/comm.hpp"
#include "mpi/prepare.hpp"

namespace reshard::mpi {

/// Collective. The stamps of all files of the source and of those that travel along.
std::vector<Stamp> stamps_of(const Comm& comm, const Prepared& prepared);

/// A path as every run spells it: absolute, without links.
std::string full_path(const std::string& path);
/// A time of a file in ns.
std::uint64_t nanoseconds(const timespec& time);

/// Digest of all that decides a target's bytes but the numbers of the source: options, tables,
/// headers, where every element comes from and goes to.
std::string movement_of(const Prepared& prepared);

/// What two runs have in common when one can go on with what the other wrote: the source's stamps,
/// and where every element comes from and goes to. JSON of one line.
std::string identity_of(const Prepared& prepared);

/// Error(input) with the first file that is not as it was.
void check_unchanged(const std::vector<Stamp>& before, const std::vector<Stamp>& after);

}  // namespace reshard::mpi
