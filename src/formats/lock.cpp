#include "formats/lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <sstream>
#include <system_error>
#include <thread>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

std::string host_name() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  return host.data();
}

std::string job_id() {
  const char* const job = std::getenv("SLURM_JOB_ID");
  return job == nullptr ? "-" : job;
}

/// "host NAME process PID job ID", the content of the file.
std::string holder() {
  return "host " + host_name() + " process " + std::to_string(::getpid()) + " job " + job_id();
}

std::string content(int descriptor) {
  std::array<char, 1024> text{};
  const ssize_t size = ::pread(descriptor, text.data(), text.size(), 0);
  return {text.data(), size > 0 ? static_cast<std::size_t>(size) : 0};
}

/// Where the file system has no flock, and the file alone is the lock: whether the process that it
/// names has ended on this machine.
bool has_ended(const std::string& text) {
  std::istringstream words(text);
  std::string word, host;
  ::pid_t process = 0;
  words >> word >> host >> word >> process;
  return host == host_name() && process > 0 && ::kill(process, 0) != 0 && errno == ESRCH;
}

/// Whether the holder named in a file whose flock is free can only be gone.
bool is_gone(const std::string& text) {
  std::istringstream words(text);
  std::string word, host, process, job;
  words >> word >> host >> word >> process >> word >> job;
  return host.empty() || host == host_name() || (job != "-" && job == job_id());
}

[[noreturn]] void fail(const std::string& path, int error) {
  throw Error(Kind::io,
              path + ": lock: " + std::error_code(error, std::generic_category()).message());
}

}  // namespace

bool Lock::take() {
  constexpr int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  bool is_new = false;
  for (int tries = 0; tries < 100; ++tries) {  // the holder may remove it between our two calls
    descriptor_ = ::open(path_.c_str(), flags | O_CREAT | O_EXCL, 0666);
    is_new = descriptor_ >= 0;
    if (!is_new && errno == EEXIST) descriptor_ = ::open(path_.c_str(), flags);
    if (descriptor_ >= 0 || errno != ENOENT) break;
  }
  if (descriptor_ < 0) fail(path_, errno);
  struct stat mine = {}, named = {};
  if (::fstat(descriptor_, &mine) != 0 || !S_ISREG(mine.st_mode)) {
    ::close(descriptor_);
    throw Error(Kind::io, path_ + ": lock: is no file");
  }
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) {
    if (::lstat(path_.c_str(), &named) == 0 && mine.st_ino == named.st_ino &&
        mine.st_dev == named.st_dev) {
      return true;
    }
  } else if (errno == ENOSYS || errno == EOPNOTSUPP || errno == ENOLCK) {
    has_flock_ = false;
    const std::string text = content(descriptor_);
    if (is_new || !has_ended(text)) return is_new;
    // Of those who find it so at once, one moves it away.
    const std::string away = path_ + "." + std::to_string(::getpid());
    if (::rename(path_.c_str(), away.c_str()) != 0) return false;
    ::unlink(away.c_str());
    ::close(descriptor_);
    stale_ = text;
    return take();
  } else if (errno != EWOULDBLOCK && errno != EINTR) {
    const int error = errno;
    ::close(descriptor_);
    fail(path_, error);
  }
  return false;
}

Lock::Lock(const std::string& path, std::chrono::seconds patience) : path_(path) {
  const auto end = std::chrono::steady_clock::now() + patience;
  std::string there;
  for (int removed = 0; !take();) {
    there = content(descriptor_);
    ::close(descriptor_);
    // The holder may have removed its file between our two calls: then the name is free.
    if (there.empty() && ++removed < 100) continue;
    if (std::chrono::steady_clock::now() >= end) {
      throw Error(Kind::usage, path + ": another conversion writes there now: " + there +
                                   (has_flock_ ? "" : "; if that run has ended, remove this file"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  if (has_flock_) stale_ = content(descriptor_);
  if (!stale_.empty() && !is_gone(stale_)) {
    ::close(descriptor_);
    throw Error(Kind::usage, path + ": locked by " + stale_ +
                                 ", whose machine cannot be asked from here; if that run has "
                                 "ended, remove this file");
  }
  const std::string text = holder();
  if (::ftruncate(descriptor_, 0) != 0 ||
      ::pwrite(descriptor_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    const int error = errno;
    ::unlink(path.c_str());
    ::close(descriptor_);
    fail(path, error);
  }
}

Lock::~Lock() {
  ::unlink(path_.c_str());
  ::close(descriptor_);
}

}  // namespace reshard::formats
