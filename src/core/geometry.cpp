#include "core/geometry.hpp"

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "core/error.hpp"

namespace reshard {
namespace {

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;

/// 1/256 of the target as a power of two between 1 and 4 MiB: small models still make work for
/// many ranks, large ones fill the cache.
std::uint64_t tile_bytes_for(std::uint64_t target_bytes) {
  std::uint64_t tile = mebibyte;
  while (tile < 4 * mebibyte && tile * 256 < target_bytes) tile *= 2;
  return tile;
}

void check_sources(const Geometry& geometry) {
  std::vector<std::vector<Box>> boxes(geometry.model.tensors().size());
  for (const SourcePiece& piece : geometry.pieces) {
    boxes[piece.placement.tensor].push_back(piece.placement.box);
  }
  for (std::uint32_t t = 0; t < boxes.size(); ++t) {
    const CanonicalTensor& tensor = geometry.model[t];
    with_context(tensor.role, [&] {
      if (!covers(std::move(boxes[t]), tensor.shape)) {
        throw Error(Kind::input, "not all elements of shape " + to_string(tensor.shape) +
                                     " are in the source's files");
      }
    });
  }
}

/// All placements but those that repeat elements for fill.
std::span<const Placement> own_placements(const StoredTensor& tensor) {
  return std::span(tensor.placements).first(tensor.placements.size() - tensor.repeats);
}

void number_placements(Geometry& geometry) {
  std::map<std::pair<std::uint32_t, Box>, bool> seen;
  geometry.placements = 0;
  for (TargetTensor& tensor : geometry.tensors) {
    tensor.first_placement = geometry.placements;
    tensor.primary.clear();
    for (const Placement& placement : own_placements(tensor.stored)) {
      tensor.primary.push_back(
          seen.emplace(std::pair(placement.tensor, placement.box), true).second);
    }
    tensor.primary.resize(tensor.stored.placements.size(), false);
    geometry.placements += static_cast<std::uint32_t>(tensor.stored.placements.size());
    with_context(geometry.targets[tensor.file].path + ": " + tensor.stored.name, [&] {
      return check_coverage(tensor.stored.placements, elements(tensor.stored.shape));
    });
  }
}

/// Vocabulary padding may be dropped; everything else must arrive.
void check_targets(const Geometry& geometry) {
  std::vector<std::vector<Box>> boxes(geometry.model.tensors().size());
  for (const TargetTensor& tensor : geometry.tensors) {
    for (const Placement& placement : own_placements(tensor.stored)) {
      boxes[placement.tensor].push_back(placement.box);
    }
  }
  for (std::uint32_t t = 0; t < boxes.size(); ++t) {
    const CanonicalTensor& tensor = geometry.model[t];
    if (is_padding(tensor.role)) continue;
    if (!with_context(tensor.role, [&] { return covers(std::move(boxes[t]), tensor.shape); })) {
      throw Error(Kind::input, tensor.role + ": the target has no place for all its elements");
    }
  }
}

}  // namespace

void find_replicas(std::vector<SourcePiece>& pieces) {
  std::map<std::pair<std::uint32_t, Box>, std::uint32_t> first;
  for (std::uint32_t i = 0; i < pieces.size(); ++i) {
    pieces[i].original = i;
    const auto key = std::make_pair(pieces[i].placement.tensor, pieces[i].placement.box);
    const auto [at, is_first] = first.emplace(key, i);
    pieces[i].replica_of = is_first ? SourcePiece::no_replica : at->second;
  }
}

void Geometry::complete() {
  std::uint64_t total = 0;
  for (const TargetFile& file : targets) total += file.bytes;
  tile_bytes = tile_bytes_for(total);
  if (!sources.empty()) {
    find_replicas(pieces);
    check_sources(*this);
  }
  number_placements(*this);
  check_targets(*this);
}

std::uint64_t Geometry::most_tile_bytes() const {
  std::uint64_t most = 0;
  for (const TargetFile& file : targets) {
    if (file.borders.empty()) most = std::max(most, std::min(file.bytes, tile_bytes));
    for (std::size_t i = 1; i < file.borders.size(); ++i) {
      most = std::max(most, file.borders[i] - file.borders[i - 1]);
    }
  }
  return most;
}

ByteRange bytes_of(const Geometry& geometry, Tile tile) {
  const std::vector<std::uint64_t>& borders = geometry.targets[tile.file].borders;
  if (!borders.empty()) return {borders[tile.index], borders[tile.index + 1]};
  const std::uint64_t first = tile.index * geometry.tile_bytes;
  return {first, std::min(first + geometry.tile_bytes, geometry.targets[tile.file].bytes)};
}

std::span<const std::uint32_t> tensors_in(const Geometry& geometry, std::uint32_t file,
                                          ByteRange range) {
  const std::vector<std::uint32_t>& tensors = geometry.targets[file].tensors;
  const auto ends_before = [&](std::uint32_t t, std::uint64_t at) {
    return geometry.tensors[t].base + geometry.tensors[t].bytes <= at;
  };
  const auto begins_before = [&](std::uint32_t t, std::uint64_t at) {
    return geometry.tensors[t].base < at;
  };
  const auto first = std::lower_bound(tensors.begin(), tensors.end(), range.first, ends_before);
  const auto last = std::lower_bound(first, tensors.end(), range.last, begins_before);
  return {first, last};
}

Dims strides_of(const CanonicalTensor& tensor) {
  Dims strides;
  for (const std::uint64_t stride : row_major(tensor.shape)) strides.push_back(stride);
  return strides;
}

TileNumbers::TileNumbers(const Geometry& geometry) : first_{0} {
  for (const TargetFile& file : geometry.targets) {
    const std::uint64_t tiles = file.borders.empty()
                                    ? (file.bytes + geometry.tile_bytes - 1) / geometry.tile_bytes
                                    : file.borders.size() - 1;
    first_.push_back(first_.back() + tiles);
  }
}

Tile TileNumbers::operator[](std::uint64_t number) const {
  const auto after = std::upper_bound(first_.begin(), first_.end(), number);
  const auto file = static_cast<std::uint32_t>(after - first_.begin() - 1);
  return {file, static_cast<std::uint32_t>(number - first_[file])};
}

}  // namespace reshard
