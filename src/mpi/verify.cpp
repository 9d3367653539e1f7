#include "mpi/verify.hpp"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/buffer.hpp"
#include "core/parallel.hpp"
#include "core/strides.hpp"
#include "core/transform.hpp"
#include "formats/container/hdf5_chunks.hpp"
#include "formats/container/hdf5_filtered.hpp"

namespace reshard::mpi {
namespace {

/// A chunk of a file that was just written.
std::vector<std::byte> unpacked_chunk(const Chunking& chunks, const Chunking::Place& place,
                                      std::vector<std::byte> stored) {
  try {
    return formats::unpack_chunk(chunks, place, std::move(stored));
  } catch (const Error& error) {
    throw Error(Kind::verification, error.what());
  }
}

/// Holds tiles against what must be in them.
class TileCheck {
 public:
  explicit TileCheck(const Written& written)
      : geometry_(written.geometry),
        target_(written.target),
        sums_(written.sums),
        writer_(written.writer),
        filtered_(written.filtered),
        files_(written.files) {}

  /// What tiles hold: by placement, and as bytes of files.
  struct Found {
    std::vector<Digest> placements;
    formats::ByteSums sums;
  };

  void check(Tile tile, Found& found) {
    const ByteRange range = bytes_of(geometry_, tile);
    const std::span<std::byte> seen = read_.take(range.size());
    if (file_number_ != tile.file) file_ = writer_.reopen(tile.file);
    file_number_ = tile.file;
    if (const auto packed = filtered_.find(tile.file); packed != filtered_.end()) {
      unpack(packed->second, tile, seen, found.sums);
    } else {
      file_->read_at(range.first, seen);
      files_.add(tile.file, range.first, seen, found.sums);
    }
    std::uint64_t proven = range.first;  // up to here by digests, or compared below
    for (const std::uint32_t t : tensors_in(geometry_, tile.file, range)) {
      const TargetTensor& tensor = geometry_.tensors[t];
      const std::uint64_t first = std::max(range.first, tensor.base);
      const std::uint64_t last = std::min(range.last, tensor.base + tensor.bytes);
      if (first >= last || !add_digests(tensor, range, {first, last}, seen, found.placements)) {
        continue;
      }
      compare(tile, range, {proven, first}, seen);
      proven = last;
    }
    compare(tile, range, {proven, range.last}, seen);
  }

  /// Adds the bytes of a filtered file that are no tensor's.
  void add_others(std::uint32_t file, formats::ByteSums& sums) {
    const formats::File opened = writer_.reopen(file);
    const formats::FileExtents& extents = files_.files()[file];
    std::uint64_t at = 0;
    for (std::size_t p = 0; p <= extents.parts.size(); ++p) {
      const bool is_last = p == extents.parts.size();
      const std::uint64_t end = is_last ? extents.bytes : extents.parts[p].range.first;
      while (at < end) {
        constexpr std::uint64_t most = std::uint64_t{1} << 20;
        const std::span<std::byte> bytes = read_.take(std::min(end - at, most));
        opened.read_at(at, bytes);
        files_.add(file, at, bytes, sums);
        at += bytes.size();
      }
      if (!is_last) at = extents.parts[p].range.last;
    }
  }

 private:
  /// The elements of a filtered file's tile, out of its chunks, whose bytes are added to the sums.
  void unpack(const FilteredFile& packed, Tile tile, std::span<std::byte> to,
              formats::ByteSums& sums) {
    const ByteRange range = bytes_of(geometry_, tile);
    std::fill(to.begin(), to.end(), std::byte{0});
    for (const std::uint32_t t : tensors_in(geometry_, tile.file, range)) {
      const TargetTensor& tensor = geometry_.tensors[t];
      const formats::TensorEntry& entry = packed.entry(tensor);
      const std::uint64_t width = bytes(tensor.stored.dtype);
      const std::uint64_t begin = std::max(range.first, tensor.base);
      const std::uint64_t end = std::min(range.last, tensor.base + tensor.bytes);
      const auto place = [&](std::uint64_t element, std::uint64_t count) {
        return to.subspan(tensor.base + element * width - range.first, count * width);
      };
      with_context(target_.files[tile.file].path + ": " + tensor.stored.name, [&] {
        if (!entry.chunks) {
          file_->read_at(entry.offset, place(0, tensor.bytes / width));
          files_.add(tile.file, entry.offset, place(0, tensor.bytes / width), sums);
          return;
        }
        const Chunking& chunks = *entry.chunks;
        std::uint64_t element = (begin - tensor.base) / width;
        std::uint64_t number = formats::chunk_holding(chunks.shape, chunks.extent, element);
        for (; element < (end - tensor.base) / width; ++number) {
          std::vector<std::byte> stored(chunks.places[number].bytes);
          file_->read_at(chunks.places[number].offset, stored);
          files_.add(tile.file, chunks.places[number].offset, stored, sums);
          const std::vector<std::byte> unpacked =
              unpacked_chunk(chunks, chunks.places[number], std::move(stored));
          const formats::ChunkElements held =
              formats::elements_of_chunk(chunks.shape, chunks.extent, number);
          std::copy_n(unpacked.begin(), held.count * width, place(held.first, held.count).begin());
          element = held.first + held.count;
        }
      });
    }
  }

