#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/geometry.hpp"
#include "core/moved.hpp"
#include "formats/dialect/target.hpp"
#include "formats/file.hpp"

namespace reshard::formats {

/// The files of a target in their staging folder, written tile by tile (see Tile).
class TargetWriter {
 public:
  /// All arguments must outlive this; `threads` write at once.
  TargetWriter(std::string staging, const Geometry& geometry, const Target& target,
               const std::vector<FileLayout>& layouts, std::uint64_t threads);

  /// Creates a file at its final size, with the folders above it; one that is there already, of an
  /// earlier run, keeps its content. A filtered one gets all but its tensors' data, anew.
  void create(std::uint32_t file) const;
  /// Opens a file for reading.
  [[nodiscard]] File reopen(std::uint32_t file) const;
  /// Puts what is no tensor data into a tile's bytes: literals and copied files.
  void put_other_bytes(Tile tile, std::span<std::byte> bytes) const;
  struct TileBytes {
    Tile tile;
    std::span<const std::byte> bytes;
  };
  /// Writes tiles, but not those of filtered files, and adds the checksums of the tensors in them
  /// to `crcs` (by tensor, XOR).
  void write(std::span<const TileBytes> tiles, std::span<std::uint32_t> crcs);
  /// Writes the part of a file's trailer that lies in tiles [first, last) of it.
  void write_trailer(std::uint32_t file, std::uint32_t first, std::uint32_t last, const Sums& sums);
  /// Finishes a filtered file, whose data all ranks have written and closed.
  void seal_filtered(std::uint32_t file, const Sums& sums) const;
  /// Holds a filtered file but for its data against what was to be written (Error(verification)),
  /// and says where the data lies.
  [[nodiscard]] FileIndex check_filtered(std::uint32_t file, const Sums& sums) const;
  using Trailer = std::vector<FileLayout::Literal>;
  /// The trailer's bytes, for a file whose sums are known; the last is kept. Any thread may ask.
  [[nodiscard]] std::shared_ptr<const Trailer> trailer(std::uint32_t file, const Sums& sums) const;
  /// fsync of every file that this writer wrote.
  void sync() const;
  /// The same; they are closed, and their cached pages given up.
  void finish();
  /// Path of the file that was begun last; any thread may ask.
  [[nodiscard]] std::string busy_with() const { return path(busy_with_); }
  [[nodiscard]] std::uint64_t bytes_written() const { return bytes_written_; }
  [[nodiscard]] std::string path(std::uint32_t number) const;

 private:
  const File& file(std::uint32_t number);
  void write_tile(const TileBytes& tile, std::span<std::uint32_t> crcs);
  [[nodiscard]] TensorSums sums_of(std::uint32_t number, const Sums& sums) const;

  std::string staging_;
  const Geometry* geometry_;
  const Target* target_;
  const std::vector<FileLayout>* layouts_;
  std::uint64_t threads_;
  std::map<std::uint32_t, File> open_;
  std::mutex crcs_;
  std::atomic<std::uint32_t> busy_with_ = 0;
  std::uint64_t bytes_written_ = 0;
  mutable std::mutex trailer_lock_;
  mutable std::uint32_t trailer_file_ = 0;
  mutable std::shared_ptr<const Trailer> trailer_;  ///< of trailer_file_
};

/// Copies what a literal and a range of its file share into the range's bytes.
void put_literal(const FileLayout::Literal& literal, ByteRange range, std::span<std::byte> bytes);

}  // namespace reshard::formats
