#include "formats/source_reader.hpp"

#include <algorithm>

#include "core/parallel.hpp"
#include "core/ranges.hpp"
#include "core/transform.hpp"

namespace reshard::formats {
namespace {

/// Whether elements follow one another by these strides, in the order of the dimensions.
bool is_contiguous(const Dims& extent, const Dims& stride) {
  std::uint64_t expected = 1;
  for (std::size_t d = extent.size(); d-- > 0;) {
    if (extent[d] == 1) continue;
    if (stride[d] != expected) return false;
    expected *= extent[d];
  }
  return true;
}

std::uint64_t bytes_spanned(const ReadRequest& request) {
  std::uint64_t last = 0;
  for (std::size_t d = 0; d < request.extent.size(); ++d) {
    last += (request.extent[d] - 1) * request.from_stride[d];
  }
  return (last + 1) * request.width;
}

/// The merged ranges and where each lies in memory.
struct Staged {
  std::vector<FileRange> ranges;
  std::vector<std::byte*> memory;  ///< of each range

  /// Index of the range that holds a byte.
  [[nodiscard]] std::size_t holding(std::uint32_t file, std::uint64_t byte) const {
    const auto after = std::upper_bound(ranges.begin(), ranges.end(), FileRange{file, byte, ~0UL});
    return static_cast<std::size_t>(after - ranges.begin()) - 1;
  }

  /// Copies a request out of the ranges, halving it along its slowest dimension until each part
  /// lies in one.
  void copy(const ReadRequest& request) const {
    const std::size_t r = holding(request.file, request.first);
    if (request.first + bytes_spanned(request) <= ranges[r].last) {
      const std::byte* from = memory[r] + (request.first - ranges[r].first);
      if (from == request.to) return;  // read straight to its place
      copy_strided(request.to, {request.to_stride.begin(), request.to_stride.end()}, from,
                   {request.from_stride.begin(), request.from_stride.end()},
                   {request.extent.begin(), request.extent.end()}, request.width);
      return;
    }
    std::size_t slowest = 0;
    for (std::size_t d = 1; d < request.extent.size(); ++d) {
      const bool slower = request.from_stride[d] > request.from_stride[slowest];
      if (request.extent[slowest] == 1 || (request.extent[d] > 1 && slower)) slowest = d;
    }
    const std::uint64_t half = request.extent[slowest] / 2;
    ReadRequest low = request, high = request;
    low.extent[slowest] = half;
    high.extent[slowest] -= half;
    high.first += half * request.from_stride[slowest] * request.width;
    high.to += half * request.to_stride[slowest] * request.width;
    copy(low);
    copy(high);
  }
};

}  // namespace

void SourceReader::read_piece(const Piece& piece) {
  const auto& [number, first, to] = piece;
  const SourceFile& source = (*files_)[number];
  busy_with_ = number;
  if (!source.content.empty()) {
    std::copy_n(source.content.begin() + static_cast<std::ptrdiff_t>(first), to.size(), to.begin());
  } else if (source.chunks) {
    const File& file = open_.at(number);
    const auto read_at = [&](std::uint64_t at, std::span<std::byte> bytes) {
      file.read_at(at, bytes);
    };
    chunks_.read({number, *source.chunks, file.path(), read_at}, first, to);
  } else {
    open_.at(number).read_at(first, to);
  }
}

/// Pieces are ascending by file.
void SourceReader::read_pieces(std::span<const Piece> pieces) {
  constexpr std::size_t most_open = 64;
  while (!pieces.empty()) {
    std::size_t count = 0;
    if (open_.size() >= most_open) open_.clear();
    for (; count < pieces.size(); ++count) {
      const std::uint32_t number = pieces[count].file;
      if (open_.contains(number) || !(*files_)[number].content.empty()) continue;
      if (open_.size() >= most_open) break;
      open_.emplace(number, File::open_read(folder_ + "/" + (*files_)[number].path));
    }
    for_each(count, threads_, [&](std::uint64_t i) { read_piece(pieces[i]); });
    pieces = pieces.subspan(count);
  }
}

void SourceReader::read(std::span<const ReadRequest> requests) {
  std::vector<FileRange> wanted;
  for (const ReadRequest& request : requests) {
    append_ranges(request.file, request.first, request.extent, request.from_stride, request.width,
                  wanted);
  }
  Staged staged{merge_ranges(std::move(wanted)), {}};
  staged.memory.resize(staged.ranges.size(), nullptr);
  for (const ReadRequest& request : requests) {  // those that are a range of their own, straight
    if (!is_contiguous(request.extent, request.from_stride) ||
        !is_contiguous(request.extent, request.to_stride)) {
      continue;
    }
    const std::size_t r = staged.holding(request.file, request.first);
    const FileRange& range = staged.ranges[r];
    if (range.first == request.first && range.last == request.first + bytes_spanned(request)) {
      staged.memory[r] = request.to;
    }
  }
  std::size_t size = 0;
  for (std::size_t r = 0; r < staged.ranges.size(); ++r) {
    if (staged.memory[r] == nullptr) size += staged.ranges[r].last - staged.ranges[r].first;
  }
  std::byte* at = staging_.take(size).data();
  std::vector<Piece> pieces;
  for (std::size_t r = 0; r < staged.ranges.size(); ++r) {
    const FileRange& range = staged.ranges[r];
    if (staged.memory[r] == nullptr) {
      staged.memory[r] = at;
      at += range.last - range.first;
    }
    for (const FileRange& part : kept_.take(range, staged.memory[r])) {
      constexpr std::uint64_t most = std::uint64_t{2} << 20;
      for (std::uint64_t byte = part.first; byte < part.last; byte += most) {
        std::byte* to = staged.memory[r] + (byte - range.first);
        pieces.push_back({range.file, byte, {to, std::min(most, part.last - byte)}});
      }
      bytes_read_ += part.last - part.first;
    }
  }
  read_pieces(pieces);
  for (const ReadRequest& request : requests) {
    if (request.others == 0) continue;
    wanted.clear();
    append_ranges(request.file, request.first, request.extent, request.from_stride, request.width,
                  wanted);
    for (const FileRange& range : wanted) {
      const std::size_t r = staged.holding(range.file, range.first);
      kept_.asked(range, staged.memory[r] + (range.first - staged.ranges[r].first), request.others);
    }
  }
  for_each(requests.size(), threads_, [&](std::uint64_t i) { staged.copy(requests[i]); });
}

}  // namespace reshard::formats
