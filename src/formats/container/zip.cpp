#include "formats/container/zip.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

constexpr std::string_view local_signature = "PK\3\4", central_signature = "PK\1\2",
                           end_signature = "PK\5\6", end64_signature = "PK\6\6",
                           locator_signature = "PK\6\7";
constexpr std::uint64_t local_size = 30, central_size = 46, end_size = 22, end64_size = 56,
                        locator_size = 20, max_comment = 65535;
constexpr std::uint64_t in_zip64 = 0xffffffff, entries_in_zip64 = 0xffff;
constexpr std::uint64_t zip64_extra = 1;
constexpr std::uint64_t encrypted_flag = 1;
/// The directory is held in memory; a file of torch has a record for each tensor.
constexpr std::uint64_t max_directory = std::uint64_t{32} << 20, max_entries = 300'000;

Error bad(const std::string& text) {
  return {Kind::input, "zip: " + text};
}

/// The little-endian number of `width` bytes at `at`, which the caller knows to be there.
std::uint64_t number(std::string_view bytes, std::uint64_t at, std::size_t width) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data() + at, width);
  return value;
}

/// Where the central directory lies and how many entries it has.
struct Directory {
  std::uint64_t offset = 0, bytes = 0, entries = 0;
};

/// Whether the very end is an end record without comment: torch and Python take it before others.
bool ends_without_comment(std::string_view tail) {
  return tail.size() >= end_size &&
         tail.substr(tail.size() - end_size).starts_with(end_signature) &&
         number(tail, tail.size() - 2, 2) == 0;
}

/// Position of the end record in the file's tail: the one whose comment ends with the file.
std::uint64_t find_end(std::string_view tail) {
  if (ends_without_comment(tail)) return tail.size() - end_size;
  std::uint64_t found = 0;
  int count = 0;
  for (std::size_t at = tail.find(end_signature); at != std::string_view::npos;
       at = tail.find(end_signature, at + 1)) {
    if (tail.size() - at < end_size) break;
    if (at + end_size + number(tail, at + 20, 2) == tail.size()) {
      found = at;
      ++count;
    }
  }
  if (count == 0) throw bad("no end record; the file is cut off or no zip archive");
  if (count > 1) throw bad("more than one end record");
  return found;
}

/// A field of the end record against its zip64 twin; the short one may be all ones instead.
void require_same(std::uint64_t field, std::uint64_t wide, std::uint64_t sentinel) {
  if (field != wide && field != sentinel) throw bad("the end record and its zip64 twin disagree");
}

Directory find_directory(const ByteSource& source) {
  const auto read_tail = [&](std::uint64_t most) {
    const std::uint64_t size = std::min(source.size, most);
    return read_bytes(source, source.size - size, size, "zip: end of the file");
  };
  std::string tail = read_tail(locator_size + end_size);  // all that most files need
  if (!ends_without_comment(tail)) tail = read_tail(end_size + max_comment);
  const std::uint64_t tail_begin = source.size - tail.size();
  const std::uint64_t at = find_end(tail);
  const std::string_view end = std::string_view(tail).substr(at, end_size);
  Directory directory{number(end, 16, 4), number(end, 12, 4), number(end, 10, 2)};
  std::uint64_t end_of_directory = tail_begin + at;
  const bool has_locator = at >= locator_size &&
                           std::string_view(tail).substr(at - locator_size, 4) == locator_signature;
  if (has_locator) {
    const std::uint64_t locator = end_of_directory - locator_size;
    end_of_directory = number(tail, at - locator_size + 8, 8);
    const std::string end64 = read_bytes(source, end_of_directory, end64_size, "zip: zip64 end");
    if (!end64.starts_with(end64_signature) || number(end64, 4, 8) > locator ||
        end_of_directory + 12 + number(end64, 4, 8) != locator) {
      throw bad("the zip64 end record is not where its locator says");
    }
    const Directory wide{number(end64, 48, 8), number(end64, 40, 8), number(end64, 32, 8)};
    require_same(directory.offset, wide.offset, in_zip64);
    require_same(directory.bytes, wide.bytes, in_zip64);
    require_same(directory.entries, wide.entries, entries_in_zip64);
    directory = wide;
  }
  if (directory.bytes > max_directory) {
    throw bad("a central directory of more than " + std::to_string(max_directory) + " bytes");
  }
  if (directory.offset > end_of_directory ||
      directory.bytes != end_of_directory - directory.offset) {
    throw bad("the central directory of " + std::to_string(directory.bytes) + " bytes at " +
              std::to_string(directory.offset) + " does not end at the end record, byte " +
              std::to_string(end_of_directory));
  }
  if (directory.entries > directory.bytes / central_size) {
    throw bad(std::to_string(directory.entries) + " entries in a directory of " +
              std::to_string(directory.bytes) + " bytes");
  }
  if (directory.entries > max_entries) {
    throw bad("more than " + std::to_string(max_entries) + " records");
  }
  return directory;
}

