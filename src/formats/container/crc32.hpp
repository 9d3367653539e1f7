#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace reshard::formats {

/// CRC-32 of zip and zlib; 0 for no bytes.
std::uint32_t crc32_of(std::span<const std::byte> bytes);

/// What crc becomes when bytes_after bytes follow whose own CRC is added with ^:
/// crc32_of(A B) == (crc32_shift(crc32_of(A), |B|) ^ crc32_of(B)).
std::uint32_t crc32_shift(std::uint32_t crc, std::uint64_t bytes_after);

}  // namespace reshard::formats
