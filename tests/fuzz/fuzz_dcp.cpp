#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/error.hpp"
#include "formats/container/dcp.hpp"

/// Any bytes: an Error, or a .metadata whose items all have a file; written, it is read alike.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard::formats;
  const auto all = [](std::string_view) { return true; };
  DcpMetadata metadata;
  try {
    metadata = read_dcp_metadata(std::as_bytes(std::span(data, size)), all);
  } catch (const reshard::Error&) {
    return 0;
  }
  for (const DcpEntry& entry : metadata.entries) {
    if (!entry.is_tensor) {
      if (entry.item.file >= metadata.files.size()) __builtin_trap();
      continue;
    }
    check_tiling(entry.chunks, entry.shape);
    if (entry.items != entry.chunks.size()) __builtin_trap();
    for (const DcpChunk& chunk : entry.chunks) {
      if (chunk.item.file >= metadata.files.size()) __builtin_trap();
      static_cast<void>(chunk_name(entry.name, chunk.offset, chunk.shape));
    }
  }
  const std::string written = write_dcp_metadata(metadata);
  const DcpMetadata again = read_dcp_metadata(std::as_bytes(std::span(written)), all);
  if (again.entries.size() != metadata.entries.size()) __builtin_trap();
  if (write_dcp_metadata(again) != written) __builtin_trap();
  return 0;
}
