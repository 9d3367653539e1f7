#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace reshard::formats {

/// What a parser reads from: a number of bytes and a way to get any range of them. Parsers check
/// ranges before they ask, or ask through read_bytes.
struct ByteSource {
  std::uint64_t size = 0;
  std::function<void(std::uint64_t offset, std::span<std::byte> into)> read;
};

/// A source over bytes in memory, which must outlive it.
ByteSource memory_source(std::span<const std::byte> bytes);

/// The range [offset, offset + size) of a source as a source; Error(input) when it lies outside.
ByteSource sub_source(const ByteSource& source, std::uint64_t offset, std::uint64_t size);

/// The same bytes, read in blocks of a few KiB of which some are kept: for parsers that go to and
/// fro between headers. Not for several threads at once.
ByteSource in_blocks(const ByteSource& source);

/// The bytes [offset, offset + size); Error(input) naming `what` when the source ends before.
std::string read_bytes(const ByteSource& source, std::uint64_t offset, std::uint64_t size,
                       const std::string& what);

}  // namespace reshard::formats
