#pragma once

#include <span>
#include <string>

#include "core/json.hpp"
#include "formats/container/file_index.hpp"

namespace reshard::formats {

/// The protocol 2 pickle of a value in the notation of pickle.hpp, with only the opcodes that
/// weights_only=True allows (containers.md section 2.5). A tensor is {"!":"tensor","index":i}: all
/// of storage "i", row-major, of tensors[i]'s dtype and shape. Error(input) for what cannot be
/// written (bytes known only by size, storages), Error(internal) when an index is out of range.
std::string write_pickle(const Json& value, std::span<const TensorSpec> tensors);

}  // namespace reshard::formats
