#include "submit/submit.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>

#include "core/error.hpp"
#include "formats/file.hpp"
#include "formats/lock.hpp"
#include "submit/command.hpp"
#include "submit/preflight.hpp"
#include "submit/queue.hpp"

namespace reshard::submit {
namespace {

namespace fs = std::filesystem;

/// A name that no other submission has: of the run, the time and this process.
std::string unique_name(const std::string& run, std::size_t number) {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%dT%H%M%SZ", &utc);
  return "convert-" + plain_name(run) + "-" + text + "-" + std::to_string(::getpid()) + "-" +
         std::to_string(number);
}

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

/// The jobs that are queued or running, by what they will make.
class Claims {
 public:
  Claims(const std::vector<JobRecord>& records, const Queue& queue) {
    for (const JobRecord& record : records) {
      if (record.targets.empty()) {
        const auto state = queue.state(record.job, std::nullopt);
        if (state) by_root_[record.root + " " + record.wish] = {*state, record.job};
      }
      for (std::size_t i = 0; i < record.targets.size(); ++i) {
        const auto index = record.is_array ? std::optional<std::uint64_t>(i) : std::nullopt;
        const auto state = queue.state(record.job, index);
        if (state) by_target_[record.targets[i]] = {*state, record.job};
      }
    }
  }
  using Claim = std::pair<std::string, std::uint64_t>;
  [[nodiscard]] const Claim* of_target(const std::string& unit) const {
    const auto at = by_target_.find(unit);
    return at == by_target_.end() ? nullptr : &at->second;
  }
  [[nodiscard]] const Claim* of_root(const std::string& root, const std::string& wish) const {
    const auto at = by_root_.find(root + " " + wish);
    return at == by_root_.end() ? nullptr : &at->second;
  }

 private:
  std::map<std::string, Claim> by_target_, by_root_;
};

/// Paths of a conversion outside of its targets: the source, resolved, and what options name.
std::vector<std::string> paths_of(const Run& run, const Conversion& conversion) {
  std::vector<std::string> paths;
  std::error_code error;
  const auto add = [&](const std::string& path) {
    if (path.empty() || !fs::exists(path, error)) return;
    paths.push_back(fs::absolute(path).lexically_normal().string());
    paths.push_back(fs::canonical(path, error).string());
  };
  add(run.folder);
  // An iteration may be a link out of the run's folder.
  for (const auto& entry : fs::directory_iterator(run.folder, error)) {
    if (entry.is_symlink(error) && entry.is_directory(error)) add(entry.path().string());
  }
  for (const PassedOption& option : conversion.passed) {
    for (std::size_t i = 1; i < option.words.size(); ++i) {
      if (option.words[i].find('/') != std::string::npos) add(option.words[i]);
    }
  }
  return paths;
}

/// Which iterations of a run are wanted, for a job that looks itself what is there.
std::string wish_of(const Run& run, const SubmitOptions& options) {
  std::string wish = run.is_named ? options.wish_text : "";
  for (const auto& [iteration, folder] : run.named) {
    wish += (wish.empty() ? "" : ",") + std::to_string(iteration);
  }
  return wish;
}

/// The words of `submit --tasks` that a job asks when it starts.
std::vector<std::string> listing_of(const Run& run, const SubmitOptions& options) {
  std::vector<std::string> words = {"submit",
                                    "--tasks",
                                    "--profile",
                                    "none",
                                    "--run-name",
                                    run.name,
                                    "--iteration",
                                    options.wish_text,
                                    "--save-checkpoints-dir",
                                    options.conversion.save,
                                    "--layout",
                                    options.conversion.is_original_layout ? "original" : "run"};
  if (run.is_named) words.insert(words.end(), {"--checkpoint", run.folder});
  for (const auto& [iteration, folder] : run.named) {
    words.insert(words.end(), {"--checkpoint", folder});
  }
  words.insert(words.end(), {"--to", options.conversion.target.to});
  for (const PassedOption& option : options.conversion.passed) {
    words.insert(words.end(), option.words.begin(), option.words.end());
  }
  return words;
}

class Submission {
 public:
  Submission(const mpi::Comm& comm, const SubmitOptions& options)
      : comm_(comm), options_(options) {}

