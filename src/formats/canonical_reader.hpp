#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/box.hpp"
#include "formats/dialect/source.hpp"
#include "formats/source_reader.hpp"

namespace reshard::formats {

/// Reads canonical tensors of a source, whatever the files' layout: boxes, row-major, in the stored
/// dtype and without regard to Source::adds.
class CanonicalReader {
 public:
  /// The source's replicas must have been found (find_replicas); it must outlive this.
  explicit CanonicalReader(const Source& source);

  /// Fills `to` with a box of a canonical tensor; Error(input) when the files lack some of it.
  void read(std::uint32_t tensor, const Box& box, std::span<std::byte> to);
  /// Fills `to` with a box that lies in the placement of one piece.
  void read_piece(const SourcePiece& piece, const Box& box, std::span<std::byte> to);

 private:
  const Source& source_;
  SourceReader reader_;
  std::vector<std::vector<std::uint32_t>> pieces_;  ///< of each canonical tensor; no replicas
};

/// The request for the elements of `part`, which lies in a piece, to their place in a row-major
/// `box` at `to`.
ReadRequest request_for(const SourcePiece& piece, const Box& part, const Box& box, std::byte* to);
/// A box cut into boxes of at most `elements` each, ascending; runs along the last dimensions stay
/// whole as far as they fit.
std::vector<Box> cut_box(const Box& box, std::uint64_t elements);
/// The box of a whole tensor.
Box whole(const CanonicalTensor& tensor);

}  // namespace reshard::formats
