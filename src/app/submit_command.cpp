#include <filesystem>
#include <memory>

#include "app/commands.hpp"
#include "app/convert_options.hpp"
#include "app/profile.hpp"
#include "app/submit_text.hpp"
#include "core/error.hpp"

namespace reshard::app {
namespace {

namespace fs = std::filesystem;

struct Options {
  ConversionWords conversion;
  submit::SubmitOptions submit;
  std::vector<CLI::Option*> passed;  ///< those of `convert`
  std::vector<std::string> maps, iterations;
  std::string layout = "run", profile;
  std::string container_image, hf_path, megatron, opensci_megatron;  ///< of the older script
  bool no_check = false, list = false, status = false, tasks = false;
  OutputOptions output;
};

/// The options of `convert` that were given, by the command line or a profile.
std::vector<submit::PassedOption> passed_options(const Options& options) {
  std::vector<submit::PassedOption> all;
  for (const CLI::Option* option : options.passed) {
    if (option->count() == 0) continue;
    const std::string name = "--" + option->get_lnames().front();
    if (name == "--to" || name == "--resume") continue;  // which every job has
    submit::PassedOption passed{option->get_group(), {name}};
    const bool is_flag = option->get_items_expected_max() == 0;
    if (!is_flag) {
      const auto results = option->results();
      passed.words.insert(passed.words.end(), results.begin(), results.end());
    }
    all.push_back(std::move(passed));
  }
  return all;
}

/// The older script's options that have another name or no use now.
void take_older_options(CLI::App& command, Options& options) {
  const auto give = [&](const char* name, const std::string& value) {
    CLI::Option* option = command.get_option(name);
    if (option->count() > 0) return;
    option->add_result(value);
    option->run_callback();
  };
  if (!options.container_image.empty()) {
    give("--container", "apptainer:" + submit::tidy(options.container_image));
  }
  for (const auto& [flag, value] :
       {std::pair{"--megatron_path", options.megatron},
        std::pair{"--opensci_megatron_path", options.opensci_megatron}}) {
    if (!value.empty())
      report_note(std::string(flag) + ": no longer needed, reshard reads the checkpoint itself");
  }
  if (options.hf_path.empty()) return;
  const std::string sample = options.hf_path + "/sample";
  give("--hf-template", submit::tidy(fs::is_directory(sample) ? sample : options.hf_path));
}

/// What is required of a command line, depending on what it wants.
void check(const Options& options) {
  const submit::SubmitOptions& o = options.submit;
  const auto require = [](bool given, const char* what) {
    if (!given) throw Error(Kind::usage, std::string(what) + " is required");
  };
  if (options.status) {
    require(!o.conversion.save.empty(), "--status: --save-checkpoints-dir");
    return;
  }
  require(!o.runs.train_logs.empty() || !o.runs.checkpoints.empty(),
          "--train-logs or --checkpoint");
  if (options.list) return;
  require(!o.conversion.save.empty(), "--save-checkpoints-dir, root of the targets,");
  if (options.tasks) return;
  require(!o.logs.empty(), "--convert-logs-dir, for scripts and logs of the jobs,");
}

/// Words become values.
void settle(CLI::App& command, Options& options) {
  take_older_options(command, options);
  apply_profile(command, profile_path(options.profile));
  settle(options.conversion);
  submit::SubmitOptions& o = options.submit;
  for (const std::string& map : options.maps) {
    const std::size_t equal = map.find('=');
    if (equal == 0 || equal == std::string::npos) {
      throw Error(Kind::usage, "--map " + map + ": wanted OLD=NEW");
    }
    o.runs.maps.emplace_back(map.substr(0, equal), map.substr(equal + 1));
  }
  if (!options.iterations.empty()) {
    o.wish = submit::iteration_wish(options.iterations);
    o.wish_text.clear();
    for (const std::string& word : options.iterations) {
      o.wish_text += (o.wish_text.empty() ? "" : ",") + word;
    }
  }
  check(options);
  for (std::string* path : {&o.conversion.save, &o.logs}) {
    if (!path->empty()) *path = submit::tidy(*path);
  }
  o.conversion.source = options.conversion.convert.source;
  o.conversion.target = options.conversion.convert.target;
  o.conversion.overwrite = options.conversion.convert.overwrite;
  o.conversion.memory = options.conversion.convert.memory;
  o.conversion.passed = passed_options(options);
  o.conversion.is_original_layout = options.layout == "original";
  o.runs.by_log = o.conversion.is_original_layout;
  o.check = !options.no_check;
  static_cast<void>(submit::container_of(o.slurm.container));
  if (o.slurm.reshard.empty()) {
    const bool has_image = o.slurm.container != "none";
    o.slurm.reshard = has_image ? "reshard" : fs::read_symlink("/proc/self/exe").string();
  }
}

/// For a script: of each conversion the number of its words, its target, iteration and words.
int print_tasks(const Options& options, const mpi::Comm& comm) {
  std::vector<std::string> notes;
  const std::vector<submit::Task> tasks = submit::tasks_now(comm, options.submit, notes);
  for (const std::string& note : notes) report_note(note);
  std::string text;
  std::uint64_t seconds = 0;
  for (const submit::Task& task : tasks) {
    seconds += submit::estimate(task.bytes, 1).seconds;
    const std::string iteration = task.iteration ? std::to_string(*task.iteration) : "-";
    text += std::to_string(task.words.size()) + '\0' + task.unit + '\0' + iteration + '\0';
    for (const std::string& word : task.words) text += word + '\0';
  }
  report_note(std::to_string(tasks.size()) + " conversions, about " + std::to_string(seconds) +
              " s on one node");
  print_raw(text);
  return 0;
}

int run(CLI::App& command, Options& options, const mpi::Comm& comm) {
  settle(command, options);
  const submit::SubmitOptions& o = options.submit;
  Report report(options.output, true);
  if (options.status) {
    const auto all = submit::status_of(o.conversion.save);
    report.output(text_of(all), json_of(all));
  } else if (options.list) {
    const submit::Runs found = submit::find_runs(o.runs, o.conversion.source);
    report.output(text_of(found, o.conversion.save), json_of(found, o.conversion.save));
  } else if (options.tasks) {
    return print_tasks(options, comm);
  } else {
    const submit::SubmitReport done = submit::submit(comm, o);
    const bool scripts_alone = o.dry_run && options.output.quiet && !options.output.json;
    if (scripts_alone) {
      print_raw(scripts_of(done));
    } else {
      report.output(text_of(done), json_of(done));
    }
  }
  return 0;
}

void add_run_options(CLI::App& command, Options& options) {
  submit::SubmitOptions& o = options.submit;
  const char* group = "Training runs";
  command
      .add_option(
          "--train-logs,--train_logs_dir_or_path", o.runs.train_logs,
          "logs of training jobs: files, or folders with *.out; several may be joined by ::")
      ->group(group);
  command
      .add_option("--checkpoint", o.runs.checkpoints,
                  "folder of a run's checkpoints, or one iteration in it; needs no log")
      ->group(group);
  command.add_option("--map", options.maps, "OLD=NEW: paths in logs that moved")
      ->allow_extra_args(false)
      ->group(group);
  command
      .add_option("--iteration,--iterations,--iters", options.iterations,
                  "latest (default), all, numbers as 1000,2000, or a range as 1000:5000:1000")
      ->expected(1, 10000)
      ->group(group);
  command
      .add_option("--run-name", o.runs.run_name,
                  "name of the run (default: last part of the folder that it saves to)")
      ->group(group);
  command
      .add_option("--save-checkpoints-dir,--save_checkpoints_dir", o.conversion.save,
                  "root of the targets: DIR/RUN/iter_XXXXXXX")
      ->group(group);
  command
      .add_option("--layout", options.layout,
                  "run (default), or original: torch/MODEL/torch/iter_N and hf/MODEL, as the older "
                  "script made them")
      ->check(CLI::IsMember({"run", "original"}))
      ->group(group);
  command.add_flag("--list", options.list, "show what was found, submit nothing")->group(group);
  command.add_flag("--status", options.status, "show what became of the jobs")->group(group);
  command
      .add_flag("--tasks", options.tasks,
                "print what is to be converted now, for a script: see slurm/convert.sbatch.in")
      ->group(group);
}

void add_slurm_options(CLI::App& command, Options& options) {
  submit::SubmitOptions& o = options.submit;
  submit::SlurmWish& s = o.slurm;
  const char* group = "Slurm";
  const auto add = [&](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->group(group);
  };
  add("--convert-logs-dir,--convert_logs_dir", o.logs,
      "folder of the jobs' scripts, logs, reports");
  add("--account", s.account, "of sbatch");
  add("--partition", s.partition, "of sbatch");
  add("--qos", s.qos, "of sbatch");
  add("--time", s.time, "of sbatch (default: twice what the plan's bytes take)");
  add("--nodes", s.nodes, "of sbatch (default: by the plan's bytes)")->check(whole(1, 65536));
  add("--ranks-per-node", s.ranks_per_node, "ranks of a node (default: one for each GiB, up to 8)")
      ->check(whole(1, 1024));
  add("--mem", s.mem, "of sbatch");
  add("--constraint", s.constraint, "of sbatch");
  add("--mail", s.mail, "address that is told of the end");
  add("--sbatch", s.sbatch, "a further option of sbatch, as --sbatch=--exclusive; repeatable")
      ->allow_extra_args(false);
  add("--profile", options.profile,
      "JSON file of a site's defaults for all these options (default: RESHARD_PROFILE, "
      "~/.config/reshard/profile.json; none for none)");
  add("--container", s.container, "apptainer:IMAGE, pyxis:IMAGE or none (default)");
  add("--mount", s.mounts, "a path, or FROM:TO, that the container sees; repeatable")
      ->allow_extra_args(false);
  add("--pre-run,--pre_run_cmd", s.pre_run, "shell command before reshard, inside the container");
  add("--reshard", s.reshard, "the program on the nodes, or in the image (default: this one)");
  add("--after", o.after, "begin when this job has ended, and convert what is complete then");
  add("--then", o.then, "shell command of a job that runs when all is done (afterok)");
  add("--array-limit", s.array_limit, "tasks of a job array at once")->check(whole(1, 65536));
  add("--requeue-limit", s.requeue_limit, "runs after the first (default: 5)")
      ->check(whole(0, 1000));
  command.add_flag("--no-check", options.no_check, "do not look whether the job can work")
      ->group(group);
  command
      .add_flag("--dry-run", o.dry_run,
                "print the scripts (with --quiet nothing else), submit nothing")
      ->group(group);
  const char* older = "Older script";
  command.add_option("--container_image", options.container_image, "--container apptainer:")
      ->group(older);
  command
      .add_option("--open_sci_hf_path", options.hf_path, "--hf-template, its sample if it has one")
      ->group(older);
  command.add_option("--megatron_path", options.megatron, "not needed")->group(older);
  command.add_option("--opensci_megatron_path", options.opensci_megatron, "not needed")
      ->group(older);
}

}  // namespace

Command add_submit(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("submit", "Submit Slurm jobs that convert what training runs have saved");
  add_conversion_options(*command, options->conversion);
  for (const char* name : {"SRC", "DST", "--from-iteration", "--iteration"}) {
    command->remove_option(command->get_option(name));
  }
  command->get_option("--to")->required(false)->description("format to write (default: hf)");
  options->conversion.convert.target.to = "hf";
  for (CLI::Option* option : command->get_options()) {
    if (option != command->get_help_ptr()) options->passed.push_back(option);
  }
  add_run_options(*command, *options);
  add_slurm_options(*command, *options);
  add_output_options(*command, options->output);
  command->footer(
      "Every option of convert goes into the job. Examples:\n"
      "  reshard submit --train-logs logs --list\n"
      "  reshard submit --train-logs logs --save-checkpoints-dir out --convert-logs-dir out/logs "
      "--iteration all\n"
      "  reshard submit --checkpoint run/ckpt --after 4711 ...\n"
      "  reshard submit --save-checkpoints-dir out --status");
  return {command,
          [command, options](const mpi::Comm& comm) { return run(*command, *options, comm); }};
}

}  // namespace reshard::app