  /// Adds the digests of a tensor's placements in `part` of a tile; whether they hold all of it.
  bool add_digests(const TargetTensor& tensor, ByteRange range, ByteRange part,
                   std::span<const std::byte> seen, std::vector<Digest>& found) const {
    std::uint64_t covered = 0;
    for (std::uint32_t n = 0; n < tensor.stored.placements.size(); ++n) {
      for (const Placement& placed : parts_in(tensor, n, part)) {
        const std::uint64_t width = bytes(tensor.stored.dtype);
        const Dims canonical = strides_of(geometry_.model[placed.tensor]);
        found[tensor.first_placement + n] +=
            digest_box(seen.data() + (tensor.base + placed.offset * width - range.first), width,
                       view(placed.box.extent), view(placed.stride), view(canonical),
                       element_at(placed.box.offset, canonical));
        covered += placed.box.elements() * width;
      }
    }
    return covered == part.size();
  }

  static std::vector<Placement> parts_in(const TargetTensor& tensor, std::uint32_t placement,
                                         ByteRange part) {
    const std::uint64_t width = bytes(tensor.stored.dtype);
    return cut(tensor.stored.placements[placement], (part.first - tensor.base) / width,
               (part.last - tensor.base) / width);
  }

  /// What a tile holds beside tensors: literals, copied bytes, the trailer, and zeros as fill.
  std::span<std::byte> other_bytes(Tile tile, ByteRange range) {
    if (wanted_tile_ == tile) return wanted_.bytes();
    wanted_tile_ = tile;
    const std::span<std::byte> wanted = wanted_.take(range.size());
    std::fill(wanted.begin(), wanted.end(), std::byte{0});
    writer_.put_other_bytes(tile, wanted);
    if (tile.file != trailer_file_) {
      trailer_ = writer_.trailer(tile.file, sums_);
      trailer_file_ = tile.file;
    }
    for (const formats::FileLayout::Literal& literal : *trailer_) {
      formats::put_literal(literal, range, wanted);
    }
    return wanted;
  }

  /// Compares `part` of a tile with what must be there; what placements hold in it is proven by
  /// digests.
  void compare(Tile tile, ByteRange range, ByteRange part, std::span<const std::byte> seen) {
    if (part.first >= part.last) return;
    const std::span<std::byte> wanted = other_bytes(tile, range);
    for (const std::uint32_t t : tensors_in(geometry_, tile.file, part)) {
      const TargetTensor& tensor = geometry_.tensors[t];
      const ByteRange shared{std::max(part.first, tensor.base),
                             std::min(part.last, tensor.base + tensor.bytes)};
      if (shared.first >= shared.last) continue;
      const std::uint64_t width = bytes(tensor.stored.dtype);
      for (std::uint32_t n = 0; n < tensor.stored.placements.size(); ++n) {
        for (const Placement& placed : parts_in(tensor, n, shared)) {
          const std::uint64_t at = tensor.base + placed.offset * width - range.first;
          copy_strided(wanted.data() + at, view(placed.stride), seen.data() + at,
                       view(placed.stride), view(placed.box.extent), width);
        }
      }
    }
    const std::uint64_t begin = part.first - range.first;
    if (std::memcmp(seen.data() + begin, wanted.data() + begin, part.size()) == 0) return;
    std::uint64_t at = begin;
    while (seen[at] == wanted[at]) ++at;
    throw Error(Kind::verification, target_.files[tile.file].path + ": byte " +
                                        std::to_string(range.first + at) +
                                        " of header, fill or trailer is not what was written");
  }

