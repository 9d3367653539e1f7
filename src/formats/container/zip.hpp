#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/container/byte_source.hpp"

namespace reshard::formats {

/// One stored record of a zip archive.
struct ZipRecord {
  std::string name;          ///< with its folder, as the central directory has it
  std::uint64_t offset = 0;  ///< bytes from the begin of the archive to the record's first byte
  std::uint64_t bytes = 0;
  std::uint32_t crc = 0;  ///< as declared; torch may leave it wrong (containers.md section 2.3)
};

/// The records in the order of the central directory, which with every local header is read and
/// checked (containers.md sections 2.2, 2.3, 2.8): one end record at the very end, zip64 where
/// present, no prefix, no overlap, no duplicate, stored only. Error(input) otherwise.
std::vector<ZipRecord> read_zip(const ByteSource& source);

}  // namespace reshard::formats
