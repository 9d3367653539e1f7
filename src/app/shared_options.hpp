#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "formats/dialect/options.hpp"

namespace reshard::app {

/// Words on the command line that are not yet values: sizes, dtypes, choices.
struct OptionWords {
  std::string dtype = "keep", vocab_fill, max_shard_size, hdf5_chunk_size, memory, journal;
  std::string optimizer = "drop";
  std::string stage_layers, custom_partition;
};

/// Options that tell about a source; shared by all commands that read one.
void add_source_options(CLI::App& command, formats::SourceOptions& options);
/// What to do about replicas of a source, for commands that convert.
void add_replicas_option(CLI::App& command, formats::SourceOptions& options);
/// Options that describe a target.
void add_target_options(CLI::App& command, formats::TargetOptions& options, OptionWords& words);
/// Turns words into values; Error(usage) names the option, also one that the target's format has no
/// use for.
void settle(const OptionWords& words, formats::TargetOptions& options);
/// Bytes that an option names, as 2GiB; Error(usage) names the option.
std::uint64_t bytes_of(const char* option, const std::string& text);
/// Bytes of --memory, 0 when it is not given.
std::uint64_t memory_of(const OptionWords& words);
/// What a whole number on the command line may be.
CLI::Validator whole(std::uint64_t least, std::uint64_t most);

}  // namespace reshard::app
