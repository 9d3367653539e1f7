#pragma once

#include <string>

#include "core/json.hpp"
#include "mpi/inspect.hpp"

namespace reshard::app {

/// Where a checkpoint's model lies, by headers alone:
///
///     stages       [{stage, layers, holds, copies, modules}]
///     ranks        [{tp, pp, files}], those without tensors too; empty for a format without ranks
///     embedding    [{tp, files}] that hold the word embedding itself, no copy of it
///     final_norm   [{tp, files}]
///     modules      [{module, stage, holds, copies, roles}], of a format that numbers them
///     head_is_tied   the head is the embedding
///     tied         [{tp, pp, role, tensors: [{file, name}]}], the original first
///     dtypes       {class of tensors, "buffers" for those without weights: {dtype: how many}}
///     optimizer    {bytes, files: [{file, bytes}]}, never opened
///
/// A rank has `ep`, too, where there are several. `holds` is of roles without their last word,
/// "layers.3" for a whole layer; `copies` is of those held once more because the model ties them.
Json maps_json(const mpi::InspectReport& report);
/// The same for people: names that differ in numbers are one pattern.
std::string maps_text(const Json& maps);

}  // namespace reshard::app
