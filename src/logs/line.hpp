#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace reshard::logs {

/// A number and where it ends in the text.
struct Number {
  std::uint64_t value = 0;
  std::size_t end = 0;
};
/// The number at the begin of a text, blanks before it left out; nothing when there is none or it
/// is larger than any count.
std::optional<Number> number_at(std::string_view text);
/// The number behind the first place of a part.
std::optional<Number> number_behind(std::string_view text, std::string_view part);

/// The line without ANSI's escape sequences.
std::string without_colours(const std::string& line);
/// What srun --label and torchrun --tee put before a line: "0: ", "[node01:0]:", "[rank0]: ".
std::string_view prefix_of(std::string_view line);
/// Whether a line is a title between dashes, at least eight on each side.
bool is_frame(std::string_view line, std::string_view title);
/// Name and value of "  name ........ value", the line of an arguments block.
std::optional<std::pair<std::string_view, std::string_view>> argument_of(std::string_view line);

/// What a line says of a checkpoint.
struct Event {
  enum class Kind { started, scheduled, done, load };
  Kind kind = Kind::started;
  std::uint64_t iteration = 0;
  std::string_view folder;  ///< with all that is behind it; of a load without
};
/// The event of a line in any of the versions of Megatron-LM and Merak; of a line with several the
/// one that tells most.
std::optional<Event> event_of(std::string_view line);

}  // namespace reshard::logs
