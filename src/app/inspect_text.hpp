#pragma once

#include <string>

#include "core/json.hpp"
#include "mpi/inspect.hpp"

namespace reshard::app {

/// A checkpoint: format, family, layout, stages, parameters, and a tree of roles with layers
/// folded.
std::string checkpoint_text(const mpi::InspectReport& report);
Json checkpoint_json(const mpi::InspectReport& report);

/// Where a canonical tensor (role) or a stored one (name, or the end of one) lies in the files;
/// Error(usage) names near ones when there is none or the end is that of several.
Json placements_json(const formats::Source& source, const std::string& name);
std::string placements_text(const Json& placements);

/// Files that no dialect knows: every leaf with shape and dtype or value.
std::string files_text(const mpi::InspectReport& report);
Json files_json(const mpi::InspectReport& report);

}  // namespace reshard::app
