#include "submit/queue.hpp"

#include <sstream>

#include "core/error.hpp"
#include "submit/command.hpp"

namespace reshard::submit {

Queue Queue::ask() {
  const CommandResult done =
      run_command({"squeue", "--noheader", "--array", "--all", "--format=%F %K %T"});
  if (done.code != 0) {
    throw Error(Kind::io, "squeue: exit " + std::to_string(done.code) + ": " +
                              done.errors.substr(0, done.errors.find('\n')) +
                              ": without it nobody knows which jobs are queued; --dry-run "
                              "--no-check prints scripts all the same");
  }
  return Queue(done.output);
}

Queue::Queue(const std::string& lines) {
  std::istringstream text(lines);
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    std::uint64_t job = 0;
    std::string index, state;
    if (!(words >> job >> index >> state)) continue;
    std::optional<std::uint64_t> number;
    if (std::istringstream digits(index); index != "N/A") {
      std::uint64_t value = 0;
      if (digits >> value) number = value;
    }
    states_[{job, number}] = state;
  }
}

std::optional<std::string> Queue::state(std::uint64_t job,
                                        std::optional<std::uint64_t> index) const {
  const auto at = states_.find({job, index});
  return at == states_.end() ? std::nullopt : std::optional(at->second);
}

}  // namespace reshard::submit
