#include "formats/container/byte_source.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace reshard::formats {
namespace {

TEST(ByteSource, BlocksAreTheSameBytes) {
  std::string bytes(20'000, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + i / 256);
  std::uint64_t asked = 0;
  ByteSource plain = memory_source(std::as_bytes(std::span(bytes)));
  const ByteSource counted{plain.size, [&](std::uint64_t offset, std::span<std::byte> into) {
                             ++asked;
                             plain.read(offset, into);
                           }};
  const ByteSource blocks = in_blocks(counted);
  for (int round = 0; round < 3; ++round) {
    for (const auto& [offset, size] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
             {0, 1}, {4095, 2}, {19'990, 10}, {20'000, 0}, {3000, 9000}, {8191, 4096}}) {
      EXPECT_EQ(read_bytes(blocks, offset, size, "t"), bytes.substr(offset, size));
    }
  }
  EXPECT_EQ(asked, 4u + 3u);  // four blocks once, and what is longer than a block each time
}

}  // namespace
}  // namespace reshard::formats
