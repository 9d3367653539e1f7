#include "formats/container/isolated.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <new>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>

#include "core/error.hpp"

// The child answers with messages: one byte says what, then come 8 bytes of length and the content.

namespace reshard::formats {
namespace {

enum Message : char { progress_made = 'p', result = 'r', failure = 'f' };

[[noreturn]] void fail(const char* call) {
  throw Error(Kind::io, std::string("a child process to read a file in: ") + call + ": " +
                            std::error_code(errno, std::generic_category()).message());
}

/// Owner of a descriptor.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { close(); }
  [[nodiscard]] int get() const { return number_; }
  void close() {
    if (number_ >= 0) ::close(number_);
    number_ = -1;
  }

 private:
  int number_;
};

/// Owner of a child process, which does not outlive it.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    status();
  }
  /// Waits for its end.
  int status() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_;
};

bool write_all(int to, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(to, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

/// In the child: whoever reads is gone when this fails, and so is the reason to go on.
void send(int to, Message message, std::string_view content) {
  std::array<char, 9> head{};
  head[0] = message;
  const std::uint64_t size = content.size();
  std::memcpy(&head[1], &size, sizeof size);
  if (!write_all(to, {head.data(), head.size()}) || !write_all(to, content)) ::_exit(1);
}

/// Bytes of writable memory that this process has.
std::uint64_t data_bytes() {
  std::ifstream file("/proc/self/status");
  std::string word;
  std::uint64_t kibibytes = 0;
  while (file >> word) {
    if (word == "VmData:" && file >> kibibytes) return kibibytes * 1024;
  }
  return 0;
}

/// In the child: it ends with the parent, says nothing of its own and leaves nothing behind.
void confine(const IsolationLimits& limits) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int signal :
       {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGPIPE}) {
    ::signal(signal, SIG_DFL);
  }
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere >= 0) {
    ::dup2(nowhere, STDOUT_FILENO);
    ::dup2(nowhere, STDERR_FILENO);
  }
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  if (const std::uint64_t now = data_bytes(); now != 0) {
    const rlimit memory{now + limits.memory, now + limits.memory};
    ::setrlimit(RLIMIT_DATA, &memory);
  }
}

[[noreturn]] void run_child(const std::function<std::string(const std::function<void()>&)>& work,
                            int to, const IsolationLimits& limits) {
  confine(limits);
  const auto fails = [&](Kind kind, const char* text) {
    send(to, failure, std::string(1, static_cast<char>(kind)) + text);
  };
  try {
    send(to, result, work([&] { send(to, progress_made, {}); }));
  } catch (const Error& error) {
    fails(error.kind(), error.what());
  } catch (const std::bad_alloc&) {
    fails(Kind::input, "takes more memory to read than a header may");
  } catch (const std::exception& error) {
    fails(Kind::internal, error.what());
  }
  ::_exit(0);  // without the ends of MPI, of libraries and of objects, which are the parent's
}

/// Reads what a child says, until it has said its last.
class Listener {
 public:
  Listener(int from, const IsolationLimits& limits) : from_(from), limits_(limits) {}

  /// The result; nothing when the child ended without one.
  std::optional<std::string> result_of_child() {
    for (;;) {
      std::array<char, 9> head{};
      if (!read_all({head.data(), head.size()})) return std::nullopt;
      if (head[0] == progress_made) continue;
      std::uint64_t size = 0;
      std::memcpy(&size, &head[1], sizeof size);
      if (size > limits_.result_bytes) {
        throw Error(Kind::input, "its header takes " + std::to_string(size) + " bytes, at most " +
                                     std::to_string(limits_.result_bytes) + " are read");
      }
      std::string content(size, '\0');
      if (!read_all({content.data(), content.size()})) return std::nullopt;
      if (head[0] == result) return content;
      throw Error(static_cast<Kind>(content.at(0)), content.substr(1));
    }
  }

 private:
  bool read_all(std::span<char> to) {
    while (!to.empty()) {
      pollfd waiting{from_, POLLIN, 0};
      const auto patience = std::chrono::milliseconds(limits_.silence).count();
      const int ready = ::poll(&waiting, 1, static_cast<int>(patience));
      if (ready < 0 && errno == EINTR) continue;
      if (ready < 0) fail("poll");
      if (ready == 0) {
        throw Error(Kind::input, "no progress for " + std::to_string(limits_.silence.count()) +
                                     " s in reading its header: it is damaged or made to harm");
      }
      const ssize_t got = ::read(from_, to.data(), to.size());
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      to = to.subspan(static_cast<std::size_t>(got));
    }
    return true;
  }

  int from_;
  const IsolationLimits& limits_;
};

}  // namespace

std::string run_isolated(
    const std::function<std::string(const std::function<void()>& progress)>& work,
    const IsolationLimits& limits) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("pipe2");
  const Descriptor from(ends[0]);
  Descriptor to(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) fail("fork");
  if (pid == 0) run_child(work, to.get(), limits);
  Child child(pid);
  to.close();
  std::optional<std::string> found = Listener(from.get(), limits).result_of_child();
  if (found) return *std::move(found);
  const int status = child.status();
  const std::string end = WIFSIGNALED(status)
                              ? std::string("ended with \"") + strsignal(WTERMSIG(status)) + "\""
                              : "gave up";
  throw Error(Kind::input,
              "the library that reads its header " + end + ": it is damaged or made to harm");
}

}  // namespace reshard::formats
