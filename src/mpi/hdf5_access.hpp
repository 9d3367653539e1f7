#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/geometry.hpp"
#include "core/plan.hpp"
#include "formats/container/hdf5_filtered.hpp"
#include "formats/dialect/target.hpp"
#include "formats/target_writer.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// HDF5's property lists for a file that all ranks of a communicator have open together: the only
/// place where HDF5 and MPI meet.
class Hdf5Access {
 public:
  /// Error(usage) when this HDF5 was built without MPI.
  explicit Hdf5Access(const Comm& comm);
  Hdf5Access(const Hdf5Access&) = delete;
  Hdf5Access& operator=(const Hdf5Access&) = delete;
  ~Hdf5Access();
  [[nodiscard]] formats::Hdf5Lists lists() const { return lists_; }

 private:
  formats::Hdf5Lists lists_;
};

/// Writes the tiles of a target's filtered files, which HDF5's library packs, from the thread that
/// MPI runs on and in the order of the tiles (Plan::in_order).
///
/// Ranks agree before each collective call of HDF5's, so that none waits in it for one that failed
/// before. One that fails within leaves the others in the library, which has no way out: then the
/// failure is reported and all ranks are ended, as when an exchange fails.
class FilteredWriter {
 public:
  /// Collective. Opens the files, which were created; all arguments must outlive this.
  FilteredWriter(const Comm& comm, const Geometry& geometry, const formats::Target& target,
                 const formats::TargetWriter& writer);

  using TileBytes = formats::TargetWriter::TileBytes;
  /// Collective. Writes what the ranks hold of a round's slots; these are this rank's tiles in
  /// it. Tiles of other files are left alone.
  void write(const Round& round, std::span<const TileBytes> tiles);
  /// Collective. Finishes the files.
  void close();

 private:
  struct Part {
    std::uint64_t first = 0, count = 0;  ///< elements
    std::span<const std::byte> bytes;
  };
  void write_slot(std::uint64_t slot, std::span<const TileBytes> tiles);
  void write_tensor(const TargetTensor& tensor, const Part& part);
  /// Collective. Ends all ranks when one failed within a call that all were in.
  void settle(const std::optional<Error>& failed);
  [[noreturn]] void give_up(const Error& error, bool reports);

  const Comm& comm_;
  const Geometry& geometry_;
  TileNumbers numbers_;
  Hdf5Access access_;
  std::map<std::uint32_t, formats::Hdf5Spec> specs_;  ///< by number of the file
  std::map<std::uint32_t, std::unique_ptr<formats::Hdf5Tensors>> files_;
  /// Of a slot whose ranks get their tiles in several rounds: this rank's, until all have theirs.
  std::vector<std::byte> kept_;
  std::optional<Tile> kept_tile_;
};

/// Whether a target has files that FilteredWriter writes.
bool has_filtered(const formats::Target& target);

}  // namespace reshard::mpi
