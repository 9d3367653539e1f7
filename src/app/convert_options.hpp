#pragma once

#include <CLI/CLI.hpp>

#include "app/report.hpp"
#include "app/shared_options.hpp"
#include "mpi/convert.hpp"

namespace reshard::app {

/// The command line of a conversion.
struct ConversionWords {
  mpi::ConvertOptions convert;
  OptionWords words;
  bool no_verify = false;
};

/// All options of `convert`, SRC and DST among them, but those of a single run's output.
void add_conversion_options(CLI::App& command, ConversionWords& conversion);
/// Turns words into values; Error(usage) names the option.
void settle(ConversionWords& conversion);

}  // namespace reshard::app
