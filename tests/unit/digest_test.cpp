#include "core/digest.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <vector>

#include "core/error.hpp"
#include "core/shape.hpp"

namespace reshard {
namespace {

__extension__ typedef unsigned __int128 Wide;

constexpr std::uint64_t prime = (std::uint64_t{1} << 61) - 1;

std::uint64_t mix(std::uint64_t counter) {
  std::uint64_t z = counter * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// The header's formula, a byte at a time, every product reduced by division.
Digest reference(const std::vector<std::byte>& data, std::uint64_t first_byte) {
  std::array<std::uint64_t, 2> sums = {};
  constexpr std::array<std::uint64_t, 2> seeds = {0x243f6a8885a308d3u, 0x13198a2e03707344u};
  for (std::size_t n = 0; n < data.size(); ++n) {
    const std::uint64_t place = first_byte + n, word = place / 4 % 256, block = place / 1024;
    const std::uint64_t value = std::to_integer<std::uint64_t>(data[n]) << 8 * (place % 4);
    for (std::size_t l = 0; l < 2; ++l) {
      const std::uint64_t z = mix(mix(seeds[l] + block) + seeds[l]);
      const std::uint64_t r = 1 + static_cast<std::uint64_t>((Wide{z} * (prime - 1)) >> 64);
      for (std::uint64_t i = 0; i < 5; ++i) {
        const std::uint64_t k = mix(0x7265736861726400u + i * 256 + word + 1) >> 40;
        const std::uint64_t c = mix(0x7265736861726400u + 5 * 256 + l * 5 + i + 1) >> 3;
        const auto h = static_cast<std::uint64_t>(Wide{k} * value % prime);
        const auto ch = static_cast<std::uint64_t>(Wide{c} * h % prime);
        sums[l] = static_cast<std::uint64_t>((Wide{r} * ch + sums[l]) % prime);
      }
    }
  }
  return {sums[0], sums[1]};
}

std::vector<std::byte> random_bytes(std::size_t count, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<std::byte> data(count);
  for (std::byte& b : data) b = static_cast<std::byte>(generator());
  return data;
}

std::vector<DigestKernel> kernels() {
  std::vector<DigestKernel> result;
  for (const DigestKernel k : {DigestKernel::portable, DigestKernel::avx2}) {
    if (k <= fastest_digest_kernel()) result.push_back(k);
  }
  return result;
}

TEST(Digest, IsTheFormulaForAllSizesOfElementsAndPlaces) {
  for (const std::uint64_t size : {1u, 2u, 4u, 8u, 16u}) {
    for (const std::uint64_t first : {0u, 1u, 5u, 63u, 500u, 511u, 1023u, 1024u, 70001u}) {
      for (const std::size_t count : {1u, 2u, 31u, 64u, 300u}) {
        const std::vector<std::byte> data = random_bytes(count * size, 7);
        const Digest wanted = reference(data, first * size);
        for (const DigestKernel kernel : kernels()) {
          EXPECT_EQ(digest_run(data, size, first, kernel), wanted)
              << size << " " << first << " " << count << " " << static_cast<int>(kernel);
        }
      }
    }
  }
}

TEST(Digest, ExtremeWordsDoNotWrap) {
  std::vector<std::byte> data(8192, std::byte{0xff});
  const Digest wanted = reference(data, 0);
  for (const DigestKernel kernel : kernels()) {
    EXPECT_EQ(digest_run(data, 2, 0, kernel), wanted);
    // The same place, counted in other elements.
    EXPECT_EQ(digest_run(data, 8, std::uint64_t{1} << 62, kernel),
              digest_run(data, 4, std::uint64_t{1} << 63, kernel));
  }
  EXPECT_LT(wanted.low, prime);
  EXPECT_LT(wanted.high, prime);
}

TEST(Digest, EveryCutAddsUpToTheWhole) {
  const std::vector<std::byte> storage = random_bytes(2600 + 64, 3);
  for (const std::size_t misalignment : {0u, 1u, 2u, 7u, 33u}) {
    const std::span<const std::byte> data = std::span(storage).subspan(misalignment, 2600);
    for (const DigestKernel kernel : kernels()) {
      const Digest whole = digest_run(data, 2, 100, kernel);
      for (std::size_t cut = 0; cut <= data.size(); cut += 2) {
        Digest sum = digest_run(data.subspan(cut), 2, 100 + cut / 2, kernel);
        sum += digest_run(data.first(cut), 2, 100, kernel);
        ASSERT_EQ(sum, whole) << cut;
      }
    }
  }
}

TEST(Digest, ManyPartsInAnyOrderAddUp) {
  const std::vector<std::byte> data = random_bytes(1 << 20, 4);
  const Digest whole = digest_run(data, 4, 0);
  std::vector<std::size_t> order(1 << 14);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::shuffle(order, std::mt19937(5));
  Digest sum;
  for (const std::size_t n : order)
    sum += digest_run(std::span(data).subspan(n * 64, 64), 4, n * 16);
  EXPECT_EQ(sum, whole);
}

TEST(Digest, AnySingleBitChangesIt) {
  std::vector<std::byte> data = random_bytes(1500, 6);
  const Digest whole = digest_run(data, 2, 33);
  for (std::size_t bit = 0; bit < data.size() * 8; ++bit) {
    data[bit / 8] ^= std::byte{1} << bit % 8;
    const Digest changed = digest_run(data, 2, 33);
    data[bit / 8] ^= std::byte{1} << bit % 8;
    ASSERT_NE(changed.low, whole.low) << bit;
    ASSERT_NE(changed.high, whole.high) << bit;
  }
}

TEST(Digest, SwappedElementsRowsAndBlocksChangeIt) {
  const std::vector<std::byte> data = random_bytes(16384, 8);
  const Digest whole = digest_run(data, 2, 0);
  for (const std::size_t bytes : {2u, 4u, 128u, 1024u, 4096u}) {
    for (std::size_t at = 0; at + 2 * bytes <= data.size(); at += bytes) {
      std::vector<std::byte> swapped = data;
      const auto begin = swapped.begin() + static_cast<std::ptrdiff_t>(at);
      const auto length = static_cast<std::ptrdiff_t>(bytes);
      std::swap_ranges(begin, begin + length, begin + length);
      ASSERT_EQ(digest_run(swapped, 2, 0) == whole, swapped == data) << bytes << " at " << at;
    }
  }
}

TEST(Digest, ZeroesContributeNothing) {
  EXPECT_EQ(digest_run(std::vector<std::byte>(5000), 2, 17), Digest{});
  EXPECT_EQ(digest_run({}, 2, 17), Digest{});
}

TEST(Digest, PermutedBoxesAreTheWhole) {
  const std::vector<std::uint64_t> extents = {3, 40, 5, 77};
  for (const std::uint64_t size : {1u, 2u, 4u, 8u, 16u}) {
    const std::vector<std::byte> canonical = random_bytes(elements(extents) * size, 9);
    const Digest whole = digest_run(canonical, size, 1000);
    const std::vector<std::uint64_t> strides = row_major(extents);
    std::vector<std::size_t> order = {0, 1, 2, 3};
    do {
      // Memory holds the dimensions in `order`; the box is also passed in that order.
      std::vector<std::uint64_t> memory_extents, canonical_strides;
      for (const std::size_t d : order) {
        memory_extents.push_back(extents[d]);
        canonical_strides.push_back(strides[d]);
      }
      const std::vector<std::uint64_t> memory_strides = row_major(memory_extents);
      std::vector<std::byte> memory(canonical.size());
      for (std::uint64_t n = 0; n < elements(extents); ++n) {
        std::uint64_t index = 0;
        for (std::size_t d = 0; d < 4; ++d) {
          index += n / memory_strides[d] % memory_extents[d] * canonical_strides[d];
        }
        std::copy_n(&canonical[index * size], size, &memory[n * size]);
      }
      ASSERT_EQ(
          digest_box(memory.data(), size, memory_extents, memory_strides, canonical_strides, 1000),
          whole)
          << size << ": " << order[0] << order[1] << order[2] << order[3];
    } while (std::ranges::next_permutation(order).found);
  }
}

TEST(Digest, BoxesOfAShardedTensorAddUp) {
  // [rows, columns] cut by columns: each part's canonical rows are short runs, single columns too.
  const std::uint64_t rows = 50, columns = 60;
  const std::vector<std::byte> data = random_bytes(rows * columns * 2, 10);
  const Digest whole = digest_run(data, 2, 0);
  for (const std::uint64_t step : {1u, 3u, 20u, 60u}) {
    Digest sum;
    for (std::uint64_t c = 0; c < columns; c += step) {
      const std::vector<std::uint64_t> extents = {rows, step}, strides = {columns, 1};
      sum += digest_box(&data[c * 2], 2, extents, strides, strides, c);
    }
    EXPECT_EQ(sum, whole) << step;
  }
}

TEST(Digest, InterleavedHalvesAddUp) {
  const std::vector<std::byte> data = random_bytes(4000 * 2, 11);
  const Digest whole = digest_run(data, 2, 7);
  for (const std::uint64_t ways : {2u, 16u, 20u}) {
    Digest sum;
    for (std::uint64_t w = 0; w < ways; ++w) {
      const std::vector<std::uint64_t> extents = {4000 / ways}, strides = {ways};
      sum += digest_box(&data[w * 2], 2, extents, strides, strides, 7 + w);
    }
    EXPECT_EQ(sum, whole) << ways;
  }
}

TEST(Digest, ScalarAndEmptyBoxes) {
  const std::vector<std::byte> data = random_bytes(8, 12);
  EXPECT_EQ(digest_box(data.data(), 8, {}, {}, {}, 5), digest_run(data, 8, 5));
  const std::vector<std::uint64_t> extents = {3, 0}, strides = {1, 1};
  EXPECT_EQ(digest_box(nullptr, 8, extents, strides, strides, 5), Digest{});
}

TEST(Digest, HexIsFixed) {
  EXPECT_EQ((Digest{0xab, 1}).hex(), "000000000000000100000000000000ab");
  // A changed value would make every manifest written so far useless.
  std::vector<std::byte> data(3000);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
  EXPECT_EQ(digest_run(data, 2, 0).hex(), "1e76801c8a5e0bd10a8ec92aa291d61e");
}

TEST(Digest, RefusesWhatItCannotMean) {
  const std::vector<std::byte> data(6);
  const std::vector<std::uint64_t> one = {1}, two = {1, 1}, nine(9, 1);
  EXPECT_THROW(digest_run(data, 3, 0), Error);
  EXPECT_THROW(digest_run(data, 4, 0), Error);
  EXPECT_THROW(digest_box(data.data(), 2, one, two, one, 0), Error);
  EXPECT_THROW(digest_box(data.data(), 2, nine, nine, nine, 0), Error);
}

}  // namespace
}  // namespace reshard