  const Geometry& geometry_;
  const formats::Target& target_;
  const Sums& sums_;
  const formats::TargetWriter& writer_;
  const FilteredFiles& filtered_;
  const formats::FileSums& files_;
  std::optional<formats::File> file_;  ///< that the last tile was of
  std::uint32_t file_number_ = ~std::uint32_t{0};
  Buffer read_, wanted_;
  std::optional<Tile> wanted_tile_;  ///< the tile that wanted_ is of
  std::uint32_t trailer_file_ = ~std::uint32_t{0};
  std::shared_ptr<const formats::TargetWriter::Trailer> trailer_;
};

/// The name of a stored tensor that a global placement number belongs to.
const TargetTensor& tensor_of(const Geometry& geometry, std::size_t placement) {
  const auto after = std::upper_bound(
      geometry.tensors.begin(), geometry.tensors.end(), placement,
      [](std::size_t number, const TargetTensor& t) { return number < t.first_placement; });
  return *std::prev(after);
}

}  // namespace

void sum(const Comm& comm, std::vector<Digest>& digests) {
  // Lanes are below 2^61: summed as halves of 32 bits they cannot overflow, then are folded again.
  constexpr std::uint64_t low_half = 0xffffffff;
  std::vector<std::uint64_t> halves;
  for (const Digest& d : digests) {
    halves.insert(halves.end(), {d.low & low_half, d.low >> 32, d.high & low_half, d.high >> 32});
  }
  sum(comm, std::span<std::uint64_t>(halves));
  const auto fold = [](std::uint64_t low, std::uint64_t high) {
    constexpr std::uint64_t modulus = (std::uint64_t{1} << 61) - 1;
    const auto wide = (static_cast<unsigned __int128>(high) << 32) + low;
    return static_cast<std::uint64_t>(wide % modulus);
  };
  for (std::size_t i = 0; i < digests.size(); ++i) {
    digests[i] = {fold(halves[4 * i], halves[4 * i + 1]),
                  fold(halves[4 * i + 2], halves[4 * i + 3])};
  }
}

void sum(const Comm& comm, formats::ByteSums& sums) {
  sum(comm, sums.tensors);
  exclusive_or(comm, sums.others);
}

formats::ByteSums verify(const Comm& comm, const Written& written, const Plan& plan,
                         std::uint64_t threads, const std::function<void()>& check_stop) {
  const Geometry& geometry = written.geometry;
  const Sums& sums = written.sums;
  TileCheck::Found found{std::vector<Digest>(geometry.placements), written.files.none()};
  agree(comm, "verify", [&] {
    const TileNumbers numbers(geometry);
    const auto other =
        static_cast<std::size_t>((comm.rank() + (comm.size() + 1) / 2) % comm.size());
    const std::uint64_t first = plan.share_begin[other], last = plan.share_begin[other + 1];
    std::vector<TileCheck::Found> parts(threads, found);
    for_each(threads, threads, [&](std::uint64_t part) {
      TileCheck check(written);
      const std::uint64_t end = first + (last - first) * (part + 1) / threads;
      for (std::uint64_t n = first + (last - first) * part / threads; n < end; ++n) {
        check_stop();
        check.check(numbers[n], parts[part]);
      }
    });
    for (const auto& [file, packed] : written.filtered) {
      if (comm.rank() == 0) TileCheck(written).add_others(file, found.sums);
    }
    for (const TileCheck::Found& part : parts) {
      for (std::size_t i = 0; i < part.placements.size(); ++i) {
        found.placements[i] += part.placements[i];
      }
      found.sums += part.sums;
    }
  });
  sum(comm, found.placements);
  sum(comm, found.sums);
  agree(comm, "verify", [&] {
    for (std::size_t i = 0; i < sums.arrived.size(); ++i) {
      if (found.placements[i] == sums.arrived[i]) continue;
      const TargetTensor& tensor = tensor_of(geometry, i);
      const Placement& placement = tensor.stored.placements[i - tensor.first_placement];
      throw Error(Kind::verification,
                  written.target.files[tensor.file].path + ": " + tensor.stored.name +
                      ": the numbers of " + geometry.model[placement.tensor].role +
                      " in the file have the digest " + found.placements[i].hex() +
                      ", those sent " + sums.arrived[i].hex());
    }
  });
  return std::move(found.sums);
}

}  // namespace reshard::mpi
