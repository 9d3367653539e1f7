#include "formats/file.hpp"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

/// Linux moves at most 0x7ffff000 bytes a call; this is less and a whole number of pages.
constexpr std::size_t largest_call = std::size_t{1} << 30;
// The page cache of Linux 6 takes a larger write into huge folios; in a virtual machine those are
// memory that the host has to hand out first: 4 MiB a call wrote 2 GB in 4 s, 256 KiB a call in 0.7
// s.
constexpr std::size_t largest_write = std::size_t{256} << 10;

[[noreturn]] void fail_path(const std::string& path, std::string_view what, int error) {
  throw Error(Kind::io, path + ": " + std::string(what) + ": " +
                            std::error_code(error, std::generic_category()).message());
}

/// What a status tells of something that is no regular file.
const char* word_of(const struct stat& status) {
  switch (status.st_mode & S_IFMT) {
    case S_IFDIR:
      return "a folder";
    case S_IFIFO:
      return "a FIFO";
    case S_IFSOCK:
      return "a socket";
    case S_IFLNK:
      return "a link that leads nowhere";
    default:
      return "a device";
  }
}

[[noreturn]] void refuse(const std::string& path, const std::string& seen) {
  throw Error(Kind::input, path + ": is " + seen + ", wanted a file");
}

}  // namespace

int SystemCalls::open(const char* path, int flags, mode_t mode) const {
  return ::open(path, flags, mode);
}
ssize_t SystemCalls::pread(int descriptor, void* to, std::size_t bytes, off_t offset) const {
  return ::pread(descriptor, to, bytes, offset);
}
ssize_t SystemCalls::pwrite(int descriptor, const void* from, std::size_t bytes,
                            off_t offset) const {
  return ::pwrite(descriptor, from, bytes, offset);
}
int SystemCalls::ftruncate(int descriptor, off_t bytes) const {
  return ::ftruncate(descriptor, bytes);
}
int SystemCalls::fsync(int descriptor) const {
  return ::fsync(descriptor);
}
int SystemCalls::rename(const char* from, const char* to) const {
  return ::rename(from, to);
}
int SystemCalls::exchange(const char* a, const char* b) const {
  return ::renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
}

File::File(const std::string& path, int flags, const SystemCalls& calls)
    : path_(path), calls_(&calls) {
  do {
    descriptor_ = calls.open(path.c_str(), flags | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) fail((flags & O_CREAT) != 0 ? "create" : "open");
}

File File::open_read(const std::string& path, const SystemCalls& calls) {
  require_file(path);
  File file(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, calls);
  struct stat status = {};  // it may be another since
  if (::fstat(file.descriptor_, &status) != 0) file.fail("stat");
  if (!S_ISREG(status.st_mode)) refuse(path, word_of(status));
  return file;
}
File File::open_folder(const std::string& path, const SystemCalls& calls) {
  return {path, O_RDONLY | O_DIRECTORY, calls};
}
File File::create(const std::string& path, const SystemCalls& calls) {
  return {path, O_RDWR | O_CREAT | O_EXCL, calls};
}
File File::open_write(const std::string& path, const SystemCalls& calls) {
  File file(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, calls);
  struct stat status = {};
  if (::fstat(file.descriptor_, &status) != 0) file.fail("stat");
  if (!S_ISREG(status.st_mode)) throw Error(Kind::io, path + ": is " + word_of(status));
  return file;
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      calls_(other.calls_),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(calls_, other.calls_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

// Nothing depends on the result of close: what must last goes through sync before.
File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void File::fail(std::string_view what) const {
  fail_path(path_, what, errno);
}

std::uint64_t File::size() const {
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0) fail("stat");
  return static_cast<std::uint64_t>(status.st_size);
}

void File::read_at(std::uint64_t offset, std::span<std::byte> to) const {
  std::size_t done = 0;
  while (done < to.size()) {
    const ssize_t n =
        calls_->pread(descriptor_, to.data() + done, std::min(to.size() - done, largest_call),
                      static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    const std::string wanted =
        n > 0 ? "" : "read " + std::to_string(to.size()) + " bytes at " + std::to_string(offset);
    if (n < 0) fail(wanted);
    if (n == 0) {
      throw Error(Kind::io,
                  path_ + ": " + wanted + ": the file ends after " + std::to_string(done));
    }
    done += static_cast<std::size_t>(n);
  }
}

void File::write_at(std::uint64_t offset, std::span<const std::byte> from) const {
  std::size_t done = 0;
  while (done < from.size()) {
    const ssize_t n =
        calls_->pwrite(descriptor_, from.data() + done, std::min(from.size() - done, largest_write),
                       static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO;
    if (n <= 0) {
      fail("write " + std::to_string(from.size()) + " bytes at " + std::to_string(offset));
    }
    done += static_cast<std::size_t>(n);
  }
}

void File::resize(std::uint64_t bytes) const {
  int result = 0;
  do {
    result = calls_->ftruncate(descriptor_, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result != 0) fail("resize to " + std::to_string(bytes) + " bytes");
}

void File::sync() const {
  int result = 0;
  do {
    result = calls_->fsync(descriptor_);
  } while (result != 0 && errno == EINTR);
  if (result != 0) fail("fsync");
}

void File::drop_cache() const {
  const int error = ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
  if (error != 0) fail_path(path_, "drop the cached pages", error);
}

ByteSource source_of(const File& file) {
  return {file.size(),
          [&file](std::uint64_t offset, std::span<std::byte> into) { file.read_at(offset, into); }};
}

void sync_folder(const std::string& path, const SystemCalls& calls) {
  File::open_folder(path, calls).sync();
}

void require_file(const std::string& path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) == 0) {
    if (!S_ISREG(status.st_mode)) refuse(path, word_of(status));
    return;
  }
  const int error = errno;
  const bool is_link = ::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
  if (error == ELOOP) refuse(path, "a circle of links");
  if (error == ENOENT && is_link) refuse(path, word_of(status));
  // All else is told by what opens the file.
}

void rename(const std::string& from, const std::string& to, const SystemCalls& calls) {
  int result = 0;
  do {
    result = calls.rename(from.c_str(), to.c_str());
  } while (result != 0 && errno == EINTR);
  if (result != 0) fail_path(from, "rename to " + to, errno);
}

bool exchange(const std::string& a, const std::string& b, const SystemCalls& calls) {
  int result = 0;
  do {
    result = calls.exchange(a.c_str(), b.c_str());
  } while (result != 0 && errno == EINTR);
  if (result == 0) return true;
  if (errno == EINVAL || errno == ENOSYS || errno == ENOTSUP) return false;
  fail_path(a, "exchange with " + b, errno);
}

std::string read_text(const std::string& path, std::uint64_t cap) {
  const File file = File::open_read(path);
  const std::uint64_t bytes = file.size();
  if (bytes > cap) {
    throw Error(Kind::input, path + ": " + std::to_string(bytes) + " bytes, at most " +
                                 std::to_string(cap) + " are expected");
  }
  std::string text(bytes, '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_text(const std::string& path, std::string_view text) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail_path(path, "replace", errno);
  File::create(path).write_at(0, std::as_bytes(std::span(text)));
}

}  // namespace reshard::formats
