#pragma once

#include <string>
#include <vector>

namespace reshard::app {

/// A command line in today's words, and what its user should know of the translation.
struct CommandLine {
  std::vector<std::string> words;  ///< behind the program's name
  std::vector<std::string> notes;
};

/// Translates the command lines of the older converter and inspection scripts (merak.md sections
/// 2.1 to 2.3, deepspeed.md section 4, opensci.md section 1): their options, as `--load_path`, and
/// their names, when the program is started by a link that has one, as `deepspeed_to_megatron`.
/// Other words stay as they are. Error(usage) for a --convert_type that the scripts did not have,
/// and for a target without a source.
CommandLine translate(const std::string& program, const std::vector<std::string>& words);

/// The scripts' options and what they are now, a line each, for --help.
std::string older_options();

}  // namespace reshard::app
