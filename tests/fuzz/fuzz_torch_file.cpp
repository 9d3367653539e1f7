#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.hpp"
#include "core/shape.hpp"
#include "formats/container/torch_file.hpp"

namespace {

using reshard::formats::TensorEntry;

/// One behind the last byte of a tensor in the file.
std::uint64_t end_of(const TensorEntry& tensor) {
  std::uint64_t last = 0;
  if (reshard::elements(tensor.shape) == 0) return tensor.offset;
  const auto strides = tensor.strides.empty() ? reshard::row_major(tensor.shape) : tensor.strides;
  for (std::size_t d = 0; d < strides.size(); ++d) last += (tensor.shape[d] - 1) * strides[d];
  return tensor.offset + (last + 1) * bytes(tensor.dtype);
}

}  // namespace

/// Any bytes: an Error or an index that can be dumped and whose tensors lie inside the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard::formats;
  const PickleLimits limits{1 << 20, 20'000};
  const ByteSource source = memory_source(std::as_bytes(std::span(data, size)));
  try {
    const FileIndex index = read_torch_file(source, "fuzz", limits);
    static_cast<void>(index.facts.dump());
    for (const TensorEntry& tensor : index.tensors) {
      if (end_of(tensor) > size) __builtin_trap();
    }
  } catch (const reshard::Error&) {
  }
  return 0;
}
