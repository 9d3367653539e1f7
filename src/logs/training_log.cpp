#include "logs/training_log.hpp"

#include <algorithm>
#include <array>

#include "core/error.hpp"
#include "formats/file.hpp"
#include "logs/line.hpp"

namespace reshard::logs {
namespace {

constexpr std::size_t longest_line = std::size_t{1} << 20;
constexpr std::size_t most_kept = std::size_t{64} << 20;
constexpr std::size_t most_starts = 10'000, most_saves = 100'000, most_notes = 20;
/// Of the frame around a command.
constexpr int most_command_lines = 16;
/// An iteration is told of by lines that are near each other: among so many checkpoints.
constexpr std::size_t near = 16;

/// An end, by a part of the line that tells of it; a weak one never replaces another.
struct End {
  std::string_view part, end;
  bool weak = false;
};
constexpr std::array ends = {End{"[after training is done]", "done"},
                             End{"[exiting program ", "exited"},
                             End{"DUE TO TIME LIMIT", "time limit"},
                             End{"DUE TO PREEMPTION", "preempted"},
                             End{"DUE TO NODE FAILURE", "node failure"},
                             End{"CUDA out of memory", "out of memory"},
                             End{"oom_kill", "out of memory"},
                             End{"oom-kill", "out of memory"},
                             End{"Unable to load rng state from checkpoint", "layout refused"},
                             End{" CANCELLED AT ", "cancelled", true},
                             End{"Traceback (most recent call last)", "failed", true},
                             End{"ChildFailedError", "failed", true},
                             End{"SignalException", "failed", true},
                             End{"Exited with exit code", "failed", true}};

/// Where a checkpoint line's folder ends when nothing is known of it: blanks may be in it, but not
/// before what the program writes behind it.
std::string_view folder_in(std::string_view rest) {
  for (const std::string_view behind : {" [ t ", " in torch", " in zarr", " in fsdp"}) {
    const std::size_t at = rest.find(behind);
    if (at == std::string_view::npos) continue;
    if (behind[1] == '[' || rest.find(" format", at) != std::string_view::npos) {
      return rest.substr(0, at);
    }
  }
  return rest.substr(0, rest.find(' '));
}

/// Whether a text begins with a folder that ends there.
bool begins_with_folder(std::string_view rest, const std::string& folder) {
  if (folder.empty() || !rest.starts_with(folder)) return false;
  return rest.size() == folder.size() || rest[folder.size()] == ' ';
}

/// The number behind "NAME i/" in brackets, as 2 in "[ t 1/2, p 1/4 ]".
std::optional<std::uint64_t> degree(std::string_view brackets, std::string_view name) {
  std::size_t at = brackets.find(name);
  if (at == std::string_view::npos) return std::nullopt;
  at = brackets.find('/', at);
  if (at == std::string_view::npos) return std::nullopt;
  return number_at(brackets.substr(at + 1)).value_or(Number{0, 0}).value;
}

}  // namespace

const Start* Log::arguments_at(std::size_t n) const {
  for (std::size_t i = std::min(n + 1, starts.size()); i-- > 0;) {
    if (starts[i].has_arguments) return &starts[i];
  }
  return nullptr;
}

void Scanner::add(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::size_t end = std::min(bytes.find('\n'), bytes.size());
    std::string_view line = bytes.substr(0, end);
    for (std::size_t cr = line.find('\r'); cr < line.size(); cr = line.find('\r')) {
      append(line.substr(0, cr));
      end_line(true);
      line.remove_prefix(cr + 1);
    }
    append(line);
    if (end == bytes.size()) return;
    end_line(true);
    ++log_.lines;
    bytes.remove_prefix(end + 1);
  }
}

void Scanner::append(std::string_view part) {
  const std::size_t room = longest_line - line_.size();
  is_long_ = is_long_ || part.size() > room;
  line_.append(part.substr(0, room));
}

Log Scanner::finish() {
  if (!line_.empty()) ++log_.lines;
  end_line(false);
  if (block_) note("an arguments block has no end");
  return std::move(log_);
}

