#include "submit/preflight.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "core/error.hpp"
#include "core/version.hpp"
#include "formats/file.hpp"
#include "submit/command.hpp"

namespace reshard::submit {
namespace {

namespace fs = std::filesystem;

/// Why a folder cannot be made or written in, or "".
std::string fault_of_folder(const std::string& path) {
  fs::path there = path;
  std::error_code error;
  while (!fs::exists(there, error) && there.has_parent_path() && there != there.parent_path()) {
    there = there.parent_path();
  }
  if (!fs::is_directory(there, error)) return there.string() + " is no folder";
  if (::access(there.c_str(), W_OK | X_OK) != 0) return there.string() + " may not be written";
  return "";
}

std::string first_line(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \n");
  if (begin == std::string::npos) return "nothing said";
  return text.substr(begin, std::min(text.find('\n', begin), begin + 300) - begin);
}

/// What an image says when it is asked for reshard.
void check_image(const SubmitOptions& options, std::vector<Tasks::Problem>& problems) {
  const auto [kind, image] = container_of(options.slurm.container);
  if (kind == "none") return;
  const bool is_path = image.find('/') != std::string::npos &&
                       image.find("://") == std::string::npos &&
                       image.find('#') == std::string::npos;
  if (is_path && !fs::exists(image)) {
    problems.push_back({Kind::usage, "--container " + options.slurm.container + ": no such file"});
    return;
  }
  if (kind != "apptainer") return;  // enroot's images start on the nodes only
  const char* program = has_program("apptainer") ? "apptainer" : "singularity";
  const CommandResult done =
      run_command({program, "exec", image, options.slurm.reshard, "--version"});
  if (done.code == 0 && done.output.starts_with("reshard ")) return;
  if (done.code == 127 && !has_program(program)) {
    problems.push_back({Kind::usage, "--container " + options.slurm.container +
                                         ": neither apptainer nor singularity is here to look "
                                         "into it: --no-check, or --container none"});
    return;
  }
  problems.push_back(
      {Kind::usage, "--container " + options.slurm.container + ": its '" + options.slurm.reshard +
                        " --version' says: " + first_line(done.output + done.errors) +
                        ": a training image has no reshard: build one from slurm/reshard.def, or "
                        "--reshard names the program in it"});
}

}  // namespace

std::vector<Tasks::Problem> check_surroundings(const SubmitOptions& options) {
  std::vector<Tasks::Problem> problems;
  const auto check_folder = [&](const char* flag, const std::string& path) {
    const std::string fault = fault_of_folder(path);
    if (!fault.empty())
      problems.push_back({Kind::usage, std::string(flag) + " " + path + ": " + fault});
  };
  check_folder("--save-checkpoints-dir", options.conversion.save);
  check_folder("--convert-logs-dir", options.logs);
  for (const std::string& mount : options.slurm.mounts) {
    const std::string path = mount.substr(0, mount.find(':'));
    if (!fs::exists(path)) problems.push_back({Kind::usage, "--mount " + mount + ": no such path"});
  }
  const bool is_here = container_of(options.slurm.container).first == "none" &&
                       options.slurm.reshard.find('/') != std::string::npos;
  if (is_here && ::access(options.slurm.reshard.c_str(), X_OK) != 0) {
    problems.push_back({Kind::usage, "--reshard " + options.slurm.reshard + ": no such program"});
  }
  if (run_command({"bash", "-n", "-c", options.slurm.pre_run}).code != 0) {
    problems.push_back({Kind::usage, "--pre-run " + options.slurm.pre_run + ": no shell command"});
  }
  check_image(options, problems);
  for (const char* program : {"sbatch", "squeue"}) {
    if (!has_program(program)) {
      problems.push_back({Kind::usage, std::string(program) +
                                           ": not in the search path: --dry-run prints scripts "
                                           "without it (with --no-check)"});
    }
  }
  return problems;
}

std::vector<Tasks::Problem> check_script(const std::string& script, const std::string& name) {
  std::string folder = (fs::temp_directory_path() / "reshard-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) throw Error(Kind::io, folder + ": cannot be made");
  const std::string path = folder + "/" + name + ".sbatch";
  formats::write_text(path, script);
  const CommandResult done = run_command({"sbatch", "--test-only", path});
  std::error_code error;
  fs::remove_all(folder, error);
  if (done.code == 0) return {};
  return {{Kind::usage, name + ": sbatch --test-only says: " + first_line(done.errors) +
                            ": --account, --partition, --qos, --time, --nodes, --ranks-per-node, "
                            "--mem, --constraint and --sbatch change what is asked for"}};
}

void raise(const std::vector<Tasks::Problem>& problems) {
  if (problems.empty()) return;
  constexpr std::size_t most = 20;
  std::vector<std::string> lines;
  for (const Tasks::Problem& problem : problems) lines.push_back(problem.text);
  if (lines.size() > most) {
    lines.resize(most);
    lines.push_back("and " + std::to_string(problems.size() - most) + " more");
  }
  const auto at = std::find_if(problems.begin(), problems.end(), [](const auto& problem) {
    return problem.kind != Kind::incomplete;
  });
  throw Error::of_lines(at == problems.end() ? Kind::incomplete : at->kind, lines);
}

}  // namespace reshard::submit
