#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/error.hpp"
#include "core/shape.hpp"
#include "formats/container/hdf5_file.hpp"

// HDF5's library is not instrumented and has crashes of its own, so it runs in its child process,
// as in the program: what is tried here is that the child's end is an Error, and that what it tells
// of a file holds. With RESHARD_FUZZ_HERE it runs in this process, to look for its crashes.

namespace {

/// A file in memory, with a name that HDF5 can open.
std::string scratch_file() {
  const bool in_memory = std::filesystem::exists("/dev/shm");
  return (in_memory ? "/dev/shm/reshard-fuzz-" : "/tmp/reshard-fuzz-") + std::to_string(::getpid());
}

}  // namespace

/// Any bytes: an Error or an index that can be dumped and whose tensors lie inside the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard::formats;
  static const std::string path = scratch_file();
  static const bool here = std::getenv("RESHARD_FUZZ_HERE") != nullptr;
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  try {
    const FileIndex index = here ? read_hdf5_here(path, "fuzz", [] {}) : read_hdf5(path, "fuzz");
    static_cast<void>(to_json(index).dump());
    for (const TensorEntry& tensor : index.tensors) {
      const std::uint64_t bytes = reshard::elements(tensor.shape) * reshard::bytes(tensor.dtype);
      if (tensor.chunks == nullptr && bytes > 0 && tensor.offset + bytes > size) __builtin_trap();
      if (tensor.chunks == nullptr) continue;
      for (const auto& place : tensor.chunks->places) {
        if (place.offset + place.bytes > size) __builtin_trap();
      }
    }
  } catch (const reshard::Error&) {
  }
  std::filesystem::remove(path);
  return 0;
}
