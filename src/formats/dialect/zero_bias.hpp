#pragma once

#include <set>
#include <string>
#include <vector>

#include "formats/dialect/options.hpp"
#include "formats/dialect/source.hpp"

namespace reshard::formats {

// Open-Sci's config.json has one flag for the biases of q, k, v and o, and Megatron's models may
// have the first three alone: the fourth is zero then (opensci.md section 6). Read back, such zeros
// are no weights, or the model could not go to where it came from.

/// Patterns of the names that these biases have in files: none for a model that has them to
/// itself, as one with biases in its MLPs, and for a config that is refused later.
Json patterns_of_output_bias(const Json& config, const SourceOptions& options);

/// Notes which of the tensors that fit found.facts.output_bias hold zeros: reads these.
void note_zero_biases(const Found& found, FileIndex& index);

/// Takes these biases out of the record if they are zero in all layers, with a note. Returns their
/// names in the files.
std::set<std::string> leave_out_zero_biases(const std::vector<FileIndex>& indices, Source& source);

}  // namespace reshard::formats
