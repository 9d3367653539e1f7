#include "core/transform.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "core/cast_module.hpp"
#include "core/error.hpp"

namespace reshard {
namespace {

struct Dimension {
  std::uint64_t extent, to, from;
};

/// The box without extents of 1, by the target's order, neighbours merged where both sides allow.
std::vector<Dimension> simplify(std::span<const std::uint64_t> extents,
                                std::span<const std::uint64_t> to,
                                std::span<const std::uint64_t> from) {
  std::vector<Dimension> sorted, merged;
  for (std::size_t d = 0; d < extents.size(); ++d) {
    if (extents[d] != 1) sorted.push_back({extents[d], to[d], from[d]});
  }
  std::ranges::stable_sort(sorted, std::greater(), &Dimension::to);
  for (const Dimension& inner : sorted) {
    if (!merged.empty() && merged.back().to == inner.to * inner.extent &&
        merged.back().from == inner.from * inner.extent) {
      merged.back() = {merged.back().extent * inner.extent, inner.to, inner.from};
    } else {
      merged.push_back(inner);
    }
  }
  return merged;
}

/// Copies element by element in tiles whose cache lines, a tall stack of the source's and a few of
/// the target's, stay in the first cache also for strides of a power of two. Neighbouring tiles
/// share the source's lines. By value: writes of bytes could change what a reference means. (4096 x
/// 4096 words of 2 bytes: 22 ms, libtorch 1.13's copy_ 38 ms.)
template <class Word, bool contiguous>
void copy_tiles(std::byte* to, const std::byte* from, Dimension rows, Dimension columns) {
  constexpr std::uint64_t height = 16, width = 64;
  if (contiguous) columns.to = 1;  // a constant, so that whole vectors are stored
  for (std::uint64_t c0 = 0; c0 < columns.extent; c0 += width) {
    const std::uint64_t c1 = std::min(columns.extent, c0 + width);
    for (std::uint64_t r0 = 0; r0 < rows.extent; r0 += height) {
      const std::uint64_t r1 = std::min(rows.extent, r0 + height);
      for (std::uint64_t r = r0; r < r1; ++r) {
        for (std::uint64_t c = c0; c < c1; ++c) {
          std::memcpy(to + (r * rows.to + c * columns.to) * sizeof(Word),
                      from + (r * rows.from + c * columns.from) * sizeof(Word), sizeof(Word));
        }
      }
    }
  }
}

void copy_rows(std::byte* to, const std::byte* from, const Dimension& rows,
               const Dimension& columns, std::uint64_t size) {
  for (std::uint64_t r = 0; r < rows.extent; ++r) {
    std::memcpy(to + r * rows.to * size, from + r * rows.from * size, columns.extent * size);
  }
}

/// Copies two dimensions; `columns` is the target's innermost.
template <class Word>
void copy_plane(std::byte* to, const std::byte* from, const Dimension& rows,
                const Dimension& columns) {
  if (columns.to == 1 && columns.from == 1) {
    copy_rows(to, from, rows, columns, sizeof(Word));
  } else if (columns.to == 1) {
    copy_tiles<Word, true>(to, from, rows, columns);
  } else {
    copy_tiles<Word, false>(to, from, rows, columns);
  }
}

using Plane = void (*)(std::byte*, const std::byte*, const Dimension&, const Dimension&);

Plane plane_of(std::uint64_t element_bytes) {
  switch (element_bytes) {
    case 1:
      return copy_plane<std::uint8_t>;
    case 2:
      return copy_plane<std::uint16_t>;
    case 4:
      return copy_plane<std::uint32_t>;
    case 8:
      return copy_plane<std::uint64_t>;
    case 16:
      return copy_plane<std::array<std::uint64_t, 2>>;
    default:
      throw Error(Kind::internal, "copy of elements of " + std::to_string(element_bytes) +
                                      " bytes, wanted 1, 2, 4, 8 or 16");
  }
}

// ------------------------------------------------------------------------------------------ casts

/// Elements a libtorch call: small enough that the passes over them stay in the cache.
constexpr std::uint64_t chunk = 16384;

void check_castable(Dtype dtype) {
  if (dtype == Dtype::f64 || dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16) {
    return;
  }
  throw Error(Kind::input,
              "dtype " + std::string(name(dtype)) + " cannot be cast; F64, F32, F16 and BF16 can");
}

CastFunction load_module() {
  const std::string path = std::string(RESHARD_CAST_FOLDER) + cast_module;
  void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* function = module == nullptr ? nullptr : dlsym(module, cast_symbol);
  if (function == nullptr) {
    throw Error(Kind::io, std::string("values cannot be cast without libtorch: ") + dlerror());
  }
  return reinterpret_cast<CastFunction>(function);
}

CastFunction cast_function() {
  static const CastFunction function = load_module();
  return function;
}

/// Gives every NaN the bits `nan`; `infinity` is the positive one's.
template <class Word>
void set_nan(std::byte* data, std::uint64_t count, Word infinity, Word nan) {
  constexpr auto magnitude = static_cast<Word>(static_cast<Word>(~Word{0}) >> 1);
  for (std::uint64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, data + i * sizeof word, sizeof word);
    word = static_cast<Word>(word & magnitude) > infinity ? nan : word;
    std::memcpy(data + i * sizeof word, &word, sizeof word);
  }
}

void canonicalize_nan(std::byte* data, Dtype dtype, std::uint64_t count) {
  if (dtype == Dtype::f64) {
    set_nan<std::uint64_t>(data, count, 0x7ff0000000000000u, 0x7ff8000000000000u);
  } else if (dtype == Dtype::f32) {
    set_nan<std::uint32_t>(data, count, 0x7f800000u, 0x7fc00000u);
  } else if (dtype == Dtype::f16) {
    set_nan<std::uint16_t>(data, count, 0x7c00u, 0x7e00u);
  } else {
    set_nan<std::uint16_t>(data, count, 0x7f80u, 0x7fc0u);
  }
}

/// At most a chunk, by libtorch, whose NaN differ with its version and the element's place.
void cast_chunk(std::byte* to, Dtype to_dtype, const std::byte* from, Dtype from_dtype,
                std::uint64_t count) {
  cast_function()(to, to_dtype, const_cast<std::byte*>(from), from_dtype, count);
  canonicalize_nan(to, to_dtype, count);
}

template <class Real>
void add_chunk(std::byte* data, Dtype dtype, std::uint64_t count, Real value) {
  constexpr Dtype wide = std::is_same_v<Real, double> ? Dtype::f64 : Dtype::f32;
  alignas(64) std::array<Real, chunk> sums;
  auto* bytes_of_sums = reinterpret_cast<std::byte*>(sums.data());
  cast_chunk(bytes_of_sums, wide, data, dtype, count);
  for (std::uint64_t i = 0; i < count; ++i) sums[i] += value;
  cast_chunk(data, dtype, bytes_of_sums, wide, count);
}

}  // namespace

