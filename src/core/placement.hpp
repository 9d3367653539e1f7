#pragma once

#include <cstdint>
#include <vector>

#include "core/box.hpp"
#include "core/shape.hpp"

namespace reshard {

/// A box of a canonical tensor inside a stored one: the element at box.offset + i lies at element
/// offset + sum(i[d] * stride[d]) of the stored tensor (DESIGN.md section 1).
struct Placement {
  std::uint32_t tensor = 0;  ///< index of the canonical tensor
  Box box;
  std::uint64_t offset = 0;
  Dims stride;

  friend bool operator==(const Placement&, const Placement&) = default;
};

/// Element of the stored tensor that holds the first element of `box`, which lies in the
/// placement's.
std::uint64_t position(const Placement& placement, const Box& box);
/// The part of a placement that is its intersection with a box; empty extent when there is none.
Placement restrict(const Placement& placement, const Box& box);
/// Elements from the first to one behind the last that the placement touches.
std::uint64_t span(const Placement& placement);
/// Whether strides are nested, so that a flat range cuts the placement into few boxes: each
/// stride is at least the span of all smaller ones.
bool is_nested(const Placement& placement);
/// The parts of a placement whose elements lie in [first, last) of the stored tensor, at most
/// 2 * rank - 1 boxes a side. The placement must be nested.
std::vector<Placement> cut(const Placement& placement, std::uint64_t first, std::uint64_t last);
/// The placement in a tensor of that shape whose elements lie in memory by `strides` instead of
/// row-major: offset and strides become those of the memory. Each of its dimensions must stay
/// within one dimension of the shape: Error(input) otherwise.
Placement in_memory(const Placement& placement, const Shape& shape,
                    const std::vector<std::uint64_t>& strides);

/// The parts of a placement whose elements lie in a box of a stored tensor of that shape; offset
/// and strides are those of the box alone, row-major. As of in_memory, each dimension must stay
/// within one of the shape.
std::vector<Placement> within(const Placement& placement, const Shape& shape, const Box& box);

/// Checks that placements of one stored tensor never overlap and stay inside `size` elements;
/// returns how many elements they cover. Error(internal) names the first element in trouble.
/// Sort-based, n log n in the number of contiguous runs; with more than 4 million runs (layouts
/// that interleave single elements) only counts and bounds are checked, for the notation cannot
/// make an overlap that depends on sizes.
std::uint64_t check_coverage(const std::vector<Placement>& placements, std::uint64_t size);
/// Whether boxes of one tensor cover each element of `shape` at least once; boxes that are
/// neither equal nor disjoint are an Error(input), for then no replica can be told from another.
bool covers(std::vector<Box> boxes, const Shape& shape);

}  // namespace reshard