/// What CR and LF leave empty between them says nothing.
void Scanner::end_line(bool whole) {
  if (line_.empty()) return;
  if (is_long_) note("line " + std::to_string(log_.lines + 1) + " is read up to 1 MiB only");
  const bool is_cut = is_long_;
  is_long_ = false;
  if (line_.find('\x1b') != std::string::npos) line_ = without_colours(line_);
  read_line(line_, whole && !is_cut);
  line_.clear();
}

void Scanner::read_line(std::string_view line, bool whole) {
  const std::string_view prefix = prefix_of(line);
  line.remove_prefix(prefix.size());
  if (read_block(prefix, line)) return;
  if (read_command(line)) return;
  read_event(line, whole);
}

bool Scanner::read_block(std::string_view prefix, std::string_view line) {
  if (is_frame(line, " arguments ")) {
    if (block_) note("an arguments block has no end");
    block_ = prefix;
    arguments_.clear();
    begin();
    return true;
  }
  if (!block_ || *block_ != prefix) return false;
  if (is_frame(line, " end of arguments ")) {
    start().arguments = std::move(arguments_);
    start().has_arguments = true;
    save_ = argument(start(), "save").value_or("");
    arguments_.clear();
    block_.reset();
    return true;
  }
  const auto argument = argument_of(line);
  if (!argument) return false;
  keep(argument->first.size() + argument->second.size() + 64);
  arguments_.insert_or_assign(std::string(argument->first), std::string(argument->second));
  return true;
}

bool Scanner::read_command(std::string_view line) {
  const auto take = [&](std::string_view command) {
    keep(command.size());
    start().command = command;
    save_ = argument(start(), "save").value_or("");
  };
  if (command_lines_ > 0) {
    const bool is_end = line.find_first_not_of('=') == std::string_view::npos;
    command_lines_ = is_end ? 0 : command_lines_ - 1;
    if (line.find(" --") == std::string_view::npos) return is_end;
    take(line);
    command_lines_ = 0;
    return true;
  }
  if (line.starts_with("=") && line.ends_with("=") &&
      line.find("= CMD: =") != std::string_view::npos) {
    begin();
    command_lines_ = most_command_lines;
    return true;
  }
  if (line.starts_with("+ ") && line.find(".py ") != std::string_view::npos) {  // bash -x
    begin();
    if (start().command.empty()) take(line.substr(2));
    return true;
  }
  return false;
}

void Scanner::read_event(std::string_view line, bool whole) {
  if (line.find("checkpoint") != std::string_view::npos) read_save(line, whole);
  read_end(line);
  if (const auto padded = number_behind(line, "padded vocab (size: ")) {
    const auto size = number_behind(line, "(new size: ");
    if (size) start().padded_vocab = size->value;
  }
  // " [2025-03-12 10:00:00] iteration     1000/   72661 | consumed samples: ..."
  const auto now = number_behind(line, "] iteration ");
  if (!now || now->end >= line.size() || line[now->end] != '/') return;
  const auto all = number_at(line.substr(now->end + 1));
  if (!all) return;
  start().iteration = now->value;
  start().iterations = all->value;
}

void Scanner::read_save(std::string_view line, bool whole) {
  const std::optional<Event> event = event_of(line);
  if (!event) return;
  if (event->kind == Event::Kind::load) {
    keep(event->folder.size());
    start().loaded = Load{event->iteration, std::string(event->folder)};
    return;
  }
  const std::string_view rest = event->folder;
  std::string folder = folder_of(event->iteration, rest);
  if (folder.empty()) {
    folder = folder_in(rest);
    if (!whole && folder.size() == rest.size()) {  // the folder's name may go on
      note("the last line is cut: \"" + std::string(line.substr(0, 200)) + "\"");
      return;
    }
  }
  if (folder.empty()) return;
  Save& save = save_of(event->iteration, folder);
  const std::string_view behind = rest.substr(std::min(rest.size(), folder.size()));
  if (behind.starts_with(" in ") && behind.find(" format") != std::string_view::npos) {
    save.format = behind.substr(4, behind.find(" format") - 4);
  }
  if (event->kind == Event::Kind::scheduled && save.state == Save::State::started) {
    save.state = Save::State::scheduled;
  }
  if (event->kind != Event::Kind::done) return;
  save.state = Save::State::done;
  if (!behind.starts_with(" [")) return;
  const std::string_view brackets = behind.substr(0, behind.find(']'));
  save.tp = degree(brackets, " t ");
  save.pp = degree(brackets, " p ");
}

