#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "formats/container/dcp.hpp"
#include "formats/container/file_index.hpp"

// A .distcp file to be written in parallel: some bytes of ours, then one torch archive (see
// torch_layout.hpp) for each tensor, each from a multiple of 64 bytes.

namespace reshard::formats {

/// Content of a .distcp file to be written.
struct DcpFileSpec {
  std::string bytes;  ///< items without tensors, one behind another from the file's begin
  std::vector<TensorSpec> tensors;
};

/// The item of each tensor; `file` is left 0.
std::vector<DcpItem> dcp_items(const DcpFileSpec& spec);
/// Where every byte lies; literals are those that need no tensor's CRC.
FileLayout dcp_layout(const DcpFileSpec& spec);
/// The remaining bytes, ascending. crc_of_tensor[i] is the CRC-32 of tensor i's bytes.
std::vector<FileLayout::Literal> dcp_trailer(const DcpFileSpec& spec,
                                             std::span<const std::uint32_t> crc_of_tensor);
/// The bytes of an item that torch.save would write for a value without tensors.
std::string dcp_bytes(const Json& value);

}  // namespace reshard::formats
