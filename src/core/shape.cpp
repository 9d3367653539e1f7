#include "core/shape.hpp"

#include "core/error.hpp"

namespace reshard {

std::uint64_t checked_product(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    throw Error(Kind::input,
                std::to_string(a) + " * " + std::to_string(b) + " does not fit 64 bits");
  }
  return product;
}

std::uint64_t checked_sum(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) {
    throw Error(Kind::input,
                std::to_string(a) + " + " + std::to_string(b) + " does not fit 64 bits");
  }
  return sum;
}

std::uint64_t elements(const Shape& shape) {
  std::uint64_t nonzero = 1;
  bool empty = false;
  for (const std::uint64_t n : shape) {
    empty |= n == 0;
    nonzero = checked_product(nonzero, n == 0 ? 1 : n);
  }
  return empty ? 0 : nonzero;
}

std::vector<std::uint64_t> row_major(const Shape& shape) {
  std::vector<std::uint64_t> strides(shape.size());
  std::uint64_t stride = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    strides[d] = stride;
    stride = checked_product(stride, shape[d] == 0 ? 1 : shape[d]);
  }
  return strides;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (const std::uint64_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

}  // namespace reshard
