#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/digest.hpp"
#include "core/geometry.hpp"
#include "core/plan.hpp"
#include "formats/file_sums.hpp"
#include "formats/source_reader.hpp"
#include "formats/target_writer.hpp"
#include "mpi/comm.hpp"
#include "mpi/filtered_files.hpp"

namespace reshard::mpi {

/// Collective. Sums over ranks, element by element, in place.
void sum(const Comm& comm, std::vector<Digest>& digests);
void sum(const Comm& comm, formats::ByteSums& sums);

/// A target whose files are whole.
struct Written {
  const Geometry& geometry;
  const formats::Target& target;
  const Sums& sums;  ///< of what was sent
  const formats::TargetWriter& writer;
  const FilteredFiles& filtered;
  formats::FileSums files;
};

/// Collective. Reads a target back, every byte once, on another rank than wrote it, and holds it
/// against the digests of what was sent, the fill and the bytes that are no tensor data.
/// Error(verification) names file and tensor. Returns the sums of all that was read.
formats::ByteSums verify(const Comm& comm, const Written& written, const Plan& plan,
                         std::uint64_t threads, const std::function<void()>& check_stop);

}  // namespace reshard::mpi
