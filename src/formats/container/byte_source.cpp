#include "formats/container/byte_source.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

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

/// The blocks of a source that were asked for last.
class Blocks {
 public:
  explicit Blocks(ByteSource source) : source_(std::move(source)) {}

  void read(std::uint64_t offset, std::span<std::byte> into) {
    if (into.size() > block_bytes) return source_.read(offset, into);
    while (!into.empty()) {
      const std::vector<std::byte>& block = at(offset / block_bytes);
      const std::uint64_t skipped = offset % block_bytes;
      const std::size_t count = std::min(into.size(), block.size() - skipped);
      std::copy_n(block.begin() + static_cast<std::ptrdiff_t>(skipped), count, into.begin());
      into = into.subspan(count);
      offset += count;
    }
  }

 private:
  static constexpr std::uint64_t block_bytes = 4096;
  static constexpr std::uint64_t none = ~std::uint64_t{0};
  struct Block {
    std::uint64_t number = none;
    std::vector<std::byte> bytes;
  };

  const std::vector<std::byte>& at(std::uint64_t number) {
    const auto found = std::find_if(blocks_.begin(), blocks_.end(),
                                    [&](const Block& block) { return block.number == number; });
    if (found != blocks_.end()) return found->bytes;
    Block& block = blocks_[next_++ % blocks_.size()];
    const std::uint64_t begin = number * block_bytes;
    block.number = none;  // until it is read
    block.bytes.resize(std::min(block_bytes, source_.size - begin));
    source_.read(begin, block.bytes);
    block.number = number;
    return block.bytes;
  }

  ByteSource source_;
  std::array<Block, 8> blocks_;
  std::size_t next_ = 0;
};

}  // namespace

ByteSource in_blocks(const ByteSource& source) {
  const auto blocks = std::make_shared<Blocks>(source);
  return {source.size, [blocks](std::uint64_t offset, std::span<std::byte> into) {
            blocks->read(offset, into);
          }};
}

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
