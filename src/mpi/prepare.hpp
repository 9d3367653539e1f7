#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/geometry.hpp"
#include "formats/dialect/dialect.hpp"
#include "formats/staging.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// A conversion that is to be: source, target and whether the latter may be replaced.
struct Wish {
  const formats::SourceOptions& source;
  const formats::TargetOptions& target;
  bool overwrite = false;
  bool resume = false;  ///< an unfinished one, whose unit may have got its name
};

/// Size and times (ns) of a file that a conversion reads.
struct Stamp {
  std::string path;
  std::uint64_t bytes = 0;
  std::uint64_t changed = 0;  ///< last written
  std::uint64_t placed = 0;   ///< or put there, renamed, given other rights
  /// Whether it is as it was written.
  friend bool operator==(const Stamp& a, const Stamp& b) {
    return a.path == b.path && a.bytes == b.bytes && a.changed == b.changed;
  }
};

/// Everything that is known before a byte moves.
struct Prepared {
  formats::Source source;
  formats::Target target;
  std::vector<formats::FileLayout> layouts;
  Geometry geometry;
  formats::Staging staging;  ///< where the target will grow; not made yet
  std::vector<Stamp> stamps;
  bool is_converted = false;  ///< the target is there already, proven, of the same source
};

/// Collective. Phases 1 to 3, with all that headers can refuse in one message, and whether the
/// target may be written. `done(phase)` is called at the end of each.
Prepared prepare(const Comm& comm, const Wish& wish,
                 const std::function<void(const std::string& phase)>& done);

/// What reports of a conversion and of its plan both tell.
struct ConversionFacts {
  std::string from, to, family, unit;  ///< unit: path of what is published
  formats::Parallelism source_parallelism, target_parallelism;
  std::uint64_t tensors = 0, parameters = 0, target_bytes = 0, tile_bytes = 0;
  bool already = false;  ///< the unit is there, as it would be written
  std::vector<std::string> warnings, dropped, notes;
};
ConversionFacts facts_of(const Prepared& prepared, const Wish& wish);

}  // namespace reshard::mpi
