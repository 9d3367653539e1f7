#include "submit/tasks.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>

#include "core/error.hpp"
#include "formats/dialect/dialect.hpp"
#include "mpi/plan_conversion.hpp"

namespace reshard::submit {
namespace {

namespace fs = std::filesystem;

/// Name of an iteration's folder among the targets.
std::string folder_name(std::uint64_t iteration) {
  std::string digits = std::to_string(iteration);
  if (digits.size() < 7) digits.insert(0, 7 - digits.size(), '0');
  return "iter_" + digits;
}

/// The lines of a refusal in one.
std::string in_one_line(const std::string& text) {
  std::string line;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::size_t begin = std::min(text.find_first_not_of(' ', at), end);
    line += (line.empty() ? "" : "; ") + text.substr(begin, end - begin);
    at = end + 1;
  }
  return line;
}

/// What one iteration is converted to: where, and with which options.
struct Aim {
  std::string destination;
  formats::TargetOptions target;
  std::vector<std::string> words;
};

class Planner {
 public:
  Planner(const mpi::Comm& comm, const Conversion& conversion, Tasks& tasks)
      : comm_(comm), conversion_(conversion), tasks_(tasks) {}

  void add(const Run& run, std::optional<std::uint64_t> iteration) {
    const std::string root = conversion_.save;
    if (conversion_.is_original_layout) {
      add(run, iteration, aim("megatron", root + "/torch/" + run.name + "/torch", false));
      add(run, iteration, aim(conversion_.target.to, root + "/hf/" + run.name, true));
      return;
    }
    const std::string folder = root + "/" + run.name;
    const bool is_below = iteration && !names_units();
    add(run, iteration,
        aim(conversion_.target.to, is_below ? folder + "/" + folder_name(*iteration) : folder,
            true));
  }

 private:
  /// Whether the target's format makes a folder for each iteration of its own, below its root.
  [[nodiscard]] bool names_units() const {
    const std::string& to = conversion_.target.to;
    return to != "hf" && to != "hf-bin" && to != "hdf5";
  }

  [[nodiscard]] Aim aim(const std::string& to, const std::string& destination,
                        bool is_wished) const {
    Aim aim{destination, is_wished ? conversion_.target : formats::TargetOptions{}, {}};
    aim.target.to = to;
    aim.target.path = destination;
    aim.words = {"--to", to};
    for (const PassedOption& option : conversion_.passed) {
      const bool is_of_target = option.group != "Source" && option.group != "Run";
      if (is_of_target && !is_wished) continue;
      aim.words.insert(aim.words.end(), option.words.begin(), option.words.end());
    }
    return aim;
  }

  void add(const Run& run, std::optional<std::uint64_t> iteration, const Aim& aim) {
    Task task;
    task.run = run.name;
    task.iteration = iteration;
    task.source = run.folder;
    task.words = {"convert", run.folder, aim.destination};
    task.words.insert(task.words.end(), aim.words.begin(), aim.words.end());
    formats::SourceOptions source = conversion_.source;
    source.path = run.folder;
    source.iteration = iteration;
    if (iteration) {
      task.words.insert(task.words.end(), {"--from-iteration", std::to_string(*iteration)});
    }
    mpi::PlanReport report;
    const auto fault = mpi::attempt([&] {
      report = mpi::plan_conversion(comm_, {source, aim.target, conversion_.overwrite, false}, 1,
                                    conversion_.memory);
    });
    const std::string name = run.name + (iteration ? " at " + std::to_string(*iteration) : "");
    if (fault) {
      tasks_.problems.push_back({fault->kind(), name + ": " + in_one_line(fault->what())});
      return;
    }
    check_degrees(run, name, report);
    task.unit = fs::absolute(report.unit).lexically_normal().string();
    task.bytes =
        std::accumulate(report.cost.read.begin(), report.cost.read.end(), 2 * report.target_bytes);
    task.is_converted = report.already;
    const auto [at, is_new] = units_.try_emplace(task.unit, name + " of " + run.folder);
    if (!is_new) {
      tasks_.problems.push_back({Kind::usage, name + " of " + run.folder + " and " + at->second +
                                                  " would both be " + task.unit +
                                                  ": submit them apart, with --run-name or "
                                                  "--iteration"});
    }
    for (const std::string& warning : report.warnings) {
      tasks_.notes.push_back(name + ": " + warning);
    }
    tasks_.tasks.push_back(std::move(task));
  }

  /// Files of ranks have the degrees that the log tells, or they are of another run.
  void check_degrees(const Run& run, const std::string& name, const mpi::PlanReport& report) {
    if (report.from != "megatron" || !run.tp || !run.pp) return;
    const formats::Parallelism& there = report.source_parallelism;
    if (there.tp == *run.tp && there.pp == *run.pp) return;
    tasks_.problems.push_back(
        {Kind::input, name + ": " + run.folder + " has tp " + std::to_string(there.tp) + ", pp " +
                          std::to_string(there.pp) + ", but " + run.logs.back() + " tells tp " +
                          std::to_string(*run.tp) + ", pp " + std::to_string(*run.pp) +
                          ": --checkpoint takes it without a log"});
  }

  const mpi::Comm& comm_;
  const Conversion& conversion_;
  Tasks& tasks_;
  std::map<std::string, std::string> units_;
};

}  // namespace

Tasks plan_tasks(const mpi::Comm& comm, const Runs& found, const IterationWish& wish,
                 const Conversion& conversion) {
  Tasks tasks;
  Planner planner(comm, conversion, tasks);
  for (const Run& run : found.runs) {
    std::vector<std::uint64_t> complete;
    for (const Iteration& one : run.iterations) {
      if (one.is_complete && one.number) complete.push_back(*one.number);
    }
    const bool is_whole = run.iterations.size() == 1 && !run.iterations[0].number;
    if (is_whole && run.iterations[0].is_complete) {
      planner.add(run, std::nullopt);
      continue;
    }
    std::vector<std::uint64_t> wanted = chosen(wish, complete);
    if (run.only_iteration) wanted = {*run.only_iteration};
    if (conversion.is_original_layout && wanted.size() > 1) {
      tasks.problems.push_back({Kind::usage, run.name +
                                                 ": --layout original has room for one "
                                                 "iteration in hf/" +
                                                 run.name + ", wanted " +
                                                 std::to_string(wanted.size()) +
                                                 ": --layout run has a folder for each"});
      continue;
    }
    if (wanted.empty())
      tasks.notes.push_back(run.name + ": no checkpoint that is complete in " + run.folder);
    for (const std::uint64_t iteration : wanted) {
      const auto at = std::find_if(run.iterations.begin(), run.iterations.end(),
                                   [&](const Iteration& one) { return one.number == iteration; });
      const bool is_complete = at != run.iterations.end() && at->is_complete;
      if (is_complete) {
        planner.add(run, iteration);
        continue;
      }
      tasks.problems.push_back(
          {Kind::incomplete,
           run.name + " at " + std::to_string(iteration) + ": " +
               (at == run.iterations.end() ? "not in " + run.folder : at->fault)});
    }
  }
  return tasks;
}

Estimate estimate(std::uint64_t bytes, std::optional<std::uint64_t> nodes) {
  constexpr std::uint64_t rate = std::uint64_t{250} << 20, aim = 1800, most_nodes = 32, start = 60;
  Estimate e;
  e.nodes = nodes.value_or(std::clamp<std::uint64_t>(bytes / (rate * aim) + 1, 1, most_nodes));
  e.seconds = start + bytes / (rate * e.nodes);
  return e;
}

}  // namespace reshard::submit
