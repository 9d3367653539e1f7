#include "formats/container/byte_source.hpp"

#include <cstring>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

void require_range(const ByteSource& source, std::uint64_t offset, std::uint64_t size,
                   const std::string& what) {
  if (offset > source.size || size > source.size - offset) {
    throw Error(Kind::input, what + ": bytes " + std::to_string(offset) + " + " +
                                 std::to_string(size) + " lie outside the file of " +
                                 std::to_string(source.size) + " bytes");
  }
}

}  // namespace

ByteSource memory_source(std::span<const std::byte> bytes) {
  return {bytes.size(), [bytes](std::uint64_t offset, std::span<std::byte> into) {
            if (!into.empty()) std::memcpy(into.data(), bytes.data() + offset, into.size());
          }};
}

ByteSource sub_source(const ByteSource& source, std::uint64_t offset, std::uint64_t size) {
  require_range(source, offset, size, "range of a file");
  return {size, [read = source.read, offset](std::uint64_t at, std::span<std::byte> into) {
            read(offset + at, into);
          }};
}

std::string read_bytes(const ByteSource& source, std::uint64_t offset, std::uint64_t size,
                       const std::string& what) {
  require_range(source, offset, size, what);
  std::string bytes(size, '\0');
  source.read(offset, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

}  // namespace reshard::formats
