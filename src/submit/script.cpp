#include "submit/script.hpp"

#include <algorithm>
#include <map>

#include "core/error.hpp"
#include "submit/embedded_script.hpp"

namespace reshard::submit {
namespace {

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/// What a line "#SBATCH" takes without a meaning of its own.
std::string line_value(const std::string& option, const std::string& value) {
  constexpr std::string_view others = "._-+=@:,/()[]&|*<>%~";
  for (const char c : value) {
    if (is_plain(c) || others.find(c) != std::string_view::npos) continue;
    throw Error(Kind::usage, option + " " + value +
                                 ": a line of a batch script has no room for this; wanted "
                                 "letters, digits and " +
                                 std::string(others));
  }
  return value;
}

/// A path in a pattern of Slurm's, where % has a meaning.
std::string pattern_path(const std::string& option, const std::string& path) {
  if (path.find('%') != std::string::npos) {
    throw Error(Kind::usage, option + " " + path + ": % means something in Slurm's file names");
  }
  return line_value(option, path);
}

std::string clock_time(std::uint64_t seconds) {
  const auto two = [](std::uint64_t n) { return (n < 10 ? "0" : "") + std::to_string(n); };
  return two(seconds / 3600) + ":" + two(seconds / 60 % 60) + ":" + two(seconds % 60);
}

/// Words as a shell reads them back, one behind the other.
std::string quoted_all(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + quoted(word);
  return text;
}

/// Ranks of a node: one for each GiB, no more than disks and network serve.
std::uint64_t ranks_per_node(const Job& job, const SlurmWish& wish) {
  if (wish.ranks_per_node) return *wish.ranks_per_node;
  std::uint64_t most = 0;
  for (const Task& task : job.tasks) most = std::max(most, task.bytes);
  const std::uint64_t a_node = most / std::max<std::uint64_t>(1, job.estimate.nodes);
  return std::clamp<std::uint64_t>((a_node >> 30) + 1, 1, 8);
}

/// Of all tasks, one after the other.
std::uint64_t seconds_of(const Job& job) {
  std::uint64_t bytes = 0;
  for (const Task& task : job.tasks) bytes += task.bytes;
  return job.tasks.empty() ? job.estimate.seconds : estimate(bytes, job.estimate.nodes).seconds;
}

bool is_array(const Job& job) {
  return job.tasks.size() > 1;
}

std::string sbatch_lines(const Job& job, const SlurmWish& wish) {
  std::vector<std::string> options = shared_options(wish);
  const std::string ids = is_array(job) ? "-%A_%a.out" : "-%j.out";
  options.push_back("--job-name=" + line_value("--run-name", job.name));
  options.push_back("--output=" + pattern_path("--convert-logs-dir", job.logs) + "/" + job.name +
                    ids);
  options.push_back("--chdir=" + line_value("the folder", job.folder));
  options.insert(options.end(), {"--open-mode=append", "--requeue", "--signal=B:USR1@120"});
  options.push_back("--nodes=" + std::to_string(wish.nodes.value_or(job.estimate.nodes)));
  options.push_back("--ntasks-per-node=" + std::to_string(ranks_per_node(job, wish)));
  constexpr std::uint64_t step = 300;  // to the next five minutes, twice what it should take
  const std::uint64_t seconds = (2 * job.estimate.seconds + 2 * step) / step * step;
  options.push_back("--time=" +
                    (wish.time.empty() ? clock_time(seconds) : line_value("--time", wish.time)));
  if (is_array(job)) {
    std::string indices = "--array=0-" + std::to_string(job.tasks.size() - 1);
    if (wish.array_limit) indices += "%" + std::to_string(*wish.array_limit);
    options.push_back(indices);
  }
  if (job.after) options.push_back("--dependency=afterany:" + std::to_string(*job.after));
  for (const std::string& more : wish.sbatch) options.push_back(line_value("--sbatch", more));
  std::string lines;
  for (const std::string& option : options) lines += "#SBATCH " + option + "\n";
  return lines;
}

/// Mounts of a container, FROM:TO: each path once, none below another one.
std::vector<std::string> mounts_of(const Job& job, const SlurmWish& wish) {
  std::vector<std::string> paths = job.paths;
  for (const std::string* path : {&job.logs, &job.save, &job.folder}) paths.push_back(*path);
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> mounts;
  std::string last;
  for (const std::string& path : paths) {
    const bool is_seen = !last.empty() && (path == last || path.starts_with(last + "/"));
    if (is_seen || path.empty()) continue;
    if (path.find_first_of(",:") != std::string::npos) {
      throw Error(Kind::usage, path +
                                   ": a container's mounts are parted by , and :, no path with "
                                   "one can be mounted");
    }
    last = path;
    mounts.push_back(path + ":" + path);
  }
  for (const std::string& mount : wish.mounts) {
    if (mount.find(',') != std::string::npos) {
      throw Error(Kind::usage, "--mount " + mount + ": a comma parts mounts from each other");
    }
    mounts.push_back(mount.find(':') == std::string::npos ? mount + ":" + mount : mount);
  }
  return mounts;
}

/// What runs reshard on a node, before its own words; and srun's options that make a container.
std::pair<std::string, std::string> launcher_of(const Job& job, const SlurmWish& wish) {
  std::vector<std::string> launcher, srun;
  const auto [kind, image] = container_of(wish.container);
  std::string binds;
  if (kind != "none") {
    for (const std::string& mount : mounts_of(job, wish)) {
      binds += (binds.empty() ? "" : ",") + mount;
    }
  }
  if (kind == "apptainer") {
    launcher = {"apptainer", "exec", "--bind", binds, "--pwd", job.folder, image};
  } else if (kind == "pyxis") {
    srun = {"--container-image=" + image, "--container-mounts=" + binds,
            "--container-workdir=" + job.folder};
  }
  if (!wish.pre_run.empty()) {
    const std::vector<std::string> shell = {"bash", "-c",
                                            "{ " + wish.pre_run + "\n} && exec \"$@\"", "bash"};
    launcher.insert(launcher.end(), shell.begin(), shell.end());
  }
  return {quoted_all(launcher), quoted_all(srun)};
}

/// The body of list_tasks: see the template.
std::string listing(const Job& job) {
  if (!job.listing.empty()) return "  reshard_alone " + quoted_all(job.listing);
  std::string lines;
  for (const Task& task : job.tasks) {
    std::vector<std::string> words = task.words;
    const std::string iteration = task.iteration ? std::to_string(*task.iteration) : "-";
    words.insert(words.begin(), {std::to_string(task.words.size()), task.unit, iteration});
    lines += (lines.empty() ? "  printf '%s\\0' " : "\n  printf '%s\\0' ") + quoted_all(words);
  }
  return lines.empty() ? "  :" : lines;
}

}  // namespace

std::string quoted(const std::string& word) {
  if (word.find('\0') != std::string::npos) throw Error(Kind::usage, "a NUL in a word");
  const bool is_safe = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return is_plain(c) || std::string_view("._-+=@:,/").find(c) != std::string_view::npos;
  });
  if (is_safe) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

