#pragma once

#include <cstdint>
#include <vector>

#include "core/shape.hpp"

namespace reshard {

/// How a file holds a tensor in chunks: boxes of one extent in a grid over its shape, each packed
/// by filters and at a place of its own. Chunks at the tensor's border are as large as all others.
struct Chunking {
  enum class Filter : std::uint8_t {
    shuffle,     ///< first bytes of all elements, then all second ones, ...
    deflate,     ///< a zlib stream
    fletcher32,  ///< a checksum of 4 bytes behind
  };
  struct Place {
    std::uint64_t offset = 0, bytes = 0;  ///< in the file
    std::uint32_t skipped = 0;            ///< bit i: filter i was not applied to this chunk
    friend bool operator==(const Place&, const Place&) = default;
  };
  Shape shape, extent;          ///< of the tensor and of a chunk, in elements
  std::uint64_t width = 0;      ///< bytes of an element
  std::vector<Filter> filters;  ///< in the order in which a writer applies them
  std::vector<Place> places;    ///< of all chunks, row-major over the grid
  friend bool operator==(const Chunking&, const Chunking&) = default;
};

}  // namespace reshard
