#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.hpp"

namespace reshard {

/// The one function of the cast module, a shared library that is loaded when the first value must
/// change its dtype: most conversions change none, and libtorch is hundreds of megabytes that every
/// process would read at start. Converts contiguous elements among f64, f32, f16 and bf16 as
/// libtorch does; the bits of NaN are left to the caller.
using CastFunction = void (*)(std::byte* to, Dtype to_dtype, std::byte* from, Dtype from_dtype,
                              std::uint64_t count);
inline constexpr const char* cast_module = "libreshard_aten.so";
inline constexpr const char* cast_symbol = "reshard_cast";

}  // namespace reshard