void load_casts() {
  cast_function();
}

void copy_strided(std::byte* to, std::span<const std::uint64_t> to_strides, const std::byte* from,
                  std::span<const std::uint64_t> from_strides,
                  std::span<const std::uint64_t> extents, std::uint64_t element_bytes) {
  const Plane copy = plane_of(element_bytes);
  if (to_strides.size() != extents.size() || from_strides.size() != extents.size()) {
    throw Error(Kind::internal, "copy between strides of different rank");
  }
  if (std::ranges::find(extents, 0u) != extents.end()) return;

  std::vector<Dimension> box = simplify(extents, to_strides, from_strides);
  Dimension columns = {1, 1, 1}, rows = {1, 1, 1};
  if (!box.empty()) {
    columns = box.back();
    box.pop_back();
  }
  if (!box.empty()) {
    const auto closest = std::ranges::min_element(box, {}, &Dimension::from);
    rows = *closest;
    box.erase(closest);
  }
  std::vector<std::uint64_t> at(box.size());
  for (std::size_t d = 0;;) {
    std::uint64_t to_offset = 0, from_offset = 0;
    for (d = 0; d < box.size(); ++d) {
      to_offset += at[d] * box[d].to;
      from_offset += at[d] * box[d].from;
    }
    copy(to + to_offset * element_bytes, from + from_offset * element_bytes, rows, columns);
    while (d > 0 && ++at[d - 1] == box[d - 1].extent) at[--d] = 0;
    if (d == 0) return;
  }
}

bool is_castable(Dtype dtype) {
  return dtype == Dtype::f64 || dtype == Dtype::f32 || dtype == Dtype::f16 || dtype == Dtype::bf16;
}

void cast(std::byte* to, Dtype to_dtype, const std::byte* from, Dtype from_dtype,
          std::uint64_t count) {
  check_castable(to_dtype);
  check_castable(from_dtype);
  const std::uint64_t to_bytes = bytes(to_dtype), from_bytes = bytes(from_dtype);
  if (to_dtype == from_dtype) {
    if (count > 0) std::memcpy(to, from, count * to_bytes);
    return;
  }
  for (std::uint64_t i = 0; i < count; i += chunk) {
    cast_chunk(to + i * to_bytes, to_dtype, from + i * from_bytes, from_dtype,
               std::min(chunk, count - i));
  }
}

void add_constant(std::byte* data, Dtype dtype, std::uint64_t count, double value) {
  check_castable(dtype);
  const std::uint64_t size = bytes(dtype);
  for (std::uint64_t i = 0; i < count; i += chunk) {
    const std::uint64_t part = std::min(chunk, count - i);
    if (dtype == Dtype::f64) {
      add_chunk(data + i * size, dtype, part, value);
    } else {
      add_chunk(data + i * size, dtype, part, static_cast<float>(value));
    }
  }
}

}  // namespace reshard
