#include "mpi/verify.hpp"

#include <algorithm>

#include "core/buffer.hpp"
#include "core/transform.hpp"

namespace reshard::mpi {
namespace {

std::span<const std::uint64_t> view(const Dims& dims) {
  return {dims.begin(), dims.end()};
}

/// Canonical index of a box's first element.
std::uint64_t first_index(const Box& box, const Dims& canonical) {
  std::uint64_t index = 0;
  for (std::size_t d = 0; d < canonical.size(); ++d) index += box.offset[d] * canonical[d];
  return index;
}

/// Holds tiles against what must be in them.
class TileCheck {
 public:
  TileCheck(const Geometry& geometry, const formats::Target& target,
            const std::vector<std::uint32_t>& crcs, formats::TargetWriter& writer)
      : geometry_(geometry), target_(target), crcs_(crcs), writer_(writer) {}

  void check(Tile tile, std::vector<Digest>& found) {
    const ByteRange range = bytes_of(geometry_, tile);
    const std::span<std::byte> bytes = read_.take(range.size());
    writer_.read(tile, bytes);
    const std::span<std::byte> wanted = wanted_.take(range.size());
    std::fill(wanted.begin(), wanted.end(), std::byte{0});
    if (tile.file != trailer_file_) {
      trailer_ = writer_.trailer(tile.file, crcs_);
      trailer_file_ = tile.file;
    }
    writer_.put_other_bytes(tile, wanted);
    for (const formats::FileLayout::Literal& literal : trailer_) {
      formats::put_literal(literal, range, wanted);
    }
    for (const std::uint32_t t : tensors_in(geometry_, tile.file, range)) {
      add_digests(geometry_.tensors[t], range, bytes, wanted, found);
    }
    if (!std::equal(bytes.begin(), bytes.end(), wanted.begin())) {
      const auto at = std::mismatch(bytes.begin(), bytes.end(), wanted.begin()).first;
      throw Error(Kind::verification,
                  target_.files[tile.file].path + ": byte " +
                      std::to_string(range.first + static_cast<std::uint64_t>(at - bytes.begin())) +
                      " of header, fill or trailer is not what was written");
    }
  }

 private:
  /// Adds the digests of a tensor's placements in the range, and copies what they hold to `wanted`:
  /// so only what no placement holds is compared byte by byte.
  void add_digests(const TargetTensor& tensor, ByteRange range, std::span<std::byte> seen,
                   std::span<std::byte> wanted, std::vector<Digest>& found) const {
    const std::uint64_t width = bytes(tensor.stored.dtype);
    const std::uint64_t first = std::max(range.first, tensor.base);
    const std::uint64_t last = std::min(range.last, tensor.base + tensor.bytes);
    std::vector<Placement> parts;
    std::uint64_t covered = 0;
    for (std::uint32_t n = 0; n < tensor.stored.placements.size(); ++n) {
      for (const Placement& part : cut(tensor.stored.placements[n], (first - tensor.base) / width,
                                       (last - tensor.base) / width)) {
        const Dims canonical = strides_of(geometry_.model[part.tensor]);
        found[tensor.first_placement + n] +=
            digest_box(seen.data() + (tensor.base + part.offset * width - range.first), width,
                       view(part.box.extent), view(part.stride), view(canonical),
                       first_index(part.box, canonical));
        covered += part.box.elements() * width;
        parts.push_back(part);
      }
    }
    if (covered == last - first) {
      std::copy_n(seen.data() + (first - range.first), covered,
                  wanted.data() + (first - range.first));
      return;
    }
    for (const Placement& part : parts) {
      const std::uint64_t at = tensor.base + part.offset * width - range.first;
      copy_strided(wanted.data() + at, view(part.stride), seen.data() + at, view(part.stride),
                   view(part.box.extent), width);
    }
  }

