#include "formats/target_writer.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>

#include "core/parallel.hpp"
#include "formats/container/crc32.hpp"
#include "formats/container/hdf5_file.hpp"
#include "formats/container/hdf5_filtered.hpp"

namespace reshard::formats {
namespace {

/// The bytes of a constant tensor that lie in a range of its file.
void put_constant(const TargetTensor& tensor, ByteRange range, std::span<std::byte> bytes) {
  const StoredTensor& stored = tensor.stored;
  const std::uint64_t width = reshard::bytes(stored.dtype);
  const std::uint64_t n = stored.shape.empty() ? 1 : stored.shape.back();
  const std::uint64_t first = std::max(range.first, tensor.base);
  const std::uint64_t last = std::min(range.last, tensor.base + tensor.bytes);
  for (std::uint64_t at = first; at < last; ++at) {
    const std::uint64_t element = (at - tensor.base) / width;
    std::uint64_t value = 0;
    if (stored.constant == Constant::causal_mask) value = element % n <= element / n ? 1 : 0;
    if (stored.constant == Constant::positions) value = element % n;
    if (stored.constant == Constant::masked_score) {
      value = stored.dtype == Dtype::f16 ? 0xf0e2U : std::bit_cast<std::uint32_t>(-10000.0F);
    }
    bytes[at - range.first] =
        static_cast<std::byte>((value >> ((at - tensor.base) % width * 8)) & 0xffU);
  }
}

/// The bytes of other files that lie in a range of this one.
void put_copy(const FileLayout::Copy& copy, ByteRange range, std::span<std::byte> bytes) {
  const std::uint64_t first = std::max(range.first, copy.offset);
  const std::uint64_t last = std::min(range.last, copy.offset + copy.bytes);
  if (first >= last) return;
  File::open_read(copy.from).read_at(copy.from_offset + (first - copy.offset),
                                     bytes.subspan(first - range.first, last - first));
}

/// Makes the folders of a relative path below a root. One that is there already must be a folder,
/// not a link to one: what is written stays below the root.
void make_folders(const std::filesystem::path& root, const std::filesystem::path& relative) {
  std::filesystem::path folder = root;
  for (const std::filesystem::path& part : relative) {
    folder /= part;
    std::error_code error;
    std::filesystem::create_directory(folder, error);
    if (error) throw Error(Kind::io, folder.string() + ": " + error.message());
    if (!std::filesystem::is_directory(std::filesystem::symlink_status(folder))) {
      throw Error(Kind::io, folder.string() + ": is a link, wanted a folder");
    }
  }
}

}  // namespace

TargetWriter::TargetWriter(std::string staging, const Geometry& geometry, const Target& target,
                           const std::vector<FileLayout>& layouts, std::uint64_t threads)
    : staging_(std::move(staging)),
      geometry_(&geometry),
      target_(&target),
      layouts_(&layouts),
      threads_(threads) {}

std::string TargetWriter::path(std::uint32_t number) const {
  return staging_ + "/" + target_->files[number].path;
}

const File& TargetWriter::file(std::uint32_t number) {
  const auto at = open_.find(number);
  if (at != open_.end()) return at->second;
  return open_.emplace(number, File::open_write(path(number))).first->second;
}

File TargetWriter::reopen(std::uint32_t number) const {
  return File::open_read(path(number));
}

void TargetWriter::create(std::uint32_t number) const {
  make_folders(staging_, std::filesystem::path(target_->files[number].path).parent_path());
  if (const FileDescription& described = target_->files[number]; described.is_filtered()) {
    create_filtered_hdf5(path(number), hdf5_spec(described), described.packing);
    return;
  }
  const bool is_there =
      std::filesystem::is_regular_file(std::filesystem::symlink_status(path(number)));
  const File file = is_there ? File::open_write(path(number)) : File::create(path(number));
  file.resize(geometry_->targets[number].bytes);
}

void put_literal(const FileLayout::Literal& literal, ByteRange range, std::span<std::byte> bytes) {
  const std::uint64_t first = std::max(range.first, literal.offset);
  const std::uint64_t last = std::min(range.last, literal.offset + literal.bytes.size());
  if (first >= last) return;
  std::memcpy(bytes.data() + (first - range.first), literal.bytes.data() + (first - literal.offset),
              last - first);
}

void TargetWriter::put_other_bytes(Tile tile, std::span<std::byte> bytes) const {
  const ByteRange range = bytes_of(*geometry_, tile);
  const FileLayout& layout = (*layouts_)[tile.file];
  for (const FileLayout::Copy& copy : layout.copies) put_copy(copy, range, bytes);
  for (const std::uint32_t t : tensors_in(*geometry_, tile.file, range)) {
    const TargetTensor& tensor = geometry_->tensors[t];
    if (tensor.stored.constant != Constant::none) put_constant(tensor, range, bytes);
  }
  const std::vector<FileLayout::Literal>& literals = layout.literals;
  auto literal = std::upper_bound(
      literals.begin(), literals.end(), range.first,
      [](std::uint64_t at, const FileLayout::Literal& l) { return at < l.offset; });
  if (literal != literals.begin()) --literal;
  for (; literal != literals.end() && literal->offset < range.last; ++literal) {
    put_literal(*literal, range, bytes);
  }
}

void TargetWriter::write_tile(const TileBytes& tile, std::span<std::uint32_t> crcs) {
  const ByteRange range = bytes_of(*geometry_, tile.tile);
  const std::uint32_t number = tile.tile.file;
  busy_with_ = number;
  if (has_crcs(target_->files[number])) {
    for (const std::uint32_t t : tensors_in(*geometry_, number, range)) {
      const TargetTensor& tensor = geometry_->tensors[t];
      const std::uint64_t end = tensor.base + tensor.bytes;
      const std::uint64_t first = std::max(range.first, tensor.base);
      const std::uint64_t last = std::min(range.last, end);
      const std::uint32_t crc =
          crc32_shift(crc32_of(tile.bytes.subspan(first - range.first, last - first)), end - last);
      const std::lock_guard lock(crcs_);
      crcs[t] ^= crc;
    }
  }
  open_.at(number).write_at(range.first, tile.bytes);
}

void TargetWriter::write(std::span<const TileBytes> tiles, std::span<std::uint32_t> crcs) {
  constexpr std::size_t most_open = 64;
  if (open_.size() >= most_open) finish();
  const auto is_filtered = [&](const TileBytes& tile) {
    return target_->files[tile.tile.file].is_filtered();
  };
  for (const TileBytes& tile : tiles) {
    if (!is_filtered(tile)) file(tile.tile.file);
  }
  for_each(tiles.size(), threads_, [&](std::uint64_t i) {
    if (!is_filtered(tiles[i])) write_tile(tiles[i], crcs);
  });
  for (const TileBytes& tile : tiles) bytes_written_ += tile.bytes.size();
}

TensorSums TargetWriter::sums_of(std::uint32_t number, const Sums& sums) const {
  const std::vector<StoredTensor>& described = target_->files[number].tensors;
  TensorSums mine{std::vector<std::uint32_t>(described.size(), 0), {}};
  if (!sums.arrived.empty()) mine.digests.resize(described.size());
  for (const std::uint32_t t : geometry_->targets[number].tensors) {
    const TargetTensor& tensor = geometry_->tensors[t];
    mine.crcs[tensor.number] = sums.crcs[t];
    if (sums.arrived.empty()) continue;
    const std::vector<std::uint32_t> contents = contents_of(tensor.stored);
    std::vector<Digest>& digests = mine.digests[tensor.number];
    digests.resize(contents.size());
    for (std::size_t p = 0; p < tensor.stored.placements.size(); ++p) {
      const auto at =
          std::find(contents.begin(), contents.end(), tensor.stored.placements[p].tensor);
      digests[static_cast<std::size_t>(at - contents.begin())] +=
          sums.arrived[tensor.first_placement + p];
    }
  }
  return mine;
}

std::shared_ptr<const TargetWriter::Trailer> TargetWriter::trailer(std::uint32_t number,
                                                                   const Sums& sums) const {
  const std::lock_guard lock(trailer_lock_);
  if (trailer_ == nullptr || trailer_file_ != number) {
    trailer_ = std::make_shared<const Trailer>(
        trailer_of(target_->files[number], (*layouts_)[number], sums_of(number, sums)));
    trailer_file_ = number;
  }
  return trailer_;
}

void TargetWriter::write_trailer(std::uint32_t number, std::uint32_t first, std::uint32_t last,
                                 const Sums& sums) {
  const std::uint64_t begin = bytes_of(*geometry_, {number, first}).first;
  const std::uint64_t end = bytes_of(*geometry_, {number, last - 1}).last;
  for (const FileLayout::Literal& literal : *trailer(number, sums)) {
    const std::uint64_t from = std::max(begin, literal.offset);
    const std::uint64_t to = std::min(end, literal.offset + literal.bytes.size());
    if (from >= to) continue;
    file(number).write_at(
        from, std::as_bytes(std::span(literal.bytes).subspan(from - literal.offset, to - from)));
  }
}

void TargetWriter::seal_filtered(std::uint32_t number, const Sums& sums) const {
  const FileDescription& described = target_->files[number];
  if (!sums.arrived.empty()) {
    put_hdf5_digests(path(number), hdf5_spec(described), sums_of(number, sums).digests);
  }
  const File written = File::open_write(path(number));
  written.sync();
  written.drop_cache();
}

FileIndex TargetWriter::check_filtered(std::uint32_t number, const Sums& sums) const {
  const FileDescription& described = target_->files[number];
  const TensorSums mine = sums_of(number, sums);
  check_filtered_hdf5(path(number), hdf5_spec(described), described.packing,
                      mine.digests.empty() ? nullptr : &mine.digests);
  return read_hdf5(path(number), described.path);
}

void TargetWriter::sync() const {
  std::vector<const File*> files;
  for (const auto& [number, opened] : open_) files.push_back(&opened);
  for_each(files.size(), threads_, [&](std::uint64_t i) { files[i]->sync(); });
}

void TargetWriter::finish() {
  sync();
  for (const auto& [number, opened] : open_) opened.drop_cache();
  open_.clear();
}

}  // namespace reshard::formats