std::string plain_name(const std::string& name) {
  std::string plain;
  for (const char c : name) plain += is_plain(c) || c == '.' || c == '-' || c == '_' ? c : '_';
  return plain.substr(0, 100);
}

std::vector<std::string> shared_options(const SlurmWish& wish) {
  std::vector<std::string> options;
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) {
      options.push_back(std::string("--") + name + "=" +
                        line_value(std::string("--") + name, value));
    }
  };
  add("account", wish.account);
  add("partition", wish.partition);
  add("qos", wish.qos);
  add("mem", wish.mem);
  add("constraint", wish.constraint);
  add("mail-user", wish.mail);
  if (!wish.mail.empty()) options.emplace_back("--mail-type=END,FAIL");
  return options;
}

std::pair<std::string, std::string> container_of(const std::string& word) {
  if (word == "none") return {"none", ""};
  for (const std::string kind : {"apptainer", "pyxis"}) {
    if (word.starts_with(kind + ":") && word.size() > kind.size() + 1) {
      return {kind, word.substr(kind.size() + 1)};
    }
  }
  throw Error(Kind::usage, "--container " + word + ": wanted apptainer:IMAGE, pyxis:IMAGE or none");
}

std::string make_script(const Job& job, const SlurmWish& wish) {
  const auto [launcher, container] = launcher_of(job, wish);
  std::map<std::string, std::string> values = {
      {"#SBATCH @SBATCH@\n", sbatch_lines(job, wish)},
      {"@LOGS@", quoted(job.logs)},
      {"@NAME@", quoted(job.name)},
      {"@INDEX@", quoted(job.save + "/index.jsonl")},
      {"@RESHARD@", quoted(wish.reshard)},
      {"@LAUNCHER@", launcher},
      {"@CONTAINER@", container},
      {"@ESTIMATE@", std::to_string(seconds_of(job))},
      {"@REQUEUE_LIMIT@", std::to_string(wish.requeue_limit)},
      {"  @TASKS@", listing(job)}};
  const std::string_view text = embedded_script();
  std::string script;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t next = text.size();
    const std::pair<const std::string, std::string>* mark = nullptr;
    for (const auto& value : values) {
      const std::size_t found = text.find(value.first, at);
      if (found < next) {
        next = found;
        mark = &value;
      }
    }
    script += text.substr(at, next - at);
    if (mark == nullptr) break;
    script += mark->second;
    at = next + mark->first.size();
  }
  for (const auto& value : values) {
    const std::size_t first = text.find(value.first);
    if (first == std::string_view::npos) {
      throw Error(Kind::internal, "slurm/convert.sbatch.in: has no " + value.first);
    }
  }
  return script;
}

}  // namespace reshard::submit
