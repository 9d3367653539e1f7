#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/error.hpp"
#include "formats/container/zip.hpp"

/// Any bytes: an Error or records that lie in the file, each by itself and under a name of its own.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard::formats;
  std::vector<ZipRecord> records;
  try {
    records = read_zip(memory_source(std::as_bytes(std::span(data, size))));
  } catch (const reshard::Error& error) {
    if (error.kind() != reshard::Kind::input) __builtin_trap();
    return 0;
  }
  std::ranges::sort(records, {}, &ZipRecord::offset);
  std::uint64_t end = 30;  // a local header stands before the first
  for (const ZipRecord& record : records) {
    if (record.offset < end || record.offset > size || record.bytes > size - record.offset) {
      __builtin_trap();
    }
    end = record.offset + record.bytes;
  }
  std::ranges::sort(records, {}, &ZipRecord::name);
  if (std::ranges::adjacent_find(records, {}, &ZipRecord::name) != records.end()) __builtin_trap();
  return 0;
}
