#include "app/submit_text.hpp"

#include <filesystem>

#include "app/text.hpp"
#include "core/printable.hpp"
#include "formats/dialect/megatron.hpp"

namespace reshard::app {
namespace {

template <class Number>
Json json_of(const std::optional<Number>& number) {
  return number ? Json(*number) : Json(nullptr);
}

std::string layout_of(const submit::Run& run) {
  if (!run.tp) return "";
  return ", tp " + std::to_string(*run.tp) + (run.pp ? ", pp " + std::to_string(*run.pp) : "");
}

/// Whether a manifest lies where an iteration would be converted to; whether it fits, planning
/// says.
bool has_target(const submit::Run& run, const submit::Iteration& one, const std::string& save) {
  if (save.empty()) return false;
  const std::filesystem::path folder = std::filesystem::path(save) / run.name;
  std::error_code error;
  return std::filesystem::exists(
      (one.number ? folder / formats::iteration_folder(*one.number) : folder) / "manifest.json",
      error);
}

std::string state_of(const submit::Iteration& one) {
  if (one.is_complete) return one.logged ? "complete, in a log" : "complete";
  return (one.logged ? "saved as a log says, but: " : "not complete: ") + one.fault;
}

}  // namespace

std::string text_of(const submit::Runs& found, const std::string& save) {
  std::string text = lines_of("note: ", found.notes);
  for (const submit::Run& run : found.runs) {
    text += printable(run.name) + ": " + printable(run.folder) + layout_of(run) +
            (run.end.empty() ? "" : ", ended: " + run.end) + "\n";
    for (const std::string& log : run.logs) text += "  log " + printable(log) + "\n";
    if (run.iterations.empty()) text += "  no checkpoint\n";
    for (const submit::Iteration& one : run.iterations) {
      text += "  " +
              (one.number ? padded(std::to_string(*one.number), 10) : padded("as it is", 10)) +
              printable(state_of(one)) + (has_target(run, one, save) ? "; converted" : "") + "\n";
    }
  }
  return text;
}

Json json_of(const submit::Runs& found, const std::string& save) {
  Json runs = Json::array();
  for (const submit::Run& run : found.runs) {
    Json iterations = Json::array();
    for (const submit::Iteration& one : run.iterations) {
      iterations.push_back({{"iteration", json_of(one.number)},
                            {"logged", one.logged.has_value()},
                            {"on_disk", one.is_there},
                            {"complete", one.is_complete},
                            {"converted", has_target(run, one, save)},
                            {"fault", one.fault}});
    }
    runs.push_back({{"name", run.name},
                    {"folder", run.folder},
                    {"logs", run.logs},
                    {"tp", json_of(run.tp)},
                    {"pp", json_of(run.pp)},
                    {"end", run.end},
                    {"iterations", iterations}});
  }
  return {{"runs", runs}, {"notes", found.notes}};
}

std::string scripts_of(const submit::SubmitReport& report) {
  std::string text;
  for (const submit::Submitted& made : report.jobs) text += made.script;
  return text;
}

std::string text_of(const submit::SubmitReport& report) {
  std::string text = lines_of("note: ", report.notes, 20);
  for (const submit::TaskState& state : report.tasks) {
    text += padded(state.state, 14) + printable(state.task.unit) +
            (state.job ? ", job " + std::to_string(*state.job) : "") + "\n";
  }
  for (const submit::Submitted& made : report.jobs) {
    if (made.id) {
      text += "job " + std::to_string(*made.id) + ": " + printable(made.script_path) + "\n";
      continue;
    }
    text += "\n# would be written to " + printable(made.script_path) + " and submitted:\n" +
            made.script;
  }
  return text;
}

Json json_of(const submit::SubmitReport& report) {
  Json tasks = Json::array(), jobs = Json::array();
  for (const submit::TaskState& state : report.tasks) {
    tasks.push_back({{"run", state.task.run},
                     {"iteration", json_of(state.task.iteration)},
                     {"source", state.task.source},
                     {"target", state.task.unit},
                     {"state", state.state},
                     {"job", json_of(state.job)}});
  }
  for (const submit::Submitted& made : report.jobs) {
    jobs.push_back({{"job", json_of(made.id)},
                    {"run", made.job.run},
                    {"name", made.job.name},
                    {"path", made.script_path},
                    {"seconds", made.job.estimate.seconds},
                    {"script", made.script}});
  }
  return {{"tasks", tasks}, {"jobs", jobs}, {"notes", report.notes}};
}

std::string text_of(const std::vector<submit::TargetStatus>& all) {
  std::string text;
  for (const submit::TargetStatus& one : all) {
    text += padded(one.state, 9) + printable(one.target) + ", job " + std::to_string(one.job) +
            (one.index ? "_" + std::to_string(*one.index) : "") +
            (one.reason.empty() ? "" : ": " + printable(one.reason)) + "\n";
  }
  return text.empty() ? "nothing was submitted\n" : text;
}

Json json_of(const std::vector<submit::TargetStatus>& all) {
  Json targets = Json::array();
  for (const submit::TargetStatus& one : all) {
    targets.push_back({{"run", one.run},
                       {"target", one.target},
                       {"job", one.job},
                       {"task", json_of(one.index)},
                       {"state", one.state},
                       {"reason", one.reason}});
  }
  return targets;
}

}  // namespace reshard::app
