#include "formats/container/hdf5_chunks.hpp"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

[[noreturn]] void refuse(const std::string& text) {
  throw Error(Kind::input, "a chunk " + text);
}

/// HDF5's Fletcher-32: over 16-bit words, the first byte the high one.
std::uint32_t fletcher32(std::span<const std::byte> bytes) {
  std::uint32_t low = 0, high = 0;
  const auto add = [&](std::uint32_t word) {
    low += word;
    high += low;
  };
  std::size_t at = 0;
  while (at + 1 < bytes.size()) {
    constexpr std::size_t most = 360;  // words before sums could overflow
    for (std::size_t n = 0; n < most && at + 1 < bytes.size(); ++n, at += 2) {
      add(std::to_integer<std::uint32_t>(bytes[at]) << 8 |
          std::to_integer<std::uint32_t>(bytes[at + 1]));
    }
    low = (low & 0xffffU) + (low >> 16);
    high = (high & 0xffffU) + (high >> 16);
  }
  if (at < bytes.size()) {
    add(std::to_integer<std::uint32_t>(bytes[at]) << 8);
    low = (low & 0xffffU) + (low >> 16);
    high = (high & 0xffffU) + (high >> 16);
  }
  low = (low & 0xffffU) + (low >> 16);
  high = (high & 0xffffU) + (high >> 16);
  return high << 16 | low;
}

std::vector<std::byte> without_checksum(std::vector<std::byte> bytes) {
  constexpr std::size_t size = 4;
  if (bytes.size() < size) refuse("is too small for its checksum");
  std::uint32_t told = 0;
  std::memcpy(&told, bytes.data() + bytes.size() - size, size);
  bytes.resize(bytes.size() - size);
  if (fletcher32(bytes) != told) refuse("does not have the checksum that is stored with it");
  return bytes;
}

/// A zlib stream's content, which has at most so many bytes.
std::vector<std::byte> inflated(const std::vector<std::byte>& packed, std::size_t most) {
  std::vector<std::byte> bytes(most);
  auto size = static_cast<uLongf>(most);
  const int code = ::uncompress(reinterpret_cast<Bytef*>(bytes.data()), &size,
                                reinterpret_cast<const Bytef*>(packed.data()),
                                static_cast<uLong>(packed.size()));
  if (code != Z_OK) refuse(std::string("cannot be inflated: ") + ::zError(code));
  bytes.resize(size);
  return bytes;
}

std::vector<std::byte> unshuffled(const std::vector<std::byte>& shuffled, std::size_t width) {
  std::vector<std::byte> bytes(shuffled.size());
  const std::size_t count = shuffled.size() / width;
  for (std::size_t b = 0; b < width; ++b) {
    const std::byte* from = shuffled.data() + b * count;
    for (std::size_t i = 0; i < count; ++i) bytes[i * width + b] = from[i];
  }
  std::copy(shuffled.begin() + static_cast<std::ptrdiff_t>(count * width), shuffled.end(),
            bytes.begin() + static_cast<std::ptrdiff_t>(count * width));
  return bytes;
}

/// Elements that follow one another in a tensor and in one of its chunks.
struct Run {
  std::uint64_t chunk = 0;  ///< number
  std::uint64_t first = 0;  ///< element of the chunk
  std::uint64_t count = 0;
};

/// The longest run from an element of the tensor on, at most to the end of its row.
Run run_at(const Chunking& chunks, std::uint64_t element) {
  Run run;
  std::uint64_t grid = 1, inside = 1;
  for (std::size_t d = chunks.shape.size(); d-- > 0;) {
    const std::uint64_t size = chunks.shape[d], extent = chunks.extent[d];
    const std::uint64_t index = element % size;
    element /= size;
    run.chunk += index / extent * grid;
    run.first += index % extent * inside;
    if (d + 1 == chunks.shape.size()) run.count = std::min(extent - index % extent, size - index);
    grid *= (size - 1) / extent + 1;
    inside *= extent;
  }
  return run;
}

}  // namespace

std::vector<std::byte> unpack_chunk(const Chunking& chunks, const Chunking::Place& place,
                                    std::vector<std::byte> stored) {
  const std::size_t size = elements(chunks.extent) * chunks.width;
  for (std::size_t f = chunks.filters.size(); f-- > 0;) {
    if ((place.skipped >> f & 1U) != 0) continue;
    switch (chunks.filters[f]) {
      case Chunking::Filter::fletcher32:
        stored = without_checksum(std::move(stored));
        break;
      case Chunking::Filter::deflate:
        stored = inflated(stored, size + 4 * chunks.filters.size());  // with checksums inside
        break;
      case Chunking::Filter::shuffle:
        stored = unshuffled(stored, chunks.width);
        break;
    }
  }
  if (stored.size() != size) {
    refuse("has " + std::to_string(stored.size()) + " bytes, wanted " + std::to_string(size));
  }
  return stored;
}

void ChunkReader::read(const Tensor& tensor, std::uint64_t first, std::span<std::byte> to) {
  constexpr std::uint64_t large = std::uint64_t{8} << 20;
  const Chunking& chunks = tensor.chunks;
  const std::uint64_t width = chunks.width;
  // Of a large chunk without filters only what is wanted.
  const bool straight = chunks.filters.empty() && elements(chunks.extent) * width > large;
  Chunk held;
  std::uint64_t holds = ~std::uint64_t{0};
  while (!to.empty()) {
    const Run run = run_at(chunks, first / width);
    const std::uint64_t begin = run.first * width + first % width;
    const std::uint64_t size =
        std::min<std::uint64_t>(run.count * width - first % width, to.size());
    if (straight) {
      tensor.read_at(chunks.places[run.chunk].offset + begin, to.first(size));
    } else {
      if (holds != run.chunk) held = chunk(tensor, run.chunk);
      holds = run.chunk;
      std::memcpy(to.data(), held->data() + begin, size);
    }
    first += size;
    to = to.subspan(size);
  }
}

ChunkReader::Chunk ChunkReader::chunk(const Tensor& tensor, std::uint64_t number) {
  const Key key(tensor.number, number);
  if (Chunk found = kept(key)) return found;
  const Chunking::Place& place = tensor.chunks.places[number];
  std::vector<std::byte> stored(place.bytes);
  tensor.read_at(place.offset, stored);
  auto made = with_context(tensor.path, [&] {
    return std::make_shared<const std::vector<std::byte>>(
        unpack_chunk(tensor.chunks, place, std::move(stored)));
  });
  keep(key, made);
  return made;
}

ChunkReader::Chunk ChunkReader::kept(Key key) {
  const std::lock_guard lock(lock_);
  const auto at = kept_.find(key);
  if (at == kept_.end()) return nullptr;
  used_.splice(used_.begin(), used_, at->second.second);
  return at->second.first;
}

void ChunkReader::keep(Key key, const Chunk& chunk) {
  const std::lock_guard lock(lock_);
  if (kept_.contains(key)) return;  // another thread was quicker
  used_.push_front(key);
  kept_.emplace(key, std::pair(chunk, used_.begin()));
  bytes_ += chunk->size();
  while (bytes_ > kept_bytes && used_.size() > 1) {
    const auto oldest = kept_.find(used_.back());
    bytes_ -= oldest->second.first->size();
    kept_.erase(oldest);
    used_.pop_back();
  }
}

}  // namespace reshard::formats
