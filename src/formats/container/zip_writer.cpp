#include "formats/container/zip_writer.hpp"

#include <algorithm>

#include "core/shape.hpp"

namespace reshard::formats {
namespace {

constexpr std::uint64_t in_zip64 = 0xffffffff, entries_in_zip64 = 0xffff;
constexpr std::uint64_t utf8_flag = 0x0800, descriptor_flag = 0x0008;
constexpr std::uint64_t zip64_version = 45;
constexpr std::uint64_t local_size = 30, descriptor_size = 16, wide_descriptor_size = 24;
constexpr std::uint64_t extra_head = 4;
constexpr std::uint64_t end64_size_field = 44;

/// Little-endian fields one behind another.
class Fields {
 public:
  Fields& u16(std::uint64_t value) { return number(value, 2); }
  Fields& u32(std::uint64_t value) { return number(value, 4); }
  Fields& u64(std::uint64_t value) { return number(value, 8); }
  Fields& text(const std::string& value) {
    bytes_ += value;
    return *this;
  }
  std::string take() { return std::move(bytes_); }

 private:
  Fields& number(std::uint64_t value, int width) {
    for (int i = 0; i < width; ++i) bytes_ += static_cast<char>(value >> (8 * i));
    return *this;
  }

  std::string bytes_;
};

bool is_wide(const ZipPlace& place) {
  return place.bytes >= in_zip64 || place.header >= in_zip64;
}

/// The zip64 extra field; packed_bytes is 0 in local headers, where miniz does not know it yet.
std::string zip64_extra(const ZipPlace& place, std::uint64_t packed_bytes) {
  if (!is_wide(place)) return {};
  Fields fields;
  if (place.bytes >= in_zip64) fields.u64(place.bytes).u64(packed_bytes);
  if (place.header >= in_zip64) fields.u64(place.header);
  const std::string content = fields.take();
  return Fields().u16(1).u16(content.size()).text(content).take();
}

std::uint64_t flags(const ZipPlace& place) {
  return utf8_flag | (place.bytes > 0 ? descriptor_flag : 0);
}

}  // namespace

ZipPlace place_record(const std::string& name, std::uint64_t bytes, std::uint64_t header) {
  ZipPlace place{header, 0, bytes, 0};
  const std::uint64_t unpadded =
      header + local_size + name.size() + zip64_extra(place, 0).size() + extra_head;
  place.data = (unpadded + zip_alignment - 1) / zip_alignment * zip_alignment;
  const std::uint64_t descriptor = is_wide(place) ? wide_descriptor_size : descriptor_size;
  place.end = checked_sum(checked_sum(place.data, bytes), bytes > 0 ? descriptor : 0);
  return place;
}

std::string local_header(const std::string& name, const ZipPlace& place) {
  const std::string wide = zip64_extra(place, 0);
  const std::uint64_t padding =
      place.data - place.header - local_size - name.size() - wide.size() - extra_head;
  return Fields()
      .text(std::string("PK\3\4"))
      .u16(0)  // version needed
      .u16(flags(place))
      .u16(0)  // stored
      .u32(0)  // time and date
      .u32(0)  // CRC and both sizes follow the data
      .u32(0)
      .u32(0)
      .u16(name.size())
      .u16(wide.size() + extra_head + padding)
      .text(name)
      .text(wide)
      .text("FB")
      .u16(padding)
      .text(std::string(padding, 'Z'))
      .take();
}

std::string data_descriptor(const ZipPlace& place, std::uint32_t crc) {
  if (place.bytes == 0) return {};
  Fields fields;
  fields.text(std::string("PK\7\10")).u32(crc);
  is_wide(place) ? fields.u64(place.bytes).u64(place.bytes)
                 : fields.u32(place.bytes).u32(place.bytes);
  return fields.take();
}

std::string central_entry(const std::string& name, const ZipPlace& place, std::uint32_t crc) {
  const std::string wide = zip64_extra(place, place.bytes);
  return Fields()
      .text(std::string("PK\1\2"))
      .u16(0)  // version made by
      .u16(0)  // version needed
      .u16(flags(place))
      .u16(0)  // stored
      .u32(0)  // time and date
      .u32(crc)
      .u32(std::min(place.bytes, in_zip64))
      .u32(std::min(place.bytes, in_zip64))
      .u16(name.size())
      .u16(wide.size())
      .u16(0)  // comment
      .u16(0)  // disk
      .u16(0)  // attributes
      .u32(0)
      .u32(std::min(place.header, in_zip64))
      .text(name)
      .text(wide)
      .take();
}

std::string end_records(std::uint64_t directory, std::uint64_t directory_bytes,
                        std::uint64_t entries) {
  return Fields()
      .text(std::string("PK\6\6"))
      .u64(end64_size_field)
      .u16(0x031e)  // made by: version 3.0 on Unix
      .u16(zip64_version)
      .u32(0)  // disks
      .u32(0)
      .u64(entries)
      .u64(entries)
      .u64(directory_bytes)
      .u64(directory)
      .text(std::string("PK\6\7"))
      .u32(0)
      .u64(directory + directory_bytes)
      .u32(1)  // disks
      .text(std::string("PK\5\6"))
      .u16(0)  // disks
      .u16(0)
      .u16(std::min(entries, entries_in_zip64))
      .u16(std::min(entries, entries_in_zip64))
      .u32(std::min(directory_bytes, in_zip64))
      .u32(std::min(directory, in_zip64))
      .u16(0)  // comment
      .take();
}

}  // namespace reshard::formats
