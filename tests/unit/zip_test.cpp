#include "formats/container/zip.hpp"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "formats/container/crc32.hpp"
#include "formats/container/zip_writer.hpp"

namespace reshard::formats {
namespace {

using Contents = std::vector<std::pair<std::string, std::string>>;

std::uint32_t crc_of(std::string_view text) {
  return crc32_of(std::as_bytes(std::span(text)));
}

std::string archive(const Contents& contents) {
  std::string file, directory;
  for (const auto& [name, content] : contents) {
    const ZipPlace place = place_record(name, content.size(), file.size());
    file += local_header(name, place) + content + data_descriptor(place, crc_of(content));
    directory += central_entry(name, place, crc_of(content));
  }
  return file + directory + end_records(file.size(), directory.size(), contents.size());
}

std::vector<ZipRecord> read(const std::string& file) {
  return read_zip(memory_source(std::as_bytes(std::span(file))));
}

std::string refusal(const std::string& file) {
  try {
    read(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input);
    return error.what();
  }
  return "";
}

/// The file with bytes replaced at the given distance behind the n-th occurrence of a mark.
std::string patched(std::string file, std::string_view mark, std::size_t behind,
                    std::string_view bytes, int occurrence = 0) {
  std::size_t at = file.find(mark);
  while (occurrence-- > 0) at = file.find(mark, at + 1);
  std::copy(bytes.begin(), bytes.end(), file.begin() + static_cast<std::ptrdiff_t>(at + behind));
  return file;
}

const Contents two = {{"a/x", "hello"}, {"a/y", std::string(100, 'y')}};

TEST(Zip, FindsTheRecords) {
  const std::string file = archive({{"a/x", "hello"}, {"a/empty", ""}, {"a/y", "yy"}});
  const std::vector<ZipRecord> records = read(file);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].name, "a/x");
  EXPECT_EQ(file.substr(records[0].offset, records[0].bytes), "hello");
  EXPECT_EQ(records[0].crc, crc_of("hello"));
  EXPECT_EQ(records[1].bytes, 0u);
  EXPECT_EQ(file.substr(records[2].offset, records[2].bytes), "yy");
  for (const ZipRecord& record : records) EXPECT_EQ(record.offset % zip_alignment, 0u);
}

TEST(Zip, HostileArchivesAreRefused) {
  const std::string file = archive(two);
  const std::string central = "PK\1\2", local = "PK\3\4", end = "PK\5\6";
  const auto field = [](char low, int width = 4) {
    std::string bytes(static_cast<std::size_t>(width), '\0');
    bytes[0] = low;
    return bytes;
  };
  const std::vector<std::pair<std::string, const char*>> cases = {
      {"", "no end record"},
      {"PK\3\4", "no end record"},
      {file.substr(0, file.size() - 1), "no end record"},
      {file + "x", "no end record"},
      {"x" + file, "zip64 end record is not where"},
      // a second end record inside the first one's comment
      {patched(file, end, 20, std::string("\x16\0", 2)) + file.substr(file.size() - 22),
       "does not end at the end record"},
      {patched(file, end, 10, "\3"), "disagree"},
      {patched(file, end, 16, field(7)), "disagree"},
      {patched(file, "PK\6\7", 8, field('\xff', 8)), ""},
      {patched(file, "PK\6\7", 8, std::string(8, '\xff')), "outside the file"},
      {patched(file, "PK\6\6", 4, std::string(8, '\xff')), "not where its locator says"},
      {patched(file, central, 0, "XX"), "directory is cut off or damaged"},
      {patched(file, central, 28, "\xff\xff"), "cut off"},
      {patched(file, central, 10, "\x08"), "a/x is compressed (method 8)"},
      {patched(file, central, 8, "\x01"), "encrypted"},
      {patched(file, central, 20, field(6)), "has 5 bytes but takes 6"},
      {patched(file, central, 42, std::string("\xff\xff\xff\x7f")), "outside the file"},
      {patched(file, central, 42, field(1)), "local header of a/x"},
      {patched(file, central, 46, "a/z"), "is of another record"},
      {patched(file, local, 30, "a/z"), "is of another record"},
      {patched(file, local, 8, "\x08"), "compressed"},
      {patched(file, central, 20, std::string("\xff\xff\0\0\xff\xff\0\0", 8)),
       "runs into the central directory"},
      {patched(file, central, 20, field(100) + field(100)), "overlap"},
      {archive({{"a/x", "1"}, {"a/x", "2"}}), "occurs twice"},
  };
  for (const auto& [bytes, message] : cases) {
    const std::string seen = refusal(bytes);
    EXPECT_NE(seen, "") << message;
    EXPECT_NE(seen.find(message), std::string::npos) << seen << " instead of " << message;
  }
}

/// A record of 5 GB and one behind it, of which only the headers exist.
TEST(Zip, LargeRecordsTakeZip64) {
  constexpr std::uint64_t large = 5'000'000'000;
  const ZipPlace first = place_record("a/x", large, 0);
  const ZipPlace second = place_record("a/y", 2, first.end);
  EXPECT_EQ(first.data % zip_alignment, 0u);
  EXPECT_EQ(second.data % zip_alignment, 0u);
  EXPECT_EQ(first.end, first.data + large + 24);
  EXPECT_EQ(second.end, second.data + 2 + 24);
  const std::string directory = central_entry("a/x", first, 1) + central_entry("a/y", second, 2);
  const std::string tail = data_descriptor(first, 1) + local_header("a/y", second) + "yy" +
                           data_descriptor(second, 2) + directory +
                           end_records(second.end, directory.size(), 2);
  const std::string head = local_header("a/x", first);
  const std::uint64_t tail_begin = first.data + large;
  const ByteSource source{tail_begin + tail.size(),
                          [&](std::uint64_t offset, std::span<std::byte> into) {
                            for (std::size_t i = 0; i < into.size(); ++i) {
                              const std::uint64_t at = offset + i;
                              const char c = at < head.size()  ? head[at]
                                             : at < tail_begin ? '\0'
                                                               : tail[at - tail_begin];
                              into[i] = static_cast<std::byte>(c);
                            }
                          }};
  const std::vector<ZipRecord> records = read_zip(source);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].bytes, large);
  EXPECT_EQ(records[1].offset, second.data);
}

TEST(Crc32, ShiftJoinsParts) {
  std::string bytes;
  for (int i = 0; i < 1000; ++i) bytes += static_cast<char>(i * i);
  EXPECT_EQ(crc_of("123456789"), 0xcbf43926u);
  EXPECT_EQ(crc_of(""), 0u);
  for (const std::size_t cut : {0u, 1u, 7u, 500u, 999u, 1000u}) {
    const std::string a = bytes.substr(0, cut), b = bytes.substr(cut);
    EXPECT_EQ(crc32_shift(crc_of(a), b.size()) ^ crc_of(b), crc_of(bytes)) << cut;
  }
  EXPECT_EQ(crc32_shift(0, std::uint64_t{1} << 40), 0u);
  EXPECT_EQ(crc32_shift(crc32_shift(123, std::uint64_t{1} << 33), 77),
            crc32_shift(123, (std::uint64_t{1} << 33) + 77));
}

}  // namespace
}  // namespace reshard::formats
