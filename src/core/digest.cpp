#include "core/digest.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include "core/error.hpp"
#include "core/transform.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace reshard {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as they lie");

__extension__ typedef unsigned __int128 Wide;

constexpr std::uint64_t prime = (std::uint64_t{1} << 61) - 1;
constexpr std::size_t block_bytes = 1024, block_words = block_bytes / 4;
/// Kernels work on whole groups, one AVX2 vector each.
constexpr std::size_t group_bytes = 32, group_words = group_bytes / 4;
constexpr std::size_t sums = 5, lanes = 2;

using Sums = std::array<std::uint64_t, sums>;

/// The generator of keys: splitmix64's output for a counter.
constexpr std::uint64_t mix(std::uint64_t counter) {
  std::uint64_t z = counter * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

struct Keys {
  /// One word more than the last group: kernels load odd words' keys a word further on.
  alignas(64) std::array<std::array<std::uint32_t, block_words + group_words>, sums> k = {};
  std::array<Sums, lanes> c = {};
};

constexpr Keys make_keys() {
  Keys keys;
  std::uint64_t counter = 0x7265736861726400u;
  for (auto& row : keys.k) {
    for (std::size_t j = 0; j < block_words; ++j) {
      row[j] = static_cast<std::uint32_t>(mix(++counter) >> 40);
    }
  }
  for (auto& lane : keys.c) {
    for (auto& c : lane) {
      do {
        c = mix(++counter) >> 3;
      } while (c == prime);
    }
  }
  return keys;
}

constexpr Keys keys = make_keys();

/// r_l(b) in [1, p): the product's high half maps 64 bits onto [0, p - 1).
std::uint64_t block_key(std::size_t lane, std::uint64_t block) {
  constexpr std::array<std::uint64_t, lanes> seeds = {0x243f6a8885a308d3u, 0x13198a2e03707344u};
  const std::uint64_t z = mix(mix(seeds[lane] + block) + seeds[lane]);
  return 1 + static_cast<std::uint64_t>((Wide{z} * (prime - 1)) >> 64);
}

std::uint64_t reduce(Wide x) {
  x = (x & prime) + (x >> 61);
  const auto y = static_cast<std::uint64_t>((x & prime) + (x >> 61));
  return y >= prime ? y - prime : y;
}

// Each kernel: H_i of `groups` groups of a block from its group `first` on.

Sums sum_portable(const std::byte* data, std::size_t first, std::size_t groups) {
  Sums h = {};
  for (std::size_t g = 0; g < groups; ++g) {
    std::array<std::uint32_t, group_words> words;
    std::memcpy(words.data(), data + g * group_bytes, group_bytes);
    for (std::size_t i = 0; i < sums; ++i) {
      const std::uint32_t* k = keys.k[i].data() + (first + g) * group_words;
      for (std::size_t j = 0; j < group_words; ++j) h[i] += std::uint64_t{k[j]} * words[j];
    }
  }
  return h;
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] Sums sum_avx2(const std::byte* data, std::size_t first,
                                      std::size_t groups) {
  __m256i h[sums];
  for (__m256i& sum : h) sum = _mm256_setzero_si256();
  for (std::size_t w = 0; w < groups * group_words; w += 8) {
    const auto* at = reinterpret_cast<const __m256i*>(data + w * 4);
    const __m256i even = _mm256_loadu_si256(at), odd = _mm256_srli_epi64(even, 32);
    for (std::size_t i = 0; i < sums; ++i) {
      const std::uint32_t* k = keys.k[i].data() + first * group_words + w;
      const __m256i k_even = _mm256_load_si256(reinterpret_cast<const __m256i*>(k));
      const __m256i k_odd = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(k + 1));
      h[i] = _mm256_add_epi64(h[i], _mm256_mul_epu32(even, k_even));
      h[i] = _mm256_add_epi64(h[i], _mm256_mul_epu32(odd, k_odd));
    }
  }
  Sums result;
  for (std::size_t i = 0; i < sums; ++i) {
    const __m128i pair =
        _mm_add_epi64(_mm256_castsi256_si128(h[i]), _mm256_extracti128_si256(h[i], 1));
    result[i] = static_cast<std::uint64_t>(_mm_extract_epi64(pair, 0)) +
                static_cast<std::uint64_t>(_mm_extract_epi64(pair, 1));
  }
  return result;
}
#endif

