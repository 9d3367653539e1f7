#include "core/transform.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/error.hpp"
#include "core/shape.hpp"

namespace reshard {
namespace {

using Strides = std::vector<std::uint64_t>;

/// A floating-point type by its fields; the reference works on integers only.
struct Format {
  Dtype dtype;
  int exponent_bits, mantissa_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  std::uint64_t largest_exponent() const { return (std::uint64_t{1} << exponent_bits) - 1; }
  std::uint64_t infinity() const { return largest_exponent() << mantissa_bits; }
  std::uint64_t nan() const { return infinity() | std::uint64_t{1} << (mantissa_bits - 1); }
  std::uint64_t sign() const { return std::uint64_t{1} << (exponent_bits + mantissa_bits); }
};

constexpr Format f64 = {Dtype::f64, 11, 52}, f32 = {Dtype::f32, 8, 23}, f16 = {Dtype::f16, 5, 10},
                 bf16 = {Dtype::bf16, 8, 7};
constexpr Format formats[] = {f64, f32, f16, bf16};

/// One rounding from `from` to `to`, nearest, ties to even.
std::uint64_t convert(std::uint64_t bits, const Format& from, const Format& to) {
  const std::uint64_t sign = (bits & from.sign()) != 0 ? to.sign() : 0;
  const std::uint64_t magnitude = bits & (from.sign() - 1);
  if (magnitude > from.infinity()) return to.nan();
  if (magnitude == from.infinity()) return sign | to.infinity();
  if (magnitude == 0) return sign;
  // value = significand * 2^power, the significand's top bit at 60.
  const std::uint64_t exponent = magnitude >> from.mantissa_bits;
  std::uint64_t significand = magnitude & ((std::uint64_t{1} << from.mantissa_bits) - 1);
  if (exponent > 0) significand |= std::uint64_t{1} << from.mantissa_bits;
  int power = std::max<int>(static_cast<int>(exponent), 1) - from.bias() - from.mantissa_bits;
  const int shift = std::countl_zero(significand) - 3;
  significand <<= shift;
  power -= shift;
  // Units of the target's last place: normal, or fixed below the smallest normal.
  const int unit = std::max(power + 60, 1 - to.bias()) - to.mantissa_bits;
  const int drop = unit - power;
  if (drop > 62) return sign;
  const std::uint64_t half = std::uint64_t{1} << (drop - 1), rest = significand & (2 * half - 1);
  std::uint64_t kept = significand >> drop;
  if (rest > half || (rest == half && kept % 2 == 1)) ++kept;
  // A carry out of the mantissa lands in the exponent, as it should.
  const std::uint64_t base = static_cast<std::uint64_t>(unit + to.mantissa_bits + to.bias() - 1);
  const std::uint64_t result = (base << to.mantissa_bits) + kept;
  return sign | std::min(result, to.infinity());
}

/// Our rule: f64 reaches the 16-bit types by way of f32; equal types keep their bits.
std::uint64_t expected(std::uint64_t bits, const Format& from, const Format& to) {
  if (from.dtype == to.dtype) return bits;
  if (from.dtype == Dtype::f64 && to.dtype != Dtype::f32) {
    return convert(convert(bits, f64, f32), f32, to);
  }
  return convert(bits, from, to);
}

std::vector<std::byte> pack(const std::vector<std::uint64_t>& values, const Format& format) {
  const std::uint64_t size = bytes(format.dtype);
  std::vector<std::byte> data(values.size() * size);
  for (std::size_t i = 0; i < values.size(); ++i) std::memcpy(&data[i * size], &values[i], size);
  return data;
}

std::uint64_t at(const std::vector<std::byte>& data, std::size_t i, const Format& format) {
  std::uint64_t value = 0;
  const std::uint64_t size = bytes(format.dtype);
  std::memcpy(&value, &data[i * size], size);
  return value;
}

void expect_casts(const std::vector<std::uint64_t>& values, const Format& from) {
  const std::vector<std::byte> source = pack(values, from);
  for (const Format& to : formats) {
    std::vector<std::byte> target(values.size() * bytes(to.dtype));
    cast(target.data(), to.dtype, source.data(), from.dtype, values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(at(target, i, to), expected(values[i], from, to))
          << name(from.dtype) << " " << std::hex << values[i] << " to " << name(to.dtype);
    }
  }
}

TEST(Cast, All16BitValues) {
  std::vector<std::uint64_t> values(65536);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = i;
  expect_casts(values, f16);
  expect_casts(values, bf16);
}

TEST(Cast, TiesNeighboursAndRandomBits) {
  std::mt19937_64 generator(1);
  for (const Format& from : {f32, f64}) {
    std::vector<std::uint64_t> values;
    // Each 16-bit value and the tie above it, exactly and one unit to both sides.
    for (const Format& narrow : {f16, bf16}) {
      for (std::uint64_t bits = 0; bits < 65536; ++bits) {
        const std::uint64_t next = bits % 2 == 0 ? bits + 1 : bits;
        const std::uint64_t a = convert(bits, narrow, from), b = convert(next, narrow, from);
        const std::uint64_t tie = a / 2 + b / 2 + (a & b & 1);
        for (const std::uint64_t value : {a, tie - 1, tie, tie + 1}) {
          values.push_back(value & (2 * from.sign() - 1));
        }
      }
    }
    for (int i = 0; i < 200000; ++i) values.push_back(generator() & (2 * from.sign() - 1));
    for (int i = 0; i < 200000; ++i) {  // around the range of f16 and its subnormals
      const auto exponent = static_cast<std::uint64_t>(from.bias() - 30 + i % 50);
      const std::uint64_t others = generator() & ((2 * from.sign() - 1) ^ from.infinity());
      values.push_back(others | exponent << from.mantissa_bits);
    }
    expect_casts(values, from);
  }
}

TEST(Cast, SubnormalsOfF32AndOverflow) {
  std::vector<std::uint64_t> values = {0x00000001, 0x007fffff, 0x80000001, 0x00008000, 0x00018000,
                                       0x7f7fffff, 0xff7fffff, 0x477fefff, 0x477ff000, 0x33000000,
                                       0x33000001, 0x7f7f7fff, 0x7f7f8000, 0x80000000};
  expect_casts(values, f32);
  values = {1,
            0x000fffffffffffff,
            0x47efffffe0000000,
            0x47effffff0000000,
            0x7fefffffffffffff,
            0x3690000000000000,
            0x3690000000000001,
            0x380fffffffffffff,
            0x8000000000000000};
  expect_casts(values, f64);
}

TEST(Cast, EveryCutGivesTheSameBits) {
  std::mt19937_64 generator(2);
  std::vector<std::uint64_t> values(20000);  // more than a chunk, many NaN among them
  for (std::uint64_t& value : values) {
    value = generator() & 0xffffffff;
    if (value % 5 == 0) value |= 0x7f800000;
  }
  const std::vector<std::byte> source = pack(values, f32);
  for (const Format& to : {bf16, f16, f64}) {
    const std::uint64_t size = bytes(to.dtype);
    std::vector<std::byte> whole(values.size() * size), parts(whole.size());
    cast(whole.data(), to.dtype, source.data(), Dtype::f32, values.size());
    for (std::uint64_t begin = 0, step = 1; begin < values.size(); begin += step++) {
      step = std::min(step, values.size() - begin);
      cast(&parts[begin * size], to.dtype, &source[begin * 4], Dtype::f32, step);
    }
    EXPECT_EQ(whole, parts) << name(to.dtype);
  }
}

TEST(Cast, RefusesOtherTypes) {
  std::vector<std::byte> data(16);
  for (const Dtype other : {Dtype::i32, Dtype::f8_e4m3, Dtype::boolean, Dtype::c64, Dtype::f4}) {
    try {
      cast(data.data(), Dtype::f32, data.data() + 8, other, 1);
      ADD_FAILURE() << name(other);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Kind::input);
      EXPECT_NE(std::string(error.what()).find(name(other)), std::string::npos);
    }
    EXPECT_THROW(cast(data.data(), other, data.data() + 8, Dtype::f32, 1), Error);
    EXPECT_THROW(add_constant(data.data(), other, 1, 1), Error);
  }
  cast(nullptr, Dtype::f32, nullptr, Dtype::f32, 0);
}

TEST(AddConstant, IsComputedWideAndRoundedOnce) {
  for (const Format& format : {f16, bf16}) {
    std::vector<std::uint64_t> values(65536);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = i;
    for (const double constant : {1.0, -1.0, 0.1, 65504.0}) {
      std::vector<std::byte> data = pack(values, format);
      add_constant(data.data(), format.dtype, values.size(), constant);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const auto wide = static_cast<std::uint32_t>(convert(i, format, f32));
        const float sum = std::bit_cast<float>(wide) + static_cast<float>(constant);
        ASSERT_EQ(at(data, i, format), convert(std::bit_cast<std::uint32_t>(sum), f32, format))
            << i << " + " << constant;
      }
    }
  }
}

