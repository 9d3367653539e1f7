#include "formats/file_sums.hpp"

#include <algorithm>
#include <tuple>

#include "formats/container/crc32.hpp"

namespace reshard::formats {

void FileExtents::add(std::span<const ByteRange> ranges) {
  std::uint64_t before = 0;
  for (const ByteRange& range : ranges) {
    parts.push_back({range, tensors, before});
    before += range.size();
  }
  ++tensors;
}

void FileExtents::sort() {
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
    return std::tie(a.range.first, a.range.last) < std::tie(b.range.first, b.range.last);
  });
}

ByteSums& ByteSums::operator+=(const ByteSums& more) {
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i] += more.tensors[i];
  for (std::size_t i = 0; i < others.size(); ++i) others[i] ^= more.others[i];
  return *this;
}

FileSums::FileSums(std::vector<FileExtents> files) : files_(std::move(files)) {
  for (const FileExtents& file : files_) {
    Place place;
    place.first = tensors_;
    std::uint64_t end = 0;
    for (const FileExtents::Part& part : file.parts) {
      place.others += part.range.first - end;
      place.before.push_back(place.others);
      end = part.range.last;
    }
    place.others += file.bytes - end;
    tensors_ += file.tensors;
    places_.push_back(std::move(place));
  }
}

ByteSums FileSums::none() const {
  return {std::vector<Digest>(tensors_), std::vector<std::uint32_t>(files_.size(), 0)};
}

void FileSums::add(std::size_t file, std::uint64_t offset, std::span<const std::byte> bytes,
                   ByteSums& sums) const {
  using Part = FileExtents::Part;
  const std::vector<Part>& parts = files_[file].parts;
  const Place& place = places_[file];
  std::uint64_t at = offset;
  const std::uint64_t end = offset + bytes.size();
  auto next = static_cast<std::size_t>(
      std::upper_bound(parts.begin(), parts.end(), offset,
                       [](std::uint64_t o, const Part& part) { return o < part.range.last; }) -
      parts.begin());
  while (at < end) {
    const bool is_last = next == parts.size();
    const std::uint64_t border = is_last ? end : std::min(end, parts[next].range.first);
    if (at < border) {  // no tensor's
      const std::uint64_t before = is_last ? place.others : place.before[next];
      const std::uint64_t gap_end = is_last ? files_[file].bytes : parts[next].range.first;
      const std::uint64_t after = place.others - before + (gap_end - border);
      sums.others[file] ^= crc32_shift(crc32_of(bytes.subspan(at - offset, border - at)), after);
      at = border;
    }
    if (at == end) break;
    const Part& part = parts[next];
    const std::uint64_t stop = std::min(end, part.range.last);
    sums.tensors[place.first + part.tensor] +=
        digest_run(bytes.subspan(at - offset, stop - at), 1, part.before + (at - part.range.first));
    at = stop;
    ++next;
  }
}

}  // namespace reshard::formats
