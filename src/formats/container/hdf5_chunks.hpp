#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/chunking.hpp"

namespace reshard::formats {

/// The elements of a chunk as it is stored, with its filters undone; Error(input) when they do not
/// give a chunk of `chunks`, or a checksum is wrong.
std::vector<std::byte> unpack_chunk(const Chunking& chunks, const Chunking::Place& place,
                                    std::vector<std::byte> stored);

/// Reads tensors in chunks as if they lay row-major in a file of their own. Keeps the chunks that
/// were read last, for the next rows cross the same ones. Any thread may read.
class ChunkReader {
 public:
  /// Bytes of chunks that are kept; one chunk for each thread may come on top.
  static constexpr std::uint64_t kept_bytes = std::uint64_t{64} << 20;

  struct Tensor {
    std::uint32_t number = 0;  ///< tells tensors apart
    const Chunking& chunks;
    const std::string& path;  ///< of its file, for messages
    std::function<void(std::uint64_t offset, std::span<std::byte> to)> read_at;  ///< of the file
  };
  /// Fills `to` with the tensor's bytes from `first` on.
  void read(const Tensor& tensor, std::uint64_t first, std::span<std::byte> to);

 private:
  using Chunk = std::shared_ptr<const std::vector<std::byte>>;
  using Key = std::pair<std::uint32_t, std::uint64_t>;  ///< tensor and number of the chunk
  Chunk chunk(const Tensor& tensor, std::uint64_t number);
  Chunk kept(Key key);
  void keep(Key key, const Chunk& chunk);

  std::mutex lock_;
  std::list<Key> used_;  ///< the last one first
  std::map<Key, std::pair<Chunk, std::list<Key>::iterator>> kept_;
  std::uint64_t bytes_ = 0;
};

}  // namespace reshard::formats