std::string Scanner::folder_of(std::uint64_t iteration, std::string_view rest) {
  if (begins_with_folder(rest, save_)) return save_;
  const std::vector<Save>& saves = start().saves;
  for (std::size_t i = saves.size(), n = 0; i-- > 0 && n < near; ++n) {
    if (saves[i].iteration == iteration && begins_with_folder(rest, saves[i].folder)) {
      return saves[i].folder;
    }
  }
  return "";
}

Save& Scanner::save_of(std::uint64_t iteration, const std::string& folder) {
  std::vector<Save>& saves = start().saves;
  for (std::size_t i = saves.size(), n = 0; i-- > 0 && n < near; ++n) {
    if (saves[i].iteration == iteration && saves[i].folder == folder) return saves[i];
  }
  if (saves.size() == most_saves) throw Error(Kind::input, "more than 100,000 checkpoints in it");
  keep(folder.size() + 128);
  saves.push_back({iteration, folder, "", {}, {}, Save::State::started});
  return saves.back();
}

void Scanner::read_end(std::string_view line) {
  for (const End& end : ends) {
    if (line.find(end.part) == std::string_view::npos) continue;
    if (!end.weak || start().end.empty()) start().end = end.end;
    return;
  }
}

Start& Scanner::start() {
  if (log_.starts.empty()) log_.starts.emplace_back();
  return log_.starts.back();
}

void Scanner::begin() {
  if (!start().has_arguments && start().saves.empty()) return;
  if (log_.starts.size() == most_starts) throw Error(Kind::input, "more than 10,000 starts in it");
  keep(256);
  log_.starts.emplace_back();
}

void Scanner::note(const std::string& text) {
  if (log_.notes.size() < most_notes) log_.notes.push_back(text);
}

void Scanner::keep(std::size_t bytes) {
  kept_ += bytes;
  if (kept_ > most_kept) {
    throw Error(Kind::input, "arguments, commands and checkpoints of more than 64 MiB in it");
  }
}

Log read_log(std::string_view text) {
  Scanner scanner;
  scanner.add(text);
  return scanner.finish();
}

Log read_log_file(const std::string& path) {
  const formats::File file = formats::File::open_read(path);
  return with_context(path, [&] {
    Scanner scanner;
    std::vector<std::byte> buffer(std::size_t{1} << 20);
    const std::uint64_t size = file.size();
    for (std::uint64_t at = 0; at < size; at += buffer.size()) {
      const auto bytes =
          static_cast<std::size_t>(std::min<std::uint64_t>(size - at, buffer.size()));
      file.read_at(at, std::span(buffer).first(bytes));
      scanner.add({reinterpret_cast<const char*>(buffer.data()), bytes});
    }
    return scanner.finish();
  });
}

std::optional<std::string> argument(const Start& start, const std::string& name) {
  const auto found = start.arguments.find(name);
  if (found != start.arguments.end()) {
    return found->second == "None" ? std::nullopt : std::optional(found->second);
  }
  if (start.has_arguments || start.command.empty()) return std::nullopt;
  std::string flag = name;
  std::replace(flag.begin(), flag.end(), '_', '-');
  const auto flags = flags_of(start.command);
  const auto given = flags.find(flag);
  if (given == flags.end() || given->second.empty()) return std::nullopt;
  return given->second.front();
}

}  // namespace reshard::logs
