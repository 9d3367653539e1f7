#pragma once

#include <cstdint>
#include <string>

// The parts of a zip archive as torch's writer (miniz) lays them out, byte for byte
// (containers.md section 2.2): stored records, CRC and sizes behind the data, zip64 where needed.

namespace reshard::formats {

/// Data of each record begins on a multiple of this.
inline constexpr std::uint64_t zip_alignment = 64;

/// Byte positions of one record.
struct ZipPlace {
  std::uint64_t header = 0;  ///< local header
  std::uint64_t data = 0;
  std::uint64_t bytes = 0;
  std::uint64_t end = 0;  ///< one behind the data descriptor
};

/// The place of a record of that name and size whose local header begins at `header`.
ZipPlace place_record(const std::string& name, std::uint64_t bytes, std::uint64_t header);

/// Local header with its padding, up to the data.
std::string local_header(const std::string& name, const ZipPlace& place);
/// What follows the data; nothing when there is none.
std::string data_descriptor(const ZipPlace& place, std::uint32_t crc);
/// The record's entry of the central directory.
std::string central_entry(const std::string& name, const ZipPlace& place, std::uint32_t crc);
/// What follows the central directory: zip64 end record, its locator, end record.
std::string end_records(std::uint64_t directory, std::uint64_t directory_bytes,
                        std::uint64_t entries);

}  // namespace reshard::formats
