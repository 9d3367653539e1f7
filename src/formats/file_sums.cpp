#include "formats/file_sums.hpp"

#include <algorithm>

#include "formats/container/crc32.hpp"

namespace reshard::formats {

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
    for (const ByteRange& tensor : file.tensors) {
      place.others += tensor.first - end;
      place.before.push_back(place.others);
      end = tensor.last;
    }
    place.others += file.bytes - end;
    tensors_ += file.tensors.size();
    places_.push_back(std::move(place));
  }
}

ByteSums FileSums::none() const {
  return {std::vector<Digest>(tensors_), std::vector<std::uint32_t>(files_.size(), 0)};
}

void FileSums::add(std::size_t file, std::uint64_t offset, std::span<const std::byte> bytes,
                   ByteSums& sums) const {
  const std::vector<ByteRange>& tensors = files_[file].tensors;
  const Place& place = places_[file];
  std::uint64_t at = offset;
  const std::uint64_t end = offset + bytes.size();
  auto tensor = static_cast<std::size_t>(
      std::upper_bound(tensors.begin(), tensors.end(), offset,
                       [](std::uint64_t o, const ByteRange& range) { return o < range.last; }) -
      tensors.begin());
  while (at < end) {
    const bool is_last = tensor == tensors.size();
    const std::uint64_t next = is_last ? end : std::min(end, tensors[tensor].first);
    if (at < next) {  // no tensor's
      const std::uint64_t before = is_last ? place.others : place.before[tensor];
      const std::uint64_t gap_end = is_last ? files_[file].bytes : tensors[tensor].first;
      const std::uint64_t after = place.others - before + (gap_end - next);
      sums.others[file] ^= crc32_shift(crc32_of(bytes.subspan(at - offset, next - at)), after);
      at = next;
    }
    if (at == end) break;
    const ByteRange& range = tensors[tensor];
    const std::uint64_t stop = std::min(end, range.last);
    sums.tensors[place.first + tensor] +=
        digest_run(bytes.subspan(at - offset, stop - at), 1, at - range.first);
    at = stop;
    ++tensor;
  }
}

}  // namespace reshard::formats
