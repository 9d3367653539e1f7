#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <compare>
#include <cstdint>
#include <initializer_list>
#include <optional>

namespace reshard {

/// Most dimensions that a canonical tensor or a box has.
inline constexpr std::size_t max_rank = 8;

/// One number a dimension, slowest first; a value without allocation, for boxes are made by the
/// million.
class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<std::uint64_t> values) {
    for (const std::uint64_t value : values) push_back(value);
  }
  explicit Dims(std::size_t count, std::uint64_t value = 0) {
    for (std::size_t d = 0; d < count; ++d) push_back(value);
  }
  void push_back(std::uint64_t value) {
    assert(size_ < max_rank);
    values_[size_++] = value;
  }
  [[nodiscard]] std::size_t size() const { return size_; }
  std::uint64_t& operator[](std::size_t d) { return values_[d]; }
  const std::uint64_t& operator[](std::size_t d) const { return values_[d]; }
  [[nodiscard]] const std::uint64_t* data() const { return values_.data(); }
  [[nodiscard]] auto begin() const { return values_.begin(); }
  [[nodiscard]] auto end() const { return values_.begin() + size_; }
  friend bool operator==(const Dims& a, const Dims& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }
  friend auto operator<=>(const Dims& a, const Dims& b) {
    return std::lexicographical_compare_three_way(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  std::array<std::uint64_t, max_rank> values_{};
  std::uint8_t size_ = 0;
};

/// A half-open box of a canonical tensor: offset and extent per dimension, in elements.
struct Box {
  Dims offset, extent;

  /// Number of elements; 1 for a scalar.
  [[nodiscard]] std::uint64_t elements() const {
    std::uint64_t product = 1;
    for (const std::uint64_t n : extent) product *= n;
    return product;
  }
  friend auto operator<=>(const Box&, const Box&) = default;
};

/// What two boxes of one tensor share; nothing when that is empty.
inline std::optional<Box> intersect(const Box& a, const Box& b) {
  Box both;
  for (std::size_t d = 0; d < a.offset.size(); ++d) {
    const std::uint64_t first = std::max(a.offset[d], b.offset[d]);
    const std::uint64_t last = std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]);
    if (first >= last) return std::nullopt;
    both.offset.push_back(first);
    both.extent.push_back(last - first);
  }
  return both;
}

/// Dimensions of a strided box that have more than one index, slowest stride first.
struct StrideOrder {
  std::array<std::size_t, max_rank> dims{};
  std::size_t size = 0;

  StrideOrder(const Dims& extent, const Dims& stride) {
    for (std::size_t d = 0; d < extent.size(); ++d) {
      if (extent[d] <= 1) continue;
      std::size_t at = size++;  // a handful: inserted one by one
      for (; at > 0 && stride[dims[at - 1]] < stride[d]; --at) dims[at] = dims[at - 1];
      dims[at] = d;
    }
  }
};

}  // namespace reshard
