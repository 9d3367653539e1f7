#include "formats/kept_ranges.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace reshard::formats {

template <typename KeptMap, typename OnKept, typename OnOther>
void KeptRanges::walk(KeptMap& map, const FileRange& range, OnKept&& kept, OnOther&& other) {
  std::uint64_t at = range.first;
  auto next = map.upper_bound({range.file, at});
  if (next != map.begin()) {
    const auto before = std::prev(next);
    if (before->first.first == range.file && before->second.last > at) next = before;
  }
  while (at < range.last) {
    const bool meets = next != map.end() && next->first.first == range.file;
    const std::uint64_t begin = meets ? std::min(next->first.second, range.last) : range.last;
    if (begin > at) {
      other(FileRange{range.file, at, begin});
      at = begin;
      continue;
    }
    const auto here = next++;
    const std::uint64_t end = std::min(here->second.last, range.last);
    kept(here, FileRange{range.file, at, end});
    at = end;
  }
}

std::vector<FileRange> KeptRanges::take(const FileRange& range, std::byte* to) const {
  std::vector<FileRange> rest;
  walk(
      kept_, range,
      [&](Map::const_iterator at, const FileRange& part) {
        std::memcpy(to + (part.first - range.first),
                    at->second.memory.get() + (part.first - at->first.second),
                    part.last - part.first);
      },
      [&](const FileRange& part) { rest.push_back(part); });
  return rest;
}

void KeptRanges::asked(const FileRange& range, const std::byte* from, std::uint64_t others) {
  std::vector<FileRange> fresh;
  walk(
      kept_, range,
      [&](Map::iterator at, const FileRange& part) {
        Kept& kept = at->second;
        kept.due -= std::min(kept.due, part.last - part.first);
        if (kept.due == 0) drop(at);
      },
      [&](const FileRange& part) { fresh.push_back(part); });
  for (const FileRange& part : fresh) {
    const std::uint64_t size = part.last - part.first;
    if (size > most_bytes_) continue;
    while (bytes_ + size > most_bytes_) drop(kept_.find(by_age_.begin()->second));
    auto memory = std::make_unique_for_overwrite<std::byte[]>(size);
    std::memcpy(memory.get(), from + (part.first - range.first), size);
    const Place place{part.file, part.first};
    kept_.emplace(place, Kept{part.last, others * size, next_number_, std::move(memory)});
    by_age_.emplace(next_number_++, place);
    bytes_ += size;
  }
}

void KeptRanges::drop(Map::iterator kept) {
  bytes_ -= kept->second.last - kept->first.second;
  by_age_.erase(kept->second.number);
  kept_.erase(kept);
}

}  // namespace reshard::formats
