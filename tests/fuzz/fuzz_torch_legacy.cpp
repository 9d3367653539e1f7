#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/error.hpp"
#include "formats/container/torch_legacy.hpp"

namespace {

/// Magic number, version and system information: what comes before the object.
constexpr std::string_view begin(
    "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}("
    "X\x0d\0\0\0"
    "little_endian\x88u.",
    46);

}  // namespace

/// Any bytes behind a legacy stream's header: an Error or storages that lie in the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard::formats;
  const PickleLimits limits{1 << 20, 20'000};
  const std::string file = std::string(begin) + std::string(data, data + size);
  try {
    const TorchContent content =
        read_torch_legacy(memory_source(std::as_bytes(std::span(file))), limits);
    static_cast<void>(content.pickle.value.dump());
    for (const auto& [key, offset] : content.offsets) {
      const std::uint64_t bytes = content.pickle.storages.at(key).bytes;
      if (offset > file.size() || bytes > file.size() - offset) __builtin_trap();
    }
  } catch (const reshard::Error& error) {
    if (error.kind() != reshard::Kind::input) __builtin_trap();
  }
  return 0;
}
