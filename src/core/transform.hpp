#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/dtype.hpp"

namespace reshard {

/// Copies a box of elements (1, 2, 4, 8 or 16 bytes) between two strided layouts, same bits always;
/// strides in elements; the two must not overlap. Error(internal) for other sizes or unequal ranks.
void copy_strided(std::byte* to, std::span<const std::uint64_t> to_strides, const std::byte* from,
                  std::span<const std::uint64_t> from_strides,
                  std::span<const std::uint64_t> extents, std::uint64_t element_bytes);

/// Whether `cast` knows the type: f64, f32, f16, bf16.
bool is_castable(Dtype dtype);
/// Converts `count` contiguous elements among castable types; Error(input) for other pairs.
///
/// Our rule, the same bits on every libtorch and for every cut of a range: round to nearest, ties
/// to even; overflow gives infinity; subnormals are kept; every NaN becomes the target's positive
/// quiet NaN without payload (f16 7e00, bf16 7fc0, f32 7fc00000, f64 7ff8000000000000). f64 reaches
/// f16 and bf16 by way of f32, as torch does. Equal types are copied bit for bit, NaN included.
void cast(std::byte* to, Dtype to_dtype, const std::byte* from, Dtype from_dtype,
          std::uint64_t count);

/// Loads libtorch (about half a second), which otherwise the first cast does; Error(io) when it
/// cannot be loaded. Casts need it, copies do not.
void load_casts();

/// Adds `value` to `count` contiguous elements in place: computed in f32 (`value` rounded to it;
/// f64 for f64), rounded once to the type, NaN as in cast. Error(input) for types that cast lacks.
void add_constant(std::byte* data, Dtype dtype, std::uint64_t count, double value);

}  // namespace reshard
