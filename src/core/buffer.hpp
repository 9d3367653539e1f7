#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

namespace reshard {

/// Bytes that keep their memory from use to use, so that pages are touched once; never zeroed.
class Buffer {
 public:
  /// `size` bytes of any content; what spans of earlier calls name is gone.
  std::span<std::byte> take(std::size_t size) {
    if (size > capacity_) {
      bytes_ = nullptr;  // the old memory first, so that both are never there at once
      bytes_ = std::make_unique_for_overwrite<std::byte[]>(size);
      capacity_ = size;
    }
    size_ = size;
    return bytes();
  }
  [[nodiscard]] std::span<std::byte> bytes() { return {bytes_.get(), size_}; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {bytes_.get(), size_}; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t capacity_ = 0, size_ = 0;
};

}  // namespace reshard
