#include <cstdint>
#include <cstdlib>

#include "core/error.hpp"
#include "formats/container/safetensors.hpp"

// Any bytes give an index or an Error; an accepted header, written again, is read as the same one.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard;
  using namespace reshard::formats;
  try {
    const ByteSource source = memory_source(std::as_bytes(std::span(data, size)));
    const FileIndex index = read_safetensors(source, "fuzz");
    std::vector<TensorSpec> tensors;
    for (const TensorEntry& t : index.tensors) {
      // Padding and alignment apart, an entry's bytes lie in the file.
      if (t.offset > size) std::abort();
      tensors.push_back({t.name, t.dtype, t.shape});
    }
    const FileLayout layout = safetensors_layout(tensors, index.facts.at("metadata"));
    const ByteSource written = {layout.bytes, [&](std::uint64_t at, std::span<std::byte> into) {
                                  const std::string& header = layout.literals[0].bytes;
                                  if (at + into.size() > header.size()) std::abort();
                                  for (std::size_t i = 0; i < into.size(); ++i) {
                                    into[i] = static_cast<std::byte>(header[at + i]);
                                  }
                                }};
    const FileIndex again = read_safetensors(written, "fuzz");
    if (again.facts != index.facts || again.tensors.size() != index.tensors.size()) std::abort();
  } catch (const Error& error) {
    if (error.kind() != Kind::input) std::abort();
  }
  return 0;
}
