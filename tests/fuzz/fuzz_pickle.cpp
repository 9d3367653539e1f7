#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/error.hpp"
#include "formats/container/pickle.hpp"
#include "formats/container/pickle_writer.hpp"

/// Any bytes: an Error or a value that can be dumped; what can be written again must be read alike.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard::formats;
  const PickleLimits limits{1 << 20, 20'000};
  reshard::Json value;
  try {
    value = read_pickle(std::as_bytes(std::span(data, size)), limits).value;
  } catch (const reshard::Error&) {
    return 0;
  }
  const std::string text = value.dump();
  std::string pickle;
  try {
    pickle = write_pickle(value, {});
  } catch (const std::exception&) {
    return 0;
  }
  const PickleLimits wide{1 << 26, 1'000'000};
  if (read_pickle(std::as_bytes(std::span(pickle)), wide).value.dump() != text) __builtin_trap();
  return 0;
}