  SubmitReport run() {
    report_.found = find_runs(options_.runs, options_.conversion.source);
    report_.notes = report_.found.notes;
    std::vector<Tasks::Problem> problems;
    if (options_.check) problems = check_surroundings(options_);
    if (!options_.check) require_slurm();
    std::unique_ptr<formats::Lock> lock;
    if (!options_.dry_run && problems.empty()) {
      for (const std::string& folder : {options_.conversion.save, options_.logs}) make(folder);
      lock = std::make_unique<formats::Lock>(options_.conversion.save + "/.jobs.lock",
                                             std::chrono::seconds(60));
    }
    Tasks tasks;
    if (!options_.after)
      tasks = plan_tasks(comm_, report_.found, options_.wish, options_.conversion);
    report_.notes.insert(report_.notes.end(), tasks.notes.begin(), tasks.notes.end());
    problems.insert(problems.end(), tasks.problems.begin(), tasks.problems.end());
    const bool asks = !options_.dry_run || (options_.check && has_program("squeue"));
    const Queue queue = asks && problems.empty() ? Queue::ask() : Queue("");
    const Claims claims(read_jobs(options_.conversion.save), queue);
    make_jobs(tasks, claims, problems);
    raise(problems);
    if (!options_.dry_run) {
      for (Submitted& job : report_.jobs) send(job);
    }
    return std::move(report_);
  }

 private:
  /// Without Slurm's programs no job can be made.
  void require_slurm() const {
    if (options_.dry_run || (has_program("sbatch") && has_program("squeue"))) return;
    throw Error(Kind::usage, "sbatch and squeue: not in the search path: --dry-run prints scripts");
  }

  static void make(const std::string& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) throw Error(Kind::io, folder + ": " + error.message());
  }

  void make_jobs(const Tasks& tasks, const Claims& claims, std::vector<Tasks::Problem>& problems) {
    for (const Run& run : report_.found.runs) {
      if (options_.after) {
        make_late_job(run, claims, problems);
        continue;
      }
      std::vector<Task> open;
      for (const Task& task : tasks.tasks) {
        if (task.run != run.name || task.source != run.folder) continue;
        TaskState state{task, options_.dry_run ? "would submit" : "submit", {}};
        if (task.is_converted) {
          state.state = "converted";
        } else if (const Claims::Claim* claim = claims.of_target(task.unit)) {
          state.state = lower(claim->first);
          state.job = claim->second;
        } else {
          open.push_back(task);
        }
        report_.tasks.push_back(std::move(state));
      }
      if (!open.empty()) make_job(run, std::move(open), problems);
    }
    if (tasks.tasks.empty() && problems.empty() && !options_.after) {
      problems.push_back({Kind::incomplete,
                          "no checkpoint that is complete and wanted; --list shows what was found, "
                          "--after JOB waits for a training job"});
      for (const std::string& note : report_.notes) problems.push_back({Kind::incomplete, note});
    }
  }

  /// A job that looks itself, after another one has ended, what is complete.
  void make_late_job(const Run& run, const Claims& claims, std::vector<Tasks::Problem>& problems) {
    const std::string root = options_.conversion.save + "/" + run.name;
    Task task;
    task.run = run.name;
    task.source = run.folder;
    task.unit = root;
    TaskState state{task, options_.dry_run ? "would submit" : "submit", {}};
    if (const Claims::Claim* claim = claims.of_root(root, wish_of(run, options_))) {
      state.state = lower(claim->first);
      state.job = claim->second;
    } else {
      make_job(run, {}, problems);
    }
    report_.tasks.push_back(std::move(state));
  }