/// An entry of the central directory: a record whose offset is still that of its local header.
struct Entry {
  ZipRecord record;
  std::uint64_t stored_bytes = 0;
};

/// Replaces the fields that are all ones by those of the zip64 extra field, in this fixed order.
void widen(Entry& entry, std::string_view extra) {
  std::uint64_t* const fields[] = {&entry.record.bytes, &entry.stored_bytes, &entry.record.offset};
  for (std::uint64_t at = 0; extra.size() - at >= 4;) {
    const std::uint64_t id = number(extra, at, 2), size = number(extra, at + 2, 2);
    at += 4;
    if (size > extra.size() - at)
      throw bad("an extra field of " + entry.record.name + " is cut off");
    std::uint64_t used = 0;
    for (std::uint64_t* field : fields) {
      if (id != zip64_extra || *field != in_zip64) continue;
      if (size - used < 8) throw bad("the zip64 field of " + entry.record.name + " is cut off");
      *field = number(extra, at + used, 8);
      used += 8;
    }
    at += size;
  }
}

/// Parses the entry at the begin of bytes and removes it from them.
Entry take_entry(std::string_view& bytes) {
  if (bytes.size() < central_size || !bytes.starts_with(central_signature)) {
    throw bad("the central directory is cut off or damaged");
  }
  const std::uint64_t name_size = number(bytes, 28, 2), extra_size = number(bytes, 30, 2),
                      comment_size = number(bytes, 32, 2);
  const std::uint64_t total = central_size + name_size + extra_size + comment_size;
  if (bytes.size() < total) throw bad("the central directory is cut off");
  Entry entry;
  entry.record.name = bytes.substr(central_size, name_size);
  entry.record.offset = number(bytes, 42, 4);
  entry.record.bytes = number(bytes, 24, 4);
  entry.record.crc = static_cast<std::uint32_t>(number(bytes, 16, 4));
  entry.stored_bytes = number(bytes, 20, 4);
  widen(entry, bytes.substr(central_size + name_size, extra_size));
  const std::string& name = entry.record.name;
  if ((number(bytes, 8, 2) & encrypted_flag) != 0) throw bad("record " + name + " is encrypted");
  if (number(bytes, 10, 2) != 0) {
    throw bad("record " + name + " is compressed (method " + std::to_string(number(bytes, 10, 2)) +
              "); torch stores records as they are");
  }
  if (entry.stored_bytes != entry.record.bytes) {
    throw bad("record " + name + " has " + std::to_string(entry.record.bytes) +
              " bytes but takes " + std::to_string(entry.stored_bytes));
  }
  bytes.remove_prefix(total);
  return entry;
}

/// Checks the local header and makes offset that of the data (the local extra field's length is
/// another than the central one's).
ZipRecord locate(const ByteSource& source, Entry entry, std::uint64_t directory_offset) {
  ZipRecord& record = entry.record;
  const std::string header = read_bytes(source, record.offset, local_size + record.name.size(),
                                        "zip: local header of " + record.name);
  if (!header.starts_with(local_signature) || number(header, 26, 2) != record.name.size() ||
      header.substr(local_size) != record.name) {
    throw bad("the local header of " + record.name + " at byte " + std::to_string(record.offset) +
              " is of another record");
  }
  if (number(header, 8, 2) != 0) throw bad("record " + record.name + " is compressed");
  record.offset += header.size() + number(header, 28, 2);
  if (record.offset > directory_offset || record.bytes > directory_offset - record.offset) {
    throw bad("record " + record.name + " of " + std::to_string(record.bytes) +
              " bytes runs into the central directory");
  }
  return std::move(record);
}

void require_unique(const std::vector<ZipRecord>& records) {
  std::vector<std::string_view> names;
  for (const ZipRecord& record : records) names.push_back(record.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw bad("record " + std::string(*twice) + " occurs twice");
}

}  // namespace

std::vector<ZipRecord> read_zip(const ByteSource& source) {
  const Directory directory = find_directory(source);
  const std::string bytes =
      read_bytes(source, directory.offset, directory.bytes, "zip: central directory");
  std::string_view rest = bytes;
  std::vector<ZipRecord> records;
  struct Range {
    std::uint64_t begin, end;
    std::size_t record;
  };
  std::vector<Range> ranges;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    Entry entry = take_entry(rest);
    const std::uint64_t begin = entry.record.offset;
    records.push_back(locate(source, std::move(entry), directory.offset));
    ranges.push_back({begin, records.back().offset + records.back().bytes, records.size() - 1});
  }
  if (!rest.empty()) throw bad("the central directory has more entries than the end record says");
  require_unique(records);
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].begin < ranges[i - 1].end) {
      throw bad("records " + records[ranges[i - 1].record].name + " and " +
                records[ranges[i].record].name + " overlap");
    }
  }
  if (ranges.empty() || ranges.front().begin != 0) throw bad("it does not begin with a record");
  return records;
}

}  // namespace reshard::formats
