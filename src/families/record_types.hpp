#pragma once

#include <string_view>

#include "core/json.hpp"

namespace reshard::families {

/// Error(input) when a hyperparameter's value, which is not null, is of a type that it cannot have,
/// or a size that no model has; a name that is not of the shared record may have any.
void check_type(std::string_view hyperparameter, const Json& value);

}  // namespace reshard::families
