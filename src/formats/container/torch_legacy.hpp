#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "formats/container/byte_source.hpp"
#include "formats/container/pickle.hpp"

// The stream of torch.save before 1.6 (containers.md section 2.7), little-endian, back to back:
//   pickle of 0x1950a86a20f9469cfc6c, of 1001, of {protocol_version, little_endian, type_sizes},
//   of the object, of the list of storage keys; then for each key an i64 number of elements and
//   the elements.

namespace reshard::formats {

/// What a torch file of either kind holds: the pickled value and where its storages lie.
struct TorchContent {
  PickleValue pickle;
  std::map<std::string, std::uint64_t> offsets;  ///< key -> byte offset in the file
};

/// Whether the first bytes of a file are those of a legacy stream.
bool is_torch_legacy(std::string_view head);

/// Reads such a stream; all storages are checked to fill the file. Error(input) otherwise.
TorchContent read_torch_legacy(const ByteSource& source, const PickleLimits& limits);

}  // namespace reshard::formats