Sums sum_groups(DigestKernel kernel, const std::byte* data, std::size_t first, std::size_t groups) {
#if defined(__x86_64__)
  if (kernel == DigestKernel::avx2) return sum_avx2(data, first, groups);
#endif
  static_cast<void>(kernel);
  return sum_portable(data, first, groups);
}

/// Contribution of bytes that lie within one block, from its byte `begin` on.
Digest digest_block(DigestKernel kernel, std::span<const std::byte> data, std::uint64_t block,
                    std::size_t begin) {
  const std::size_t first = begin / group_bytes, head = begin % group_bytes;
  const std::size_t groups = (head + data.size() + group_bytes - 1) / group_bytes;
  const std::byte* from = data.data();
  alignas(64) std::array<std::byte, block_bytes> padded;
  if (groups * group_bytes != data.size()) {
    std::memset(padded.data(), 0, group_bytes);
    std::memset(padded.data() + (groups - 1) * group_bytes, 0, group_bytes);
    std::memcpy(padded.data() + head, data.data(), data.size());
    from = padded.data();
  }
  const Sums h = sum_groups(kernel, from, first, groups);
  std::array<std::uint64_t, lanes> result;
  for (std::size_t l = 0; l < lanes; ++l) {
    Wide sum = 0;  // below 5 * 2^125
    for (std::size_t i = 0; i < sums; ++i) sum += Wide{keys.c[l][i]} * h[i];
    result[l] = reduce(Wide{reduce(sum)} * block_key(l, block));
  }
  return {result[0], result[1]};
}

std::uint64_t add(std::uint64_t a, std::uint64_t b) {
  return a + b >= prime ? a + b - prime : a + b;
}

void require(bool condition, const char* text) {
  if (!condition) throw Error(Kind::internal, std::string("digest: ") + text);
}

struct Dimension {
  std::uint64_t extent, memory, canonical;
};

/// The box in canonical order without extents of 1, neighbours merged where both sides allow.
std::vector<Dimension> simplify(std::span<const std::uint64_t> extents,
                                std::span<const std::uint64_t> memory,
                                std::span<const std::uint64_t> canonical) {
  std::vector<Dimension> sorted, merged;
  for (std::size_t d = 0; d < extents.size(); ++d) {
    if (extents[d] != 1) sorted.push_back({extents[d], memory[d], canonical[d]});
  }
  std::ranges::stable_sort(sorted, std::greater(), &Dimension::canonical);
  for (const Dimension& inner : sorted) {
    if (!merged.empty() && merged.back().memory == inner.memory * inner.extent &&
        merged.back().canonical == inner.canonical * inner.extent) {
      merged.back() = {merged.back().extent * inner.extent, inner.memory, inner.canonical};
    } else {
      merged.push_back(inner);
    }
  }
  return merged;
}

/// Digests a box whose rows are scattered in memory or in canonical order: tiles of it are laid out
/// canonically in a small buffer, with zeros, which contribute nothing, for the indices between.
class Gather {
 public:
  Gather(std::uint64_t element_bytes, const Dimension& rows, const Dimension& columns)
      : element_bytes_(element_bytes), rows_(rows), columns_(columns) {
    // Far apart in canonical order each element is a row of its own.
    if (columns.canonical > widest_gap) column_step_ = 1;
    width_ = (column_step_ - 1) * columns.canonical + 1;
    row_step_ = std::clamp<std::uint64_t>(buffer_bytes / (width_ * element_bytes), 1, 64);
    buffer_.resize(row_step_ * width_ * element_bytes);
  }

  Digest run(const std::byte* data, std::uint64_t index) {
    Digest sum;
    for (std::uint64_t r = 0; r < rows_.extent; r += row_step_) {
      for (std::uint64_t c = 0; c < columns_.extent; c += column_step_) {
        sum += tile(data + (r * rows_.memory + c * columns_.memory) * element_bytes_,
                    index + r * rows_.canonical + c * columns_.canonical,
                    std::min(row_step_, rows_.extent - r),
                    std::min(column_step_, columns_.extent - c));
      }
    }
    return sum;
  }

 private:
  static constexpr std::uint64_t widest_gap = 16, buffer_bytes = 32768;

