#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.hpp"
#include "core/shape.hpp"
#include "formats/container/byte_source.hpp"
#include "formats/container/file_index.hpp"

// A checkpoint of torch.distributed.checkpoint (DCP): one folder of global tensors and byte entries
// (megatron.md sections 6.2, 6.3).
//
//     .metadata      a pickle, written last:
//       Metadata { state_dict_metadata { key: TensorStorageMetadata { properties (dtype, ..), size,
//                                               chunks [ChunkStorageMetadata { offsets, sizes }] }
//                                        key: BytesStorageMetadata }
//                  storage_data { MetadataIndex { fqn: key, offset: offsets, or None for bytes }:
//                                 _StorageInfo { relative_path, offset, length } }
//                  planner_data  paths of keys in nested dicts; None where Megatron wrote it }
//     __0_0.distcp   items one behind another, each at its offset and of its length: a chunk is a
//                    torch file (zip) of one tensor, zip offsets counted from the item's begin; a
//                    byte entry is what its writer chose, in Megatron torch.save([object])
//
// Classes are told by their last names, so those of torch 1.13 and later are read; they never come
// to life. Example: "w" of shape [4, 2] in two chunks, at [0, 0] and [2, 0] of sizes [2, 2], has
// two items; file names tell nothing.

namespace reshard::formats {

/// The bytes of a chunk or a byte entry.
struct DcpItem {
  std::uint32_t file = 0;  ///< index into DcpMetadata::files
  std::uint64_t offset = 0, bytes = 0;
};

/// A box of a tensor, and its torch file.
struct DcpChunk {
  Shape offset, shape;
  DcpItem item;
};

/// One key: a tensor in chunks, or bytes.
struct DcpEntry {
  std::string name;
  bool is_tensor = false;
  std::string dtype;  ///< torch's name
  Shape shape;
  std::vector<DcpChunk> chunks;        ///< of a tensor that was asked for, ascending by offset
  DcpItem item;                        ///< of bytes
  std::uint64_t items = 0, bytes = 0;  ///< of the entry in the files
};

/// Everything that a .metadata says.
struct DcpMetadata {
  std::vector<std::string> files;   ///< plain names, ascending
  std::vector<std::uint64_t> ends;  ///< of each file: of its last item; not for writing
  std::vector<DcpEntry> entries;    ///< in the order of state_dict_metadata
  bool nested = false;              ///< has planner_data: keys are flattened paths
};

/// Reads a .metadata. Chunks are kept of tensors whose names are `wanted`; they tile the tensor's
/// shape. Error(input) names key, seen and wanted: also for names of files that are not plain,
/// items that overlap in a file, chunks without item and items without chunk, transformed items.
DcpMetadata read_dcp_metadata(std::span<const std::byte> pickle,
                              const std::function<bool(std::string_view)>& wanted);

/// The pickle of a .metadata that says this, of protocol 2, for torch 2.3 and later.
std::string write_dcp_metadata(const DcpMetadata& metadata);

/// Error(input) unless the chunks cover each element of a tensor of that shape once.
void check_tiling(const std::vector<DcpChunk>& chunks, const Shape& shape);

/// "decoder.weight[0:2,3:4]": a chunk by its box.
std::string chunk_name(std::string_view tensor, const Shape& offset, const Shape& shape);

/// The tensor that a chunk's torch file holds, which must be of that dtype and shape; its offset is
/// counted from the begin of `file`. Error(input) begins with `name`, which the entry gets.
TensorEntry read_dcp_chunk(const ByteSource& file, const DcpItem& item, const std::string& name,
                           Dtype dtype, const Shape& shape);

/// The value of a byte entry that torch.save wrote, in the notation of pickle.hpp.
Json read_dcp_bytes(const ByteSource& file, const DcpItem& item, const std::string& name);

}  // namespace reshard::formats
