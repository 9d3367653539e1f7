#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/chunking.hpp"
#include "core/model.hpp"

namespace reshard {

/// A placement of a source file's stored tensor, ready to be read.
struct SourcePiece {
  Placement placement;     ///< offset and strides in elements of the file's memory
  std::uint32_t file = 0;  ///< index into Geometry::sources
  std::uint64_t base = 0;  ///< byte in the file of element 0
  Dtype dtype = Dtype::f32;
  double add = 0;                         ///< stored value = canonical value + add
  std::uint32_t original = 0;             ///< index of the uncut piece, by which digests are summed
  std::uint32_t replica_of = no_replica;  ///< original index of the piece that is read instead
  std::string name;                       ///< of the stored tensor, for messages; empty when cut

  static constexpr std::uint32_t no_replica = ~std::uint32_t{0};
};

/// Numbers uncut pieces and finds replicas: the first piece to hold a box of a tensor is read, the
/// others are its replicas.
void find_replicas(std::vector<SourcePiece>& pieces);

/// A stored tensor of a target file: row-major, contiguous.
struct TargetTensor {
  std::uint32_t file = 0;             ///< index into Geometry::targets
  std::uint64_t base = 0;             ///< byte in the file of its first element
  std::uint64_t bytes = 0;            ///< of the whole tensor
  StoredTensor stored;                ///< name, shape, dtype, placements
  std::uint32_t number = 0;           ///< which of its file's described tensors it is
  std::vector<bool> primary;          ///< a placement: first to hold its box; later ones are copies
  std::uint32_t first_placement = 0;  ///< global number of placement 0, by which digests are summed
};

struct SourceFile {
  std::string path;
  std::uint64_t bytes = 0;
  std::vector<std::byte> content = {};  ///< of one that is in memory, not on disk
  /// Of one that is a tensor, row-major, which the file at `path` holds in chunks.
  std::shared_ptr<const Chunking> chunks = {};
};

struct TargetFile {
  std::string path;  ///< relative to the unit of publication
  std::uint64_t bytes = 0;
  std::vector<std::uint32_t> tensors;  ///< indices into Geometry::tensors, ascending by base
  /// Where its tiles begin and the last one ends, when that is not at multiples of tile_bytes: the
  /// tensors' data is packed, and a tile is what can be packed by itself. Such a file's tiles are
  /// worked on in their order (Plan::in_order).
  std::vector<std::uint64_t> borders = {};
};

/// All that a conversion's movement depends on, apart from the number of ranks: where every
/// canonical element lies in the source and in the target.
struct Geometry {
  CanonicalModel model;
  std::vector<SourceFile> sources;  ///< none: a target alone, of made up numbers
  std::vector<SourcePiece> pieces;  ///< uncut; piece i has original i
  std::vector<TargetFile> targets;
  std::vector<TargetTensor> tensors;
  std::uint32_t placements = 0;  ///< of all target tensors together
  std::uint64_t tile_bytes = 0;  ///< see Tile; a power of two, at least 1 MiB

  /// Bytes of the largest tile.
  [[nodiscard]] std::uint64_t most_tile_bytes() const;

  /// Adds what follows from the rest: replicas among the pieces, primary placements, tile size.
  /// Error(input) when an element of a canonical tensor is in no source file, or a target would
  /// lose one; Error(internal) when target placements overlap.
  void complete();
};

/// Unit of work, journal and CRC: the bytes [index * tile_bytes, (index + 1) * tile_bytes) of one
/// target file. Borders are therefore multiples of 1 MiB in the file, whatever the rank count. A
/// file with borders of its own has these instead.
struct Tile {
  std::uint32_t file = 0;
  std::uint32_t index = 0;
  friend auto operator<=>(const Tile&, const Tile&) = default;
};

/// Bytes [first, last) of its file.
struct ByteRange {
  std::uint64_t first = 0, last = 0;
  [[nodiscard]] std::uint64_t size() const { return last - first; }
};
ByteRange bytes_of(const Geometry& geometry, Tile tile);
/// The tensors that lie at least partly in a range of their file, ascending by base.
std::span<const std::uint32_t> tensors_in(const Geometry& geometry, std::uint32_t file,
                                          ByteRange range);
/// Row-major strides of a canonical tensor, in elements.
Dims strides_of(const CanonicalTensor& tensor);

/// Number of all tiles, and the tile with a number; tiles are numbered file by file.
class TileNumbers {
 public:
  explicit TileNumbers(const Geometry& geometry);
  [[nodiscard]] std::uint64_t size() const { return first_.back(); }
  [[nodiscard]] Tile operator[](std::uint64_t number) const;
  [[nodiscard]] std::uint64_t number(Tile tile) const { return first_[tile.file] + tile.index; }
  /// Number of a file's first tile; of a file one behind the last: size().
  [[nodiscard]] std::uint64_t first(std::uint32_t file) const { return first_[file]; }
  [[nodiscard]] std::uint32_t files() const {
    return static_cast<std::uint32_t>(first_.size() - 1);
  }

 private:
  std::vector<std::uint64_t> first_;
};

}  // namespace reshard