  Digest tile(const std::byte* data, std::uint64_t index, std::uint64_t rows,
              std::uint64_t columns) {
    const std::array extents = {rows, columns};
    const std::array to = {width_, columns_.canonical}, from = {rows_.memory, columns_.memory};
    copy_strided(buffer_.data(), to, data, from, extents, element_bytes_);
    const std::uint64_t row_bytes = ((columns - 1) * columns_.canonical + 1) * element_bytes_;
    Digest sum;
    for (std::uint64_t r = 0; r < rows; ++r) {
      sum += digest_run({buffer_.data() + r * width_ * element_bytes_, row_bytes}, element_bytes_,
                        index + r * rows_.canonical);
    }
    return sum;
  }

  std::uint64_t element_bytes_;
  Dimension rows_, columns_;
  std::uint64_t column_step_ = 256, row_step_ = 1, width_ = 1;
  std::vector<std::byte> buffer_;
};

}  // namespace

Digest& Digest::operator+=(const Digest& other) {
  low = add(low, other.low);
  high = add(high, other.high);
  return *this;
}

std::string Digest::hex() const {
  std::string text;
  for (const std::uint64_t lane : {high, low}) {
    for (int shift = 60; shift >= 0; shift -= 4) {
      text += "0123456789abcdef"[(lane >> shift) & 15];
    }
  }
  return text;
}

DigestKernel fastest_digest_kernel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return DigestKernel::avx2;
#endif
  return DigestKernel::portable;
}

Digest digest_run(std::span<const std::byte> elements, std::uint64_t element_bytes,
                  std::uint64_t first_index, DigestKernel kernel) {
  require(std::has_single_bit(element_bytes) && element_bytes <= 16, "size of elements");
  require(elements.size() % element_bytes == 0, "not a whole number of elements");
  // An index may use all 64 bits, a byte's place 4 more.
  const Wide place = Wide{first_index} * element_bytes;
  auto block = static_cast<std::uint64_t>(place / block_bytes);
  auto begin = static_cast<std::size_t>(place % block_bytes);
  Digest sum;
  while (!elements.empty()) {
    const std::size_t bytes = std::min(elements.size(), block_bytes - begin);
    sum += digest_block(kernel, elements.first(bytes), block, begin);
    elements = elements.subspan(bytes);
    ++block;
    begin = 0;
  }
  return sum;
}

Digest digest_box(const std::byte* data, std::uint64_t element_bytes,
                  std::span<const std::uint64_t> extents,
                  std::span<const std::uint64_t> memory_strides,
                  std::span<const std::uint64_t> canonical_strides,
                  std::uint64_t canonical_offset) {
  constexpr std::size_t most_dimensions = 8;
  require(extents.size() <= most_dimensions, "a box of more than 8 dimensions");
  require(memory_strides.size() == extents.size() && canonical_strides.size() == extents.size(),
          "extents and strides of different rank");
  if (std::ranges::find(extents, 0u) != extents.end()) return {};

  std::vector<Dimension> box = simplify(extents, memory_strides, canonical_strides);
  Dimension columns = {1, 1, 1}, rows = {1, 1, 1};
  if (!box.empty()) {
    columns = box.back();
    box.pop_back();
  }
  const bool direct = columns.memory == 1 && columns.canonical == 1;
  if (!direct && !box.empty()) {
    // The rows that lie closest in memory share its cache lines.
    const auto closest = std::ranges::min_element(box, {}, &Dimension::memory);
    rows = *closest;
    box.erase(closest);
  }
  std::optional<Gather> gather;
  if (!direct) gather.emplace(element_bytes, rows, columns);

  Digest sum;
  std::array<std::uint64_t, most_dimensions> at = {};
  for (std::size_t d = 0;;) {
    std::uint64_t memory = 0, index = canonical_offset;
    for (d = 0; d < box.size(); ++d) {
      memory += at[d] * box[d].memory;
      index += at[d] * box[d].canonical;
    }
    const std::byte* from = data + memory * element_bytes;
    sum += direct ? digest_run({from, columns.extent * element_bytes}, element_bytes, index)
                  : gather->run(from, index);
    while (d > 0 && ++at[d - 1] == box[d - 1].extent) at[--d] = 0;
    if (d == 0) return sum;
  }
}

}  // namespace reshard
