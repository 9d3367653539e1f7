#include "submit/command.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/error.hpp"

namespace reshard::submit {
namespace {

/// More than this is not kept of what a program says.
constexpr std::size_t most_output = std::size_t{64} << 20;

/// Names of variables that belong to the job or the MPI process around.
bool is_inherited(const std::string& variable) {
  if (variable.starts_with("SLURM_CONF=")) return true;
  for (const char* prefix : {"SLURM_", "SLURMD_", "SBATCH_", "PMIX_", "PMI_", "OMPI_COMM_WORLD_"}) {
    if (variable.starts_with(prefix)) return false;
  }
  return true;
}

/// The environment as the kernel gave it to this process.
std::vector<std::string> first_environment() {
  std::ifstream file("/proc/self/environ", std::ios::binary);
  std::vector<std::string> variables;
  for (std::string variable; std::getline(file, variable, '\0');) {
    if (is_inherited(variable)) variables.push_back(variable);
  }
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> all;
  for (std::string& word : words) all.push_back(word.data());
  all.push_back(nullptr);
  return all;
}

[[noreturn]] void fail(const std::string& program, int error) {
  throw Error(Kind::io, program + ": cannot be run: " + std::strerror(error));
}

/// A pipe whose both ends are closed with it.
struct Pipe {
  std::array<int, 2> ends{-1, -1};
  explicit Pipe(const std::string& program) {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail(program, errno);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  void close_end(std::size_t end) {
    if (ends[end] >= 0) ::close(ends[end]);
    ends[end] = -1;
  }
};

/// Reads both pipes to their ends.
void read_all(Pipe& output, Pipe& errors, CommandResult& result) {
  std::array<char, 65536> buffer{};
  while (output.ends[0] >= 0 || errors.ends[0] >= 0) {
    std::array<pollfd, 2> waiting{pollfd{output.ends[0], POLLIN, 0},
                                  pollfd{errors.ends[0], POLLIN, 0}};
    if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) return;
    for (std::size_t i = 0; i < 2; ++i) {
      if (waiting[i].revents == 0) continue;
      Pipe& pipe = i == 0 ? output : errors;
      std::string& text = i == 0 ? result.output : result.errors;
      const ssize_t bytes = ::read(pipe.ends[0], buffer.data(), buffer.size());
      if (bytes < 0 && errno == EINTR) continue;
      if (bytes <= 0) {
        pipe.close_end(0);
      } else if (text.size() < most_output) {
        text.append(buffer.data(), static_cast<std::size_t>(bytes));
      }
    }
  }
}

}  // namespace

CommandResult run_command(const std::vector<std::string>& words) {
  Pipe output(words[0]), errors(words[0]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, output.ends[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, errors.ends[1], STDERR_FILENO);
  std::vector<std::string> arguments = words, variables = first_environment();
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, words[0].c_str(), &actions, nullptr,
                                   pointers(arguments).data(), pointers(variables).data());
  ::posix_spawn_file_actions_destroy(&actions);
  CommandResult result;
  if (error == ENOENT) return {127, "", words[0] + ": not found"};
  if (error != 0) fail(words[0], error);
  output.close_end(1);
  errors.close_end(1);
  read_all(output, errors, result);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) fail(words[0], errno);
  }
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

bool has_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::string folders = path == nullptr ? "" : path;
  for (std::size_t end = 0; end != std::string::npos;) {
    end = folders.find(':');
    const std::filesystem::path program = std::filesystem::path(folders.substr(0, end)) / name;
    if (::access(program.c_str(), X_OK) == 0) return true;
    if (end != std::string::npos) folders.erase(0, end + 1);
  }
  return false;
}

}  // namespace reshard::submit
