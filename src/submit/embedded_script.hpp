#pragma once

#include <string_view>

namespace reshard::submit {

/// slurm/convert.sbatch.in, as the build compiled it in.
std::string_view embedded_script();

}  // namespace reshard::submit
