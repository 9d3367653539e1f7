#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "formats/container/file_index.hpp"

// A torch.save archive to be written in parallel, byte for byte in torch's own zip style
// (containers.md sections 2.1, 2.2):
//   root/data.pkl, root/.format_version, root/.storage_alignment, root/byteorder,
//   root/data/0 .. root/data/n-1, root/version, root/.data/serialization_id,
//   central directory, zip64 end record and locator, end record.
// Each record begins on a multiple of 64 bytes and, unless empty, is followed by a data descriptor
// with its CRC-32. All positions follow from names, dtypes, shapes and the value.

namespace reshard::formats {

/// Content of a torch file to be written.
struct TorchFileSpec {
  std::string root;  ///< folder in the archive: torch takes the file's name without suffix
  Json value;        ///< in the notation of pickle.hpp, tensors as {"!":"tensor","index":i}
  std::vector<TensorSpec> tensors;  ///< each becomes one storage, "data/<index>"
};

/// Where every byte lies; literals are those that need no tensor's CRC. Error(internal) when the
/// value does not name each tensor, Error(input) for what write_pickle refuses.
FileLayout torch_layout(const TorchFileSpec& spec);

/// The remaining bytes, ascending: the data descriptors of the tensors and everything behind the
/// last record. crc_of_tensor[i] is the CRC-32 of tensor i's bytes (0 when it has none).
std::vector<FileLayout::Literal> torch_trailer(const TorchFileSpec& spec,
                                               std::span<const std::uint32_t> crc_of_tensor);

}  // namespace reshard::formats
