#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/digest.hpp"
#include "core/geometry.hpp"

namespace reshard::formats {

/// What a file holds for the proof of its bytes: where tensors lie; all else is headers, padding
/// between tensors and trailers.
struct FileExtents {
  /// Bytes of one tensor: all of them, or a chunk.
  struct Part {
    ByteRange range;
    std::uint32_t tensor = 0;  ///< number within the file
    std::uint64_t before = 0;  ///< bytes of the tensor in the parts before this one
  };
  std::uint64_t bytes = 0;       ///< of the file
  std::uint32_t tensors = 0;     ///< how many
  std::vector<Part> parts = {};  ///< ascending, apart, within the file

  /// Adds a tensor that lies in these ranges, one behind the other.
  void add(std::span<const ByteRange> ranges);
  /// Brings the parts into their order once all are added.
  void sort();
};

/// Of each tensor the digest of its bytes as the file has them (Digest, elements of one byte); of
/// each file the CRC-32 of the bytes that are no tensor's, one behind the other. Those of parts add
/// up, in any order.
struct ByteSums {
  std::vector<Digest> tensors;        ///< file by file
  std::vector<std::uint32_t> others;  ///< by file
  ByteSums& operator+=(const ByteSums& more);
};

/// ByteSums over files whose extents are known.
class FileSums {
 public:
  explicit FileSums(std::vector<FileExtents> files);

  [[nodiscard]] const std::vector<FileExtents>& files() const { return files_; }
  /// Number in ByteSums::tensors of a file's first tensor.
  [[nodiscard]] std::size_t first_tensor(std::size_t file) const { return places_[file].first; }
  /// Bytes of a file that are no tensor's.
  [[nodiscard]] std::uint64_t other_bytes(std::size_t file) const { return places_[file].others; }
  /// ByteSums of no byte yet.
  [[nodiscard]] ByteSums none() const;
  /// Adds the bytes of a file that begin at `offset`.
  void add(std::size_t file, std::uint64_t offset, std::span<const std::byte> bytes,
           ByteSums& sums) const;

 private:
  struct Place {
    std::size_t first = 0;
    std::uint64_t others = 0;
    std::vector<std::uint64_t> before;  ///< other bytes before each part
  };
  std::vector<FileExtents> files_;
  std::vector<Place> places_;
  std::size_t tensors_ = 0;
};

}  // namespace reshard::formats
