#pragma once

#include <cstdint>
#include <vector>

#include "core/box.hpp"

namespace reshard {

/// Bytes [first, last) of file number `file`.
struct FileRange {
  std::uint32_t file = 0;
  std::uint64_t first = 0, last = 0;
  friend auto operator<=>(const FileRange&, const FileRange&) = default;
};

/// Appends the contiguous ranges that a strided box touches, beginning at byte `first` of the file;
/// strides in elements of `width` bytes. Gaps so small that a read of their own costs more than
/// they do (64 bytes) are taken along.
void append_ranges(std::uint32_t file, std::uint64_t first, const Dims& extent, const Dims& stride,
                   std::uint64_t width, std::vector<FileRange>& ranges);

/// Sorted, joined where they meet, and joined across gaps of up to 1 MiB, smallest first, as long
/// as the bytes read stay within 1.02 of those asked for (DESIGN.md section 4, I/O).
std::vector<FileRange> merge_ranges(std::vector<FileRange> ranges);

}  // namespace reshard
