#include "submit/tasks.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <numeric>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "formats/dialect/megatron.hpp"
#include "mpi/plan_conversion.hpp"

namespace reshard::submit {
namespace {

namespace fs = std::filesystem;

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

/// Whether a log's text of an argument may be this value; texts that are no number where it is one,
/// as of a flag without a value, tell nothing.
bool is_told(const Json& value, const std::string& text) {
  if (value.is_boolean()) return text != (value.get<bool>() ? "False" : "True");
  if (value.is_string()) {
    const auto word = value.get<std::string>();
    return text == word || text.ends_with("." + word);  // torch.bfloat16
  }
  double told = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, told);
  return !value.is_number() || error != std::errc() || at != end || told == value.get<double>();
}

class Planner {
 public:
  Planner(const mpi::Comm& comm, const Conversion& conversion, Tasks& tasks)
      : comm_(comm), conversion_(conversion), tasks_(tasks) {}

  void add(const Run& run, const Iteration& one) {
    const std::string root = conversion_.save;
    if (conversion_.is_original_layout) {
      add(run, one, aim("megatron", root + "/torch/" + run.name + "/torch", false));
      add(run, one, aim(conversion_.target.to, root + "/hf/" + run.name, true));
      return;
    }
    const std::string folder = root + "/" + run.name;
    const bool is_below = one.number && !names_units();
    add(run, one,
        aim(conversion_.target.to,
            is_below ? folder + "/" + formats::iteration_folder(*one.number) : folder, true));
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

  void add(const Run& run, const Iteration& one, const Aim& aim) {
    const std::optional<std::uint64_t> iteration = one.number;
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
    if (one.logged) check_log(*one.logged, name, report);
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

  /// A checkpoint has the degrees and sizes of the run that saved it, as its log tells them, or it
  /// is of another run.
  void check_log(const LoggedSave& saved, const std::string& name, const mpi::PlanReport& report) {
    Json there = report.function_args;
    if (report.from == "megatron") {  // whose files of ranks say so themselves
      there["tensor_model_parallel_size"] = report.source_parallelism.tp;
      there["pipeline_model_parallel_size"] = report.source_parallelism.pp;
    }
    std::string differences;
    for (const auto& [argument, value] : there.items()) {
      const std::optional<std::string> told = logs::argument(*saved.start, argument);
      if (!told || is_told(value, *told)) continue;
      differences += (differences.empty() ? "" : ", ") + argument + " " +
                     (value.is_string() ? value.get<std::string>() : value.dump()) +
                     " (log: " + printable(*told) + ")";
    }
    if (differences.empty()) return;
    tasks_.problems.push_back({Kind::input, name + ": not what " + saved.log +
                                                " tells: " + differences +
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
      planner.add(run, run.iterations[0]);
      continue;
    }
    std::vector<std::uint64_t> wanted;
    if (run.is_named) wanted = chosen(wish, complete);
    for (const auto& [iteration, folder] : run.named) wanted.push_back(iteration);
    std::sort(wanted.begin(), wanted.end());
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
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
        planner.add(run, *at);
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