  const Geometry& geometry_;
  const formats::Target& target_;
  const std::vector<std::uint32_t>& crcs_;
  formats::TargetWriter& writer_;
  Buffer read_, wanted_;
  std::uint32_t trailer_file_ = ~std::uint32_t{0};
  std::vector<formats::FileLayout::Literal> trailer_;
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

void compare_replicas(const Comm& comm, const Geometry& geometry, const Plan& plan,
                      const std::vector<Digest>& read, formats::SourceReader& reader) {
  std::vector<Digest> found(geometry.pieces.size());
  agree(comm, "compare replicas", [&] {
    Buffer buffer;
    for (const OwnedPiece& owned : plan.replicas) {
      if (owned.owner != comm.rank()) continue;
      const SourcePiece& piece = owned.piece;
      const std::uint64_t width = bytes(piece.dtype);
      const Dims canonical = strides_of(geometry.model[piece.placement.tensor]);
      constexpr std::uint64_t most = std::uint64_t{4} << 20;
      const std::uint64_t last = piece.placement.offset + span(piece.placement);
      const bool nested = is_nested(piece.placement);
      for (std::uint64_t at = piece.placement.offset; at < last;) {
        const std::uint64_t end = nested ? std::min(last, at + most / width) : last;
        for (const Placement& part : cut(piece.placement, at, end)) {
          Dims packed;
          for (const std::uint64_t n :
               row_major({part.box.extent.begin(), part.box.extent.end()})) {
            packed.push_back(n);
          }
          std::byte* to = buffer.take(part.box.elements() * width).data();
          const formats::ReadRequest request{piece.file,
                                             piece.base + part.offset * width,
                                             part.box.extent,
                                             part.stride,
                                             packed,
                                             width,
                                             to};
          reader.read({&request, 1});
          found[piece.original] += digest_box(to, width, view(part.box.extent), view(packed),
                                              view(canonical), first_index(part.box, canonical));
        }
        at = end;
      }
    }
  });
  sum(comm, found);
  agree(comm, "compare replicas", [&] {
    for (const SourcePiece& piece : geometry.pieces) {
      if (piece.replica_of == SourcePiece::no_replica) continue;
      const CanonicalTensor& tensor = geometry.model[piece.placement.tensor];
      const SourcePiece& first = geometry.pieces[piece.replica_of];
      if (tensor.role.find(".padding.") != std::string::npos) continue;
      if (found[piece.original] == read[first.original]) continue;
      throw Error(Kind::input, tensor.role + ": " + piece.name + " in " +
                                   geometry.sources[piece.file].path + " differs from " +
                                   first.name + " in " + geometry.sources[first.file].path +
                                   ", which should be the same numbers");
    }
  });
}

void verify(const Comm& comm, const Geometry& geometry, const Plan& plan,
            const formats::Target& target, const std::vector<Digest>& arrived,
            const std::vector<std::uint32_t>& crcs, formats::TargetWriter& writer) {
  std::vector<Digest> found(geometry.placements);
  agree(comm, "verify", [&] {
    const TileNumbers numbers(geometry);
    TileCheck check(geometry, target, crcs, writer);
    const int other = (comm.rank() + (comm.size() + 1) / 2) % comm.size();
    const auto share = static_cast<std::size_t>(plan.share_of[static_cast<std::size_t>(other)]);
    for (std::uint64_t n = plan.share_begin[share]; n < plan.share_begin[share + 1]; ++n) {
      check.check(numbers[n], found);
    }
  });
  sum(comm, found);
  agree(comm, "verify", [&] {
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (found[i] == arrived[i]) continue;
      const TargetTensor& tensor = tensor_of(geometry, i);
      const Placement& placement = tensor.stored.placements[i - tensor.first_placement];
      throw Error(Kind::verification,
                  target.files[tensor.file].path + ": " + tensor.stored.name + ": the numbers of " +
                      geometry.model[placement.tensor].role + " in the file have the digest " +
                      found[i].hex() + ", those sent " + arrived[i].hex());
    }
  });
}

}  // namespace reshard::mpi
