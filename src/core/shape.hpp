#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace reshard {

/// Extents of a tensor, slowest dimension first; empty for a scalar.
using Shape = std::vector<std::uint64_t>;

/// a * b; Error(input) when it does not fit 64 bits.
std::uint64_t checked_product(std::uint64_t a, std::uint64_t b);
/// a + b; Error(input) when it does not fit 64 bits.
std::uint64_t checked_sum(std::uint64_t a, std::uint64_t b);
/// Number of elements; Error(input) on overflow, also behind a dimension of 0.
std::uint64_t elements(const Shape& shape);
/// Row-major strides in elements.
std::vector<std::uint64_t> row_major(const Shape& shape);
/// "[4, 24]"
std::string to_string(const Shape& shape);

}  // namespace reshard
