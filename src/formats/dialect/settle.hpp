#pragma once

#include "families/arguments.hpp"
#include "formats/dialect/source.hpp"

namespace reshard::formats {

/// Family and record of a source that args describe: what a config.json beside the weights says,
/// where args describe the same function, else what args say, completed by the family.
void settle_record(const families::ArgumentTable& table, const SourceOptions& options,
                   const families::MegatronArguments& arguments, Source& source);

}  // namespace reshard::formats