  void make_job(const Run& run, std::vector<Task> tasks, std::vector<Tasks::Problem>& problems) {
    Submitted made;
    Job& job = made.job;
    job.name = unique_name(run.name, report_.jobs.size());
    job.run = run.name;
    job.source = run.folder;
    job.logs = options_.logs;
    job.save = options_.conversion.save;
    job.folder = fs::current_path().string();
    job.tasks = std::move(tasks);
    job.after = options_.after;
    job.paths = paths_of(run, options_.conversion);
    if (options_.after) {
      job.listing = listing_of(run, options_);
      job.wish = wish_of(run, options_);
    }
    std::uint64_t most = 0;
    for (const Task& task : job.tasks) most = std::max(most, task.bytes);
    job.estimate = estimate(most, options_.slurm.nodes);
    if (options_.after) job.estimate.seconds = 1800;  // nothing is known yet of what will be there
    made.script_path = options_.logs + "/" + job.name + ".sbatch";
    const auto fault = mpi::attempt([&] {
      made.script = make_script(job, options_.slurm);
      if (!options_.check || !has_program("sbatch")) return;
      const auto more = check_script(made.script, job.name);
      problems.insert(problems.end(), more.begin(), more.end());
    });
    if (fault) problems.push_back({fault->kind(), fault->what()});
    report_.jobs.push_back(std::move(made));
  }

  std::uint64_t send(const std::vector<std::string>& words) {
    const CommandResult done = run_command(words);
    std::uint64_t id = 0;
    const char* end = done.output.data() + done.output.size();
    const auto [at, error] = std::from_chars(done.output.data(), end, id);
    const bool is_id = error == std::errc() && at != done.output.data();
    if (done.code == 0 && is_id) return id;
    throw Error(Kind::io, words[0] + ": exit " + std::to_string(done.code) + ": " + done.errors +
                              done.output);
  }

  void send(Submitted& made) {
    formats::write_text(made.script_path, made.script);
    const Job& job = made.job;
    const std::uint64_t id = send({"sbatch", "--parsable", made.script_path});
    made.id = id;
    JobRecord record{id, job.run, job.logs, job.name, job.tasks.size() > 1, {}, "", ""};
    for (const Task& task : job.tasks) record.targets.push_back(task.unit);
    if (job.tasks.empty()) {
      record.root = job.save + "/" + job.run;
      record.wish = job.wish;
    }
    append_job(job.save, record);
    for (TaskState& state : report_.tasks) {
      if (state.state == "submit" && state.task.run == job.run && state.task.source == job.source) {
        state.state = "submitted";
        state.job = id;
      }
    }
    if (options_.then.empty()) return;
    std::vector<std::string> words = {"sbatch", "--parsable",
                                      "--dependency=afterok:" + std::to_string(id),
                                      "--job-name=" + job.name + "-then",
                                      "--output=" + job.logs + "/" + job.name + "-then-%j.out"};
    for (const std::string& option : shared_options(options_.slurm)) words.push_back(option);
    words.push_back("--wrap=" + options_.then);
    report_.notes.push_back("job " + std::to_string(send(words)) + " runs '" + options_.then +
                            "' when job " + std::to_string(id) + " is done");
  }

  const mpi::Comm& comm_;
  const SubmitOptions& options_;
  SubmitReport report_;
};

}  // namespace

SubmitReport submit(const mpi::Comm& comm, const SubmitOptions& options) {
  if (comm.size() != 1) {
    throw Error(Kind::usage, "submit: started with " + std::to_string(comm.size()) +
                                 " ranks, wanted one: it submits jobs, which have ranks");
  }
  return Submission(comm, options).run();
}

std::vector<Task> tasks_now(const mpi::Comm& comm, const SubmitOptions& options,
                            std::vector<std::string>& notes) {
  const Runs found = find_runs(options.runs, options.conversion.source);
  Tasks tasks = plan_tasks(comm, found, options.wish, options.conversion);
  notes = tasks.notes;
  if (tasks.tasks.empty() && tasks.problems.empty()) {
    for (const std::string& note : notes) tasks.problems.push_back({Kind::incomplete, note});
    if (notes.empty()) tasks.problems.push_back({Kind::incomplete, "no checkpoint was found"});
  }
  raise(tasks.problems);
  std::erase_if(tasks.tasks, [](const Task& task) { return task.is_converted; });
  return tasks.tasks;
}

}  // namespace reshard::submit
