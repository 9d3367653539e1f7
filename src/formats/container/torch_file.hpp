#pragma once

#include <string>

#include "formats/container/byte_source.hpp"
#include "formats/container/file_index.hpp"
#include "formats/container/pickle.hpp"

// Files of torch.save: the zip archive of torch 1.6 and later, and the stream of pickles before
// (containers.md sections 2.1 to 2.4, 2.7). TorchScript archives and tar files are refused.

namespace reshard::formats {

/// A dict's key as it stands in names: "7", "(a,b)" for a tuple.
std::string key_name(const Json& key);

/// Reads the header of a torch file: the pickle and the zip directory, no tensor data.
/// `tensors` has every tensor below the top-level value in the pickle's order, named by the dict
/// keys, list and tuple indices and attributes on the way, joined by "." ("" for a file that is
/// one tensor), with bounds checked. `facts` is the top-level
/// value in the notation of pickle.hpp, each tensor as {"!":"tensor","dtype":..,"shape":[..]}.
/// Error(input) naming path and tensor for anything else than a file that torch could have saved.
FileIndex read_torch_file(const ByteSource& source, const std::string& path,
                          const PickleLimits& limits = {});

}  // namespace reshard::formats