TEST(AddConstant, WorksInTheTypeForF32AndF64) {
  std::vector<float> floats = {0.0f, -1.0f, 1e-30f, 3.5f, std::nanf("1")};
  add_constant(reinterpret_cast<std::byte*>(floats.data()), Dtype::f32, floats.size(), 1.0);
  EXPECT_EQ(floats[0], 1.0f);
  EXPECT_EQ(floats[1], 0.0f);
  EXPECT_EQ(floats[2], 1.0f);
  EXPECT_EQ(floats[3], 4.5f);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(floats[4]), 0x7fc00000u);
  std::vector<double> doubles(20000, 1.0);
  add_constant(reinterpret_cast<std::byte*>(doubles.data()), Dtype::f64, doubles.size(), 1e-15);
  EXPECT_EQ(doubles, std::vector<double>(20000, 1.0 + 1e-15));
}

/// Element by element, the definition of copy_strided.
void copy_naive(std::byte* to, const Strides& to_strides, const std::byte* from,
                const Strides& from_strides, const Strides& extents, std::uint64_t size) {
  const Strides order = row_major(extents);
  for (std::uint64_t n = 0; n < elements(extents); ++n) {
    std::uint64_t t = 0, f = 0;
    for (std::size_t d = 0; d < extents.size(); ++d) {
      const std::uint64_t i = n / order[d] % extents[d];
      t += i * to_strides[d];
      f += i * from_strides[d];
    }
    std::copy_n(from + f * size, size, to + t * size);
  }
}

