#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.hpp"
#include "formats/container/byte_source.hpp"
#include "formats/container/file_index.hpp"

namespace reshard::formats {

/// safetensors, every version so far (containers.md section 1). The file is
///
///     u64 N | N bytes of JSON, padded with spaces | the tensors' bytes, row-major, without gaps
///
/// {"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}
/// with offsets from the end of the JSON. Everything is little-endian.

/// Reads and checks a header by every rule of section 1.2 and rejects duplicate names; tensors come
/// in the order of their bytes. `path` is what the index and errors call the file; facts are
/// {"metadata": {...}} (null when absent). Error(input) names the file, the tensor, seen and
/// wanted.
FileIndex read_safetensors(const ByteSource& source, const std::string& path);

/// Where the reference writer puts header and tensors (section 1.4), byte for byte: dtypes
/// descending, then names ascending. `metadata` is an object of strings in the order to be written,
/// or null. Error(input) on duplicate names or a header larger than readers accept.
FileLayout safetensors_layout(const std::vector<TensorSpec>& tensors, const Json& metadata);

/// The two families of weight file names of Hugging Face (section 1.5).
enum class WeightFiles { safetensors, bin };

/// A model's tensors dealt out to files as huggingface_hub does.
struct ShardSplit {
  struct Shard {
    std::string file;                    ///< "model-00001-of-00002.safetensors", or without numbers
    std::vector<std::uint32_t> tensors;  ///< indices into the tensors, in their order
  };
  std::vector<Shard> shards;     ///< one, with a plain name, when all fit
  std::uint64_t total_size = 0;  ///< bytes of all tensors
};

/// Fills files in state-dict order up to max_shard_bytes; a larger tensor gets a file of its own.
ShardSplit split_shards(std::span<const TensorSpec> tensors, std::uint64_t max_shard_bytes,
                        WeightFiles files);
/// "model.safetensors.index.json", which is written only when there are several shards.
std::string index_file_name(WeightFiles files);
/// Text of that file, as Transformers writes it; total_parameters counts tied weights once.
std::string index_json(const ShardSplit& split, std::span<const TensorSpec> tensors,
                       std::uint64_t total_parameters);
/// The tensors of each file that an index file names; Error(input) when a file is not a plain name
/// beside it, or a tensor occurs twice.
std::map<std::string, std::vector<std::string>> read_weight_map(std::string_view text,
                                                                const std::string& path);
/// Bytes of "5GB", "2.5MB" (decimal), "2GiB" (binary), "4096"; Error(usage) lists the units.
std::uint64_t parse_size(std::string_view text);

}  // namespace reshard::formats
