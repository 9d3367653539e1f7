#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/box.hpp"
#include "core/buffer.hpp"
#include "core/geometry.hpp"
#include "formats/container/hdf5_chunks.hpp"
#include "formats/file.hpp"
#include "formats/kept_ranges.hpp"

namespace reshard::formats {

/// A strided box of elements to be read from a source file into memory.
struct ReadRequest {
  std::uint32_t file = 0;
  std::uint64_t first = 0;  ///< byte of the file with the box's first element
  Dims extent;
  Dims from_stride;         ///< in elements, in the file
  Dims to_stride;           ///< in elements, in memory
  std::uint64_t width = 0;  ///< bytes of an element
  std::byte* to = nullptr;
  std::uint64_t others = 0;  ///< requests that ask for the same bytes, sooner or later
};

/// Reads boxes from the source's files, each byte once: neighbouring ranges are read together, a
/// box that is contiguous in file and memory goes straight where it belongs, and what will be asked
/// for again is kept while it fits.
class SourceReader {
 public:
  /// Files lie in `folder`; opened when first needed and kept open while they are few. `threads`
  /// read at once; at most `keeps` bytes are kept from one read to the next.
  SourceReader(std::string folder, const std::vector<SourceFile>& files, std::uint64_t threads,
               std::uint64_t keeps)
      : folder_(std::move(folder)), files_(&files), threads_(threads), kept_(keeps) {}

  void read(std::span<const ReadRequest> requests);
  /// Path of the file that was begun last; any thread may ask.
  [[nodiscard]] std::string busy_with() const { return folder_ + "/" + (*files_)[busy_with_].path; }
  [[nodiscard]] std::uint64_t bytes_read() const { return bytes_read_; }

 private:
  struct Piece {
    std::uint32_t file = 0;
    std::uint64_t first = 0;
    std::span<std::byte> to;
  };
  void read_pieces(std::span<const Piece> pieces);
  void read_piece(const Piece& piece);

  std::string folder_;
  const std::vector<SourceFile>* files_;
  std::uint64_t threads_;
  std::map<std::uint32_t, File> open_;
  ChunkReader chunks_;
  std::atomic<std::uint32_t> busy_with_ = 0;
  Buffer staging_;
  KeptRanges kept_;
  std::uint64_t bytes_read_ = 0;
};

}  // namespace reshard::formats
