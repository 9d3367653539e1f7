#include "formats/target_writer.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "formats/container/crc32.hpp"

namespace reshard::formats {

TargetWriter::TargetWriter(std::string staging, const Geometry& geometry, const Target& target,
                           const std::vector<FileLayout>& layouts)
    : staging_(std::move(staging)), geometry_(&geometry), target_(&target), layouts_(&layouts) {}

std::string TargetWriter::path(std::uint32_t number) const {
  return staging_ + "/" + target_->files[number].path;
}

const File& TargetWriter::file(std::uint32_t number) {
  constexpr std::size_t most_open = 64;
  const auto at = open_.find(number);
  if (at != open_.end()) return at->second;
  if (open_.size() >= most_open) {
    open_.begin()->second.sync();
    open_.erase(open_.begin());
  }
  return open_.emplace(number, File::open_write(path(number))).first->second;
}

void TargetWriter::create(std::uint32_t number) const {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::path(path(number)).parent_path();
  std::filesystem::create_directories(folder, error);
  if (error) throw Error(Kind::io, folder.string() + ": " + error.message());
  File::create(path(number)).resize(geometry_->targets[number].bytes);
}

void put_literal(const FileLayout::Literal& literal, ByteRange range, std::span<std::byte> bytes) {
  const std::uint64_t first = std::max(range.first, literal.offset);
  const std::uint64_t last = std::min(range.last, literal.offset + literal.bytes.size());
  if (first >= last) return;
  std::memcpy(bytes.data() + (first - range.first), literal.bytes.data() + (first - literal.offset),
              last - first);
}

void TargetWriter::put_other_bytes(Tile tile, std::span<std::byte> bytes) {
  const ByteRange range = bytes_of(*geometry_, tile);
  const FileDescription& description = target_->files[tile.file];
  if (description.container == FileDescription::Container::copy) {
    File::open_read(description.copied_from).read_at(range.first, bytes);
    return;
  }
  const std::vector<FileLayout::Literal>& literals = (*layouts_)[tile.file].literals;
  auto literal = std::upper_bound(
      literals.begin(), literals.end(), range.first,
      [](std::uint64_t at, const FileLayout::Literal& l) { return at < l.offset; });
  if (literal != literals.begin()) --literal;
  for (; literal != literals.end() && literal->offset < range.last; ++literal) {
    put_literal(*literal, range, bytes);
  }
}

void TargetWriter::write(Tile tile, std::span<const std::byte> bytes,
                         std::span<std::uint32_t> crcs) {
  const ByteRange range = bytes_of(*geometry_, tile);
  if (target_->files[tile.file].container == FileDescription::Container::torch) {
    for (const std::uint32_t t : tensors_in(*geometry_, tile.file, range)) {
      const TargetTensor& tensor = geometry_->tensors[t];
      const std::uint64_t end = tensor.base + tensor.bytes;
      const std::uint64_t first = std::max(range.first, tensor.base);
      const std::uint64_t last = std::min(range.last, end);
      crcs[t] ^=
          crc32_shift(crc32_of(bytes.subspan(first - range.first, last - first)), end - last);
    }
  }
  file(tile.file).write_at(range.first, bytes);
  bytes_written_ += bytes.size();
}

void TargetWriter::read(Tile tile, std::span<std::byte> bytes) {
  file(tile.file).read_at(bytes_of(*geometry_, tile).first, bytes);
}

std::vector<FileLayout::Literal> TargetWriter::trailer(std::uint32_t number,
                                                       std::span<const std::uint32_t> crcs) const {
  std::vector<std::uint32_t> mine(target_->files[number].tensors.size(), 0);
  for (const std::uint32_t t : geometry_->targets[number].tensors) {
    mine[geometry_->tensors[t].number] = crcs[t];
  }
  return trailer_of(target_->files[number], mine);
}

void TargetWriter::write_trailer(std::uint32_t number, std::uint32_t first, std::uint32_t last,
                                 std::span<const std::uint32_t> crcs) {
  const std::uint64_t begin = first * geometry_->tile_bytes;
  const std::uint64_t end = last * geometry_->tile_bytes;
  for (const FileLayout::Literal& literal : trailer(number, crcs)) {
    const std::uint64_t from = std::max(begin, literal.offset);
    const std::uint64_t to = std::min(end, literal.offset + literal.bytes.size());
    if (from >= to) continue;
    file(number).write_at(
        from, std::as_bytes(std::span(literal.bytes).subspan(from - literal.offset, to - from)));
  }
}

void TargetWriter::finish() {
  for (const auto& [number, opened] : open_) {
    opened.sync();
    opened.drop_cache();
  }
  open_.clear();
}

}  // namespace reshard::formats
