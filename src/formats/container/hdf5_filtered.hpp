#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "formats/container/hdf5_layout.hpp"

// Our files with datasets in chunks that pass a filter: where a chunk lies is known only when all
// before it are packed. So HDF5's library writes them, all ranks together where its lists are those
// of a parallel file, and tiles are cut from a layout of the tensors alone, at borders of chunks.
//
// Each chunk has a place before the first is written: a byte, or for one that reaches over the
// border of its tensor, of which the library reads the old content, zeros. Else the library gives
// chunks their places itself when a parallel file is opened, and fills them in one call, which is
// all bytes twice and more than the 2 GiB that MPI can write at once; chunks without a place it
// takes for one chunk. As all places are given in the order of the chunks, the file has the same
// bytes at any number of ranks.

namespace reshard::formats {

/// How the datasets of a file are packed.
struct Hdf5Packing {
  static constexpr std::uint64_t most_chunk_bytes = std::uint64_t{16} << 20;
  static constexpr std::uint64_t most_chunks = std::uint64_t{1} << 21;  ///< as many are read
  std::string filter;  ///< "deflate" (after a shuffle of bytes), "fletcher32"; empty: contiguous
  std::uint64_t chunk_bytes = std::uint64_t{1} << 20;  ///< of a chunk, at most, before the filter
};

/// Error(usage) unless this HDF5 has the filter and reshard can undo it.
void check_hdf5_filter(const std::string& filter);

/// The tensors' elements one behind the other, each tensor at a multiple of 16, and borders of
/// tiles: of whole chunks, those of a tensor in one box. No other bytes.
FileLayout hdf5_filtered_layout(const Hdf5Spec& spec, const Hdf5Packing& packing);

/// Extents of a tensor's chunks: whole rows of it, of some dimension. Empty for a tensor that
/// cannot have chunks: a scalar, and one without elements.
Shape hdf5_chunk_of(const Hdf5Spec::Tensor& tensor, const Hdf5Packing& packing);

/// The elements of a tensor that a chunk holds, row-major numbers; in the chunk they come first.
struct ChunkElements {
  std::uint64_t first = 0, count = 0;
};
ChunkElements elements_of_chunk(const Shape& shape, const Shape& chunk, std::uint64_t number);
/// The number of the chunk that holds an element.
std::uint64_t chunk_holding(const Shape& shape, const Shape& chunk, std::uint64_t element);

/// The bytes of a file that travels in the file.
std::string content_of(const Hdf5Spec::Content& content);

/// Creates a file with all but the tensors' data. By one process.
void create_filtered_hdf5(const std::string& path, const Hdf5Spec& spec,
                          const Hdf5Packing& packing);
/// Puts the digests into a file that is whole otherwise. By one process.
void put_hdf5_digests(const std::string& path, const Hdf5Spec& spec, const Hdf5Digests& digests);
/// Holds all of a file but the tensors' data against its description; `digests`: nullptr if none
/// were put in. Error(verification) names what differs. By one process.
void check_filtered_hdf5(const std::string& path, const Hdf5Spec& spec, const Hdf5Packing& packing,
                         const Hdf5Digests* digests);

/// HDF5's property lists (hid_t) for a file and for transfers; 0 are the library's own, of a file
/// that one process has alone.
struct Hdf5Lists {
  std::int64_t access = 0, transfer = 0;
};

/// Writes elements of tensors through HDF5's library. One thread at a time; with lists of a
/// parallel file all that opens, writes or closes is called by all ranks.
class Hdf5Tensors {
 public:
  /// Opens a file of that description, which must outlive this.
  Hdf5Tensors(const std::string& path, const Hdf5Spec& spec, const Hdf5Packing& packing,
              Hdf5Lists lists = {});
  Hdf5Tensors(const Hdf5Tensors&) = delete;
  Hdf5Tensors& operator=(const Hdf5Tensors&) = delete;
  ~Hdf5Tensors();

  /// Prepares to write elements of a tensor, whole chunks that make up a box; count 0: to take part
  /// without any.
  void select(std::uint32_t tensor, std::uint64_t first, std::uint64_t count);
  /// Writes what was selected.
  void write(std::span<const std::byte> from);
  /// Brings all to the disk and closes the file.
  void close();
  /// Leaves the file open for ever, for who closed it would wait for other ranks.
  void abandon();

 private:
  void release();

  const Hdf5Spec* spec_;
  Hdf5Packing packing_;
  Hdf5Lists lists_;
  /// Identifiers of HDF5's (hid_t), -1 for none.
  std::int64_t file_ = -1, dataset_ = -1, memory_ = -1, selected_ = -1;
  std::uint32_t opened_ = ~std::uint32_t{0};  ///< the tensor whose dataset is open
};

}  // namespace reshard::formats
