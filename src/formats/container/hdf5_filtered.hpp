#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/container/hdf5_layout.hpp"

// Our files with datasets in chunks that pass a filter: their places are known only when all data
// is. So HDF5's library writes them, all ranks together where its lists are those of a parallel
// file; the layout that tiles are cut from is one of the tensors alone.

namespace reshard::formats {

/// HDF5's property lists (hid_t) for a file and for transfers; 0 are the library's own, of a file
/// that one process has alone.
struct Hdf5Lists {
  std::int64_t access = 0, transfer = 0;
};

/// Error(usage) unless this HDF5 has the filter that --hdf5-filter names: "deflate" (after a
/// shuffle of bytes), "fletcher32" (checksums), "zstd".
void check_hdf5_filter(const std::string& filter);

/// The tensors' bytes one behind the other, each at a multiple of 16; no other bytes.
FileLayout hdf5_filtered_layout(const Hdf5Spec& spec);

/// Creates a file with all but the tensors' data. By one process.
void create_filtered_hdf5(const std::string& path, const Hdf5Spec& spec, const std::string& filter);
/// Puts the digests into a file that is whole otherwise. By one process.
void put_hdf5_digests(const std::string& path, const Hdf5Spec& spec, const Hdf5Digests& digests);
/// Holds what is in a file beside the tensors' data against the description: names, dtypes, shapes
/// and the files in it. Error(verification) when it differs.
void check_filtered_hdf5(const std::string& path, const Hdf5Spec& spec);

/// Elements of tensors of a file, in and out through HDF5's library. One thread at a time.
class Hdf5Tensors {
 public:
  /// Opens a file of that description, whose tensors' names are found by number; the description
  /// must outlive this. Collective over the lists' communicator, as all below.
  Hdf5Tensors(const std::string& path, const Hdf5Spec& spec, bool writes, Hdf5Lists lists = {});
  Hdf5Tensors(const Hdf5Tensors&) = delete;
  Hdf5Tensors& operator=(const Hdf5Tensors&) = delete;
  ~Hdf5Tensors();

  /// Writes elements from `first` on; no bytes: takes part without any.
  void write(std::uint32_t tensor, std::uint64_t first, std::span<const std::byte> from);
  /// Fills `to` with elements from `first` on.
  void read(std::uint32_t tensor, std::uint64_t first, std::span<std::byte> to);
  /// Error(io) when what was written cannot be finished.
  void close();

 private:
  const Hdf5Spec* spec_;
  Hdf5Lists lists_;
  std::int64_t file_ = -1;
};

}  // namespace reshard::formats
