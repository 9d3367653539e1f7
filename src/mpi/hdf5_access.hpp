#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/geometry.hpp"
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

/// Writes the tiles of a target's filtered files, which HDF5's library packs: all ranks call it
/// with the same datasets in the same order, from the thread that MPI runs on.
class FilteredWriter {
 public:
  /// Collective. Opens the files, which were created; all arguments must outlive this.
  FilteredWriter(const Comm& comm, const Geometry& geometry, const formats::Target& target,
                 const formats::TargetWriter& writer);

  using TileBytes = formats::TargetWriter::TileBytes;
  /// Collective. Writes this rank's tiles; those of other files are left alone.
  void write(std::span<const TileBytes> tiles);
  /// Collective. Finishes the files.
  void close();

 private:
  struct Part {
    std::uint32_t target = 0;  ///< index into Geometry::tensors
    std::uint64_t first = 0;   ///< element
    std::span<const std::byte> bytes;
  };
  [[nodiscard]] std::vector<Part> parts_of(std::span<const TileBytes> tiles) const;

  const Comm& comm_;
  const Geometry& geometry_;
  Hdf5Access access_;
  std::map<std::uint32_t, formats::Hdf5Spec> specs_;  ///< by number of the file
  std::map<std::uint32_t, std::unique_ptr<formats::Hdf5Tensors>> files_;
};

/// Whether a target has files that FilteredWriter writes.
bool has_filtered(const formats::Target& target);

}  // namespace reshard::mpi
