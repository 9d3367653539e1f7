#pragma once

#include <vector>

#include "core/moved.hpp"
#include "formats/manifest.hpp"
#include "mpi/comm.hpp"
#include "mpi/filtered_files.hpp"
#include "mpi/prepare.hpp"

namespace reshard::mpi {

/// Where the tensors of a target's files lie.
std::vector<formats::FileExtents> extents_of(const Geometry& geometry,
                                             const FilteredFiles& filtered);

/// Collective. Digests of a few blocks of each file of the source, by its stamp: they tell another
/// model of the same sizes.
std::vector<Digest> samples_of(const Comm& comm, const Prepared& prepared);

/// The manifest of a conversion, without digests of what it wrote.
formats::Manifest describe_manifest(const Prepared& prepared, const Wish& wish,
                                    const std::vector<Digest>& samples,
                                    const FilteredFiles& filtered);
/// Adds what a verified conversion has proven: the digests of what was moved, summed over ranks,
/// and the sums of the files' bytes.
void prove(formats::Manifest& manifest, const Geometry& geometry, const Moved& moved,
           const formats::ByteSums& sums);

/// Whether any value of a canonical tensor is another in the target than in the source: other
/// dtype, other constant; by tensor.
std::vector<bool> changed_tensors(const Geometry& geometry);

/// What is under the target's name.
enum class Earlier : std::uint64_t {
  other,     ///< nothing, or not what the conversion would write
  same,      ///< its manifest is proven and names the same source and options, its files have their
             ///< sizes, and no file of the source was written since
  doubtful,  ///< the same, but files of the source were put there since, with older times
};
/// Collective.
Earlier earlier_conversion(const Comm& comm, const Prepared& prepared, const Wish& wish);

}  // namespace reshard::mpi
