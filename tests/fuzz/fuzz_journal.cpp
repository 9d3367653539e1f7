#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "core/error.hpp"
#include "formats/container/crc32.hpp"
#include "formats/journal.hpp"

namespace {

namespace fs = std::filesystem;
using namespace reshard;

/// A folder in memory for this process.
const fs::path& folder() {
  static const fs::path path = [] {
    const fs::path root = fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path();
    fs::path made = root / ("fuzz-journal-" + std::to_string(::getpid()));
    fs::create_directory(made);
    return made;
  }();
  return path;
}

/// Records of the bytes: one of each 128, with a checksum that fits unless the bytes begin with
/// '!'.
std::string records(std::string_view bytes) {
  std::string file;
  while (!bytes.empty()) {
    const std::string_view payload = bytes.substr(0, 128);
    const std::uint64_t size = payload.size();
    const std::uint32_t crc = formats::crc32_of(std::as_bytes(std::span(payload)));
    char header[12];
    std::memcpy(header, &size, 8);
    std::memcpy(header + 8, &crc, 4);
    if (payload.front() != '!') file.append(header, sizeof header);
    file += payload;
    bytes.remove_prefix(payload.size());
  }
  return file;
}

}  // namespace

/// Any records of two ranks: an Error or tiles that the target has, each once.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Geometry geometry = [] {
    Geometry made;
    made.tile_bytes = std::uint64_t{1} << 20;
    made.targets.push_back({"file", 10 << 20, {}});
    made.tensors.resize(3);
    made.pieces.resize(2);
    made.placements = 4;
    return made;
  }();
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::string both[] = {records(bytes.substr(0, size / 2)), records(bytes.substr(size / 2))};
  for (const char* rank : {"0", "1"}) {
    std::ofstream(folder() / (std::string("0-") + rank + "-2"), std::ios::binary)
        << both[*rank - '0'];
  }
  std::ofstream(folder() / "1-0-1", std::ios::binary) << bytes;
  try {
    const formats::Journal journal = formats::read_journal(folder().string(), geometry);
    std::uint64_t next = 0;
    for (const std::uint64_t tile : journal.moved.tiles) {
      if (tile < next || tile >= TileNumbers(geometry).size()) __builtin_trap();
      next = tile + 1;
    }
    if (journal.runs != 2) __builtin_trap();
  } catch (const Error& error) {
    if (error.kind() != Kind::input) __builtin_trap();
  }
  return 0;
}
