#pragma once

#include <cstdint>

#include "families/dialect_table.hpp"
#include "formats/dialect/dialect.hpp"

namespace reshard::formats {

/// The run that a target of Megatron is written for, in either of its formats.
struct TargetRun {
  families::Record record;
  std::uint64_t padded_vocab = 0;
  Json choices;  ///< of all of Megatron's tables
  Json args;     ///< null where they cannot be written
  std::uint64_t iteration = 0;
  bool release = false;
};

/// Plans the run and sets the target's degrees, unit and tracker; `format` is what --ckpt-format
/// calls it. Arguments that cannot be written go to `problems`.
TargetRun plan_run(const Source& source, const TargetOptions& options, const char* format,
                   Problems& problems, Target& target);
/// Those of the choices that a table knows.
Json known_choices(const families::DialectTable& table, const Json& choices);
/// What Megatron saves beside the weights: args and the run's counters.
Json common_state(const Source& source, const TargetRun& run);
/// Adds hf_config/ and what the run must be told beside `--use-checkpoint-args`.
void finish_target(const Source& source, const TargetRun& run, Target& target);

}  // namespace reshard::formats
