#pragma once

#include <cstdint>
#include <span>

#include "core/box.hpp"

namespace reshard {

/// Row-major strides of a box of these extents, in elements.
inline Dims packed_strides(const Dims& extent) {
  Dims stride(extent.size());
  std::uint64_t product = 1;
  for (std::size_t d = extent.size(); d-- > 0;) {
    stride[d] = product;
    product *= extent[d];
  }
  return stride;
}

/// Element of a tensor with these strides that has this index, one number a dimension.
inline std::uint64_t element_at(const Dims& index, const Dims& stride) {
  std::uint64_t element = 0;
  for (std::size_t d = 0; d < stride.size(); ++d) element += index[d] * stride[d];
  return element;
}

inline std::span<const std::uint64_t> view(const Dims& dims) {
  return {dims.begin(), dims.end()};
}

}  // namespace reshard
