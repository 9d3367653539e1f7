#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/json.hpp"
#include "formats/container/byte_source.hpp"
#include "formats/container/file_index.hpp"

namespace reshard::formats {

/// The key of a safetensors header that names no tensor.
inline constexpr const char* safetensors_metadata = "__metadata__";

/// One tensor of a header: name, dtype, shape, and as offset where its data_offsets begin.
struct HeaderTensor {
  TensorEntry entry;
  std::uint64_t end = 0;
};

/// What a safetensors header says, before the offsets are held against each other.
struct SafetensorsHeader {
  std::vector<HeaderTensor> tensors;  ///< in the order of the text
  std::optional<Json> metadata;       ///< an object of strings with keys in the order of the text
};

/// Reads the `bytes` of JSON at `begin`, in pieces: neither what is long nor what is wrong in it is
/// ever held in memory. Error(input) naming tensor and key when it is no such JSON, or more than
/// any model needs.
SafetensorsHeader read_safetensors_header(const ByteSource& source, std::uint64_t begin,
                                          std::uint64_t bytes);

}  // namespace reshard::formats