/// Strides of the extents laid out in a random order of dimensions, with gaps half of the time.
Strides random_strides(const Strides& extents, std::mt19937& generator) {
  std::vector<std::size_t> order(extents.size());
  for (std::size_t d = 0; d < order.size(); ++d) order[d] = d;
  if (generator() % 3 > 0) std::ranges::shuffle(order, generator);
  Strides strides(extents.size());
  std::uint64_t stride = generator() % 4 == 0 ? 2 : 1;
  for (const std::size_t d : order) {
    strides[d] = stride;
    stride = stride * extents[d] + (generator() % 2 == 0 ? 0 : generator() % 3);
  }
  return strides;
}

TEST(CopyStrided, EqualsTheNaiveLoopOnRandomBoxes) {
  std::mt19937 generator(3);
  for (int round = 0; round < 3000; ++round) {
    const std::uint64_t size = std::uint64_t{1} << generator() % 5;
    const std::size_t rank = generator() % 7;
    Strides extents(rank);
    for (std::uint64_t& n : extents) n = generator() % (rank > 3 ? 5 : 40) + (round % 50 != 0);
    const Strides to_strides = random_strides(extents, generator);
    const Strides from_strides = random_strides(extents, generator);
    const auto span_of = [&](const Strides& strides) {
      std::uint64_t last = 1;
      for (std::size_t d = 0; d < rank; ++d) last += extents[d] * strides[d];
      return last * size;
    };
    std::vector<std::byte> from(span_of(from_strides));
    for (std::byte& b : from) b = static_cast<std::byte>(generator());
    std::vector<std::byte> target(span_of(to_strides), std::byte{0xee}), wanted = target;
    copy_strided(target.data(), to_strides, from.data(), from_strides, extents, size);
    copy_naive(wanted.data(), to_strides, from.data(), from_strides, extents, size);
    ASSERT_EQ(target, wanted) << to_string(extents) << to_string(to_strides)
                              << to_string(from_strides);
  }
}

TEST(CopyStrided, TransposesBeyondATile) {
  for (const std::uint64_t size : {1u, 2u, 4u, 8u, 16u}) {
    const Strides extents = {201, 133}, rows = {133, 1}, columns = {1, 201};
    std::vector<std::byte> from(201 * 133 * size);
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 7 + i / 256);
    std::vector<std::byte> target(from.size()), wanted(from.size());
    copy_strided(target.data(), rows, from.data(), columns, extents, size);
    copy_naive(wanted.data(), rows, from.data(), columns, extents, size);
    EXPECT_EQ(target, wanted) << size;
  }
}

TEST(CopyStrided, BroadcastsWithAStrideOfZero) {
  const Strides extents = {3, 4}, to = {4, 1}, from = {0, 0};
  const std::uint16_t value = 0xabcd;
  std::vector<std::uint16_t> target(12);
  copy_strided(reinterpret_cast<std::byte*>(target.data()), to,
               reinterpret_cast<const std::byte*>(&value), from, extents, 2);
  EXPECT_EQ(target, std::vector<std::uint16_t>(12, value));
}

TEST(CopyStrided, RefusesWhatItCannotMean) {
  std::vector<std::byte> data(64);
  const Strides one = {1}, two = {1, 1};
  EXPECT_THROW(copy_strided(data.data(), one, data.data() + 32, one, one, 3), Error);
  EXPECT_THROW(copy_strided(data.data(), two, data.data() + 32, one, one, 2), Error);
  EXPECT_THROW(copy_strided(data.data(), one, data.data() + 32, two, one, 2), Error);
}

}  // namespace
}  // namespace reshard
