#include "logs/line.hpp"

#include <algorithm>
#include <array>
#include <charconv>

namespace reshard::logs {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_';
}

/// Bytes of an escape sequence at the begin of a text: CSI, OSC, or two.
std::size_t escape_size(std::string_view text) {
  if (text.size() < 2) return text.size();
  if (text[1] == '[') {
    std::size_t at = 2;
    while (at < text.size() && text[at] >= 0x20 && text[at] < 0x40) ++at;
    return std::min(at + 1, text.size());
  }
  if (text[1] == ']') {
    const std::size_t bell = text.substr(0, 256).find('\a');
    return bell == std::string_view::npos ? 2 : bell + 1;
  }
  return 2;
}

/// The words before the number of a checkpoint line; " to FOLDER" is behind it.
struct Phrase {
  std::string_view words;
  Event::Kind kind;
};
constexpr std::array phrases = {
    Phrase{"successfully saved checkpoint from iteration ", Event::Kind::done},
    Phrase{"successfully saved checkpoint at iteration ", Event::Kind::done},
    Phrase{"scheduled an async checkpoint save at iteration ", Event::Kind::scheduled},
    Phrase{"saving checkpoint at iteration ", Event::Kind::started}};

/// "FOLDER [ t 1/1, p 1/1 ] at iteration 2", or without brackets.
std::optional<Event> load_of(std::string_view line) {
  for (const std::string_view words :
       {"successfully loaded checkpoint from ", "loading distributed checkpoint from "}) {
    const std::size_t at = line.find(words);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = line.substr(at + words.size());
    const std::size_t end = rest.rfind(" at iteration ");
    if (end == std::string_view::npos) continue;
    const auto number = number_at(rest.substr(end + 14));
    if (!number) continue;
    const std::string_view folder = rest.substr(0, end);
    return Event{Event::Kind::load, number->value, folder.substr(0, folder.find(" [ t "))};
  }
  return std::nullopt;
}

}  // namespace

std::optional<Number> number_at(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && text[at] == ' ') ++at;
  Number number;
  const char* begin = text.data() + at;
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), number.value);
  constexpr std::uint64_t most = std::uint64_t{1} << 40;
  if (error != std::errc() || end == begin || number.value > most) return std::nullopt;
  number.end = static_cast<std::size_t>(end - text.data());
  return number;
}

std::optional<Number> number_behind(std::string_view text, std::string_view part) {
  const std::size_t at = text.find(part);
  if (at == std::string_view::npos) return std::nullopt;
  auto number = number_at(text.substr(at + part.size()));
  if (number) number->end += at + part.size();
  return number;
}

std::string without_colours(const std::string& line) {
  std::string plain;
  std::string_view rest = line;
  for (std::size_t at = rest.find('\x1b'); at != std::string_view::npos; at = rest.find('\x1b')) {
    plain += rest.substr(0, at);
    rest.remove_prefix(at);
    rest.remove_prefix(escape_size(rest));
  }
  return plain.append(rest);
}

std::string_view prefix_of(std::string_view line) {
  std::size_t end = 0, at = 0;
  while (at < line.size() && is_digit(line[at])) ++at;
  if (at > 0 && line.substr(at, 2) == ": ") end = at + 2;
  // "[node01:0]:" and "[rank0]: ", but not "[2025-03-12 10:00:00] iteration".
  for (int n = 0; n < 2 && end < line.size() && line[end] == '['; ++n) {
    const std::size_t close = line.find_first_of("] \t", end);
    if (close == std::string_view::npos || line[close] != ']') break;
    if (line.substr(close, 2) != "]:") break;
    end = close + 2;
    if (line.substr(end, 5) != "[rank") break;
  }
  return line.substr(0, end);
}

bool is_frame(std::string_view line, std::string_view title) {
  while (line.ends_with(' ')) line.remove_suffix(1);
  const std::size_t begin = line.find_first_not_of('-');
  if (begin == std::string_view::npos || begin < 8) return false;
  const std::size_t end = line.find_last_not_of('-') + 1;
  return line.size() - end >= 8 && line.substr(begin, end - begin) == title;
}

std::optional<std::pair<std::string_view, std::string_view>> argument_of(std::string_view line) {
  if (!line.starts_with("  ")) return std::nullopt;
  line.remove_prefix(2);
  std::size_t end = 0;
  while (end < line.size() && is_word(line[end])) ++end;
  if (end == 0 || is_digit(line[0]) || end == line.size() || line[end] != ' ') return std::nullopt;
  const std::string_view name = line.substr(0, end);
  line.remove_prefix(end + 1);
  const std::size_t dots = std::min(line.find_first_not_of('.'), line.size());
  line.remove_prefix(dots);
  if (line.empty() && dots > 0) return std::pair(name, line);  // an empty value whose blank is gone
  if (!line.starts_with(' ')) return std::nullopt;
  return std::pair(name, line.substr(1));
}

std::optional<Event> event_of(std::string_view line) {
  for (const Phrase& phrase : phrases) {
    const auto number = number_behind(line, phrase.words);
    if (!number) continue;
    const std::string_view rest = line.substr(number->end);
    if (!rest.starts_with(" to ")) continue;
    return Event{phrase.kind, number->value, rest.substr(4)};
  }
  return load_of(line);
}

}  // namespace reshard::logs
