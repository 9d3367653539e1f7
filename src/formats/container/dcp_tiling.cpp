#include <algorithm>

#include "core/error.hpp"
#include "formats/container/dcp.hpp"

namespace reshard::formats {
namespace {

/// Writers cut tensors along their dimensions, one after another: deeper or wilder is no
/// checkpoint, and would take time that grows with the square of the chunks.
constexpr int most_levels = 16;
constexpr std::size_t most_pairs = 2000;

using Chunks = std::span<const DcpChunk*>;

std::uint64_t end_of(const DcpChunk& chunk, std::size_t d) {
  return chunk.offset[d] + chunk.shape[d];
}

std::string text_of(const DcpChunk& chunk) {
  return to_string(chunk.shape) + " at " + to_string(chunk.offset);
}

bool overlap(const DcpChunk& a, const DcpChunk& b) {
  for (std::size_t d = 0; d < a.offset.size(); ++d) {
    if (a.offset[d] >= end_of(b, d) || b.offset[d] >= end_of(a, d)) return false;
  }
  return true;
}

/// Splits chunks where a plane across dimension d runs through none of them; leaves them sorted.
std::vector<Chunks> slabs(Chunks chunks, std::size_t d) {
  std::sort(chunks.begin(), chunks.end(),
            [d](const DcpChunk* a, const DcpChunk* b) { return a->offset[d] < b->offset[d]; });
  std::vector<Chunks> found;
  std::size_t first = 0;
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (i > first && chunks[i]->offset[d] >= end) {
      found.push_back(chunks.subspan(first, i - first));
      first = i;
    }
    end = std::max(end, end_of(*chunks[i], d));
  }
  found.push_back(chunks.subspan(first));
  return found;
}

/// Whether one plane across dimension d runs through all chunks, so that none can part them.
bool share_plane(Chunks chunks, std::size_t d) {
  std::uint64_t last_begin = 0, first_end = ~std::uint64_t{0};
  for (const DcpChunk* chunk : chunks) {
    last_begin = std::max(last_begin, chunk->offset[d]);
    first_end = std::min(first_end, end_of(*chunk, d));
  }
  return last_begin < first_end;
}

/// Error(input) when two of the chunks overlap.
void check_disjoint(Chunks chunks, int level) {
  if (chunks.size() == 1) return;
  if (level < most_levels) {
    for (std::size_t d = 0; d < chunks.front()->offset.size(); ++d) {
      if (share_plane(chunks, d)) continue;
      const std::vector<Chunks> parts = slabs(chunks, d);
      if (parts.size() == 1) continue;
      for (const Chunks& part : parts) check_disjoint(part, level + 1);
      return;
    }
  }
  // No plane parts them: they overlap, or lie like the vanes of a pinwheel.
  for (std::size_t i = 0; i < std::min(chunks.size(), most_pairs); ++i) {
    for (std::size_t j = i + 1; j < std::min(chunks.size(), most_pairs); ++j) {
      if (!overlap(*chunks[i], *chunks[j])) continue;
      throw Error(Kind::input,
                  "its chunks " + text_of(*chunks[i]) + " and " + text_of(*chunks[j]) + " overlap");
    }
  }
  if (chunks.size() > most_pairs) {
    throw Error(Kind::input, std::to_string(chunks.size()) + " of its chunks overlap, or lie in " +
                                 "no order that a writer would choose");
  }
}

}  // namespace

void check_tiling(const std::vector<DcpChunk>& chunks, const Shape& shape) {
  std::uint64_t covered = 0;
  std::vector<const DcpChunk*> full;
  for (const DcpChunk& chunk : chunks) {
    bool inside = chunk.offset.size() == shape.size() && chunk.shape.size() == shape.size();
    for (std::size_t d = 0; inside && d < shape.size(); ++d) {
      inside = chunk.offset[d] <= shape[d] && chunk.shape[d] <= shape[d] - chunk.offset[d];
    }
    if (!inside) {
      throw Error(Kind::input,
                  "its chunk " + text_of(chunk) + " does not lie in its shape " + to_string(shape));
    }
    const std::uint64_t size = elements(chunk.shape);
    covered = checked_sum(covered, size);
    if (size > 0) full.push_back(&chunk);
  }
  if (!full.empty()) check_disjoint(full, 0);
  if (covered != elements(shape)) {
    throw Error(Kind::input, "its chunks hold " + std::to_string(covered) + " elements, wanted " +
                                 std::to_string(elements(shape)) + " of shape " + to_string(shape));
  }
}

}  // namespace reshard::formats
