#include "formats/canonical_reader.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/strides.hpp"

namespace reshard::formats {
ReadRequest request_for(const SourcePiece& piece, const Box& part, const Box& box, std::byte* to) {
  const std::uint64_t width = bytes(piece.dtype);
  const Dims stride = packed_strides(box.extent);
  const std::uint64_t ahead = element_at(part.offset, stride) - element_at(box.offset, stride);
  return {piece.file,
          piece.base + position(piece.placement, part) * width,
          part.extent,
          piece.placement.stride,
          stride,
          width,
          to + ahead * width};
}

CanonicalReader::CanonicalReader(const Source& source)
    : source_(source),
      reader_(source.found.unit, source.files, 1, 0),
      pieces_(source.model.tensors().size()) {
  for (std::uint32_t i = 0; i < source.pieces.size(); ++i) {
    const SourcePiece& piece = source.pieces[i];
    if (piece.replica_of == SourcePiece::no_replica) pieces_[piece.placement.tensor].push_back(i);
  }
}

void CanonicalReader::read(std::uint32_t tensor, const Box& box, std::span<std::byte> to) {
  std::vector<ReadRequest> requests;
  std::uint64_t found = 0;
  for (const std::uint32_t i : pieces_[tensor]) {
    const SourcePiece& piece = source_.pieces[i];
    const std::optional<Box> part = intersect(piece.placement.box, box);
    if (!part) continue;
    found += part->elements();
    requests.push_back(request_for(piece, *part, box, to.data()));
  }
  if (found != box.elements()) {
    throw Error(Kind::input, source_.model[tensor].role + ": " + std::to_string(found) + " of " +
                                 std::to_string(box.elements()) + " elements are in the files of " +
                                 source_.found.unit);
  }
  reader_.read(requests);
}

void CanonicalReader::read_piece(const SourcePiece& piece, const Box& box,
                                 std::span<std::byte> to) {
  const ReadRequest request = request_for(piece, box, box, to.data());
  reader_.read({&request, 1});
}

std::vector<Box> cut_box(const Box& box, std::uint64_t elements) {
  const std::size_t rank = box.extent.size();
  std::size_t d = rank;  // dimension that is cut: those behind it stay whole, those before are 1
  std::uint64_t inner = 1;
  while (d > 0 && inner * box.extent[d - 1] <= elements) inner *= box.extent[--d];
  if (d == 0) return {box};
  const std::size_t cut = d - 1;
  const std::uint64_t step = std::max<std::uint64_t>(elements / inner, 1);
  std::vector<Box> boxes;
  Box part = box;
  for (std::size_t i = 0; i < cut; ++i) part.extent[i] = 1;
  for (bool more = true; more;) {
    for (std::uint64_t at = 0; at < box.extent[cut]; at += step) {
      part.offset[cut] = box.offset[cut] + at;
      part.extent[cut] = std::min(step, box.extent[cut] - at);
      boxes.push_back(part);
    }
    std::size_t i = cut;
    while (i > 0 && ++part.offset[i - 1] == box.offset[i - 1] + box.extent[i - 1]) {
      part.offset[i - 1] = box.offset[i - 1];
      --i;
    }
    more = i > 0;
  }
  return boxes;
}

Box whole(const CanonicalTensor& tensor) {
  Box box;
  for (const std::uint64_t n : tensor.shape) {
    box.offset.push_back(0);
    box.extent.push_back(n);
  }
  return box;
}

}  // namespace reshard::formats
