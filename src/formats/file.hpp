#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "formats/container/byte_source.hpp"

namespace reshard::formats {

/// The system calls behind File, with their POSIX contracts (-1 and errno); a test overrides one to
/// inject a failure.
struct SystemCalls {
  virtual ~SystemCalls() = default;
  virtual int open(const char* path, int flags, mode_t mode) const;
  virtual ssize_t pread(int descriptor, void* to, std::size_t bytes, off_t offset) const;
  virtual ssize_t pwrite(int descriptor, const void* from, std::size_t bytes, off_t offset) const;
  virtual int ftruncate(int descriptor, off_t bytes) const;
  virtual int fsync(int descriptor) const;
  virtual int rename(const char* from, const char* to) const;
  virtual int exchange(const char* a, const char* b) const;  ///< renameat2 with RENAME_EXCHANGE
};

/// The calls of this machine: an object without state.
const SystemCalls& system_calls();

/// Move-only owner of a file descriptor; every failure is an Error(io) with path and cause.
/// Distinct threads may read and write at once. `calls` must outlive the file.
class File {
 public:
  /// Opens a regular file, or one at the end of a link, for reading; Error(input) when it is
  /// something else, which could block, never end, or do something.
  static File open_read(const std::string& path, const SystemCalls& calls = system_calls());
  /// Creates for reading and writing; an existing file is an error.
  static File create(const std::string& path, const SystemCalls& calls = system_calls());
  /// Opens a folder, which can be synced and nothing else.
  static File open_folder(const std::string& path, const SystemCalls& calls = system_calls());
  /// Opens an existing regular file, which no link leads to, for reading and writing.
  static File open_write(const std::string& path, const SystemCalls& calls = system_calls());

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& path() const { return path_; }
  /// Bytes of the file now.
  std::uint64_t size() const;
  /// Fills `to` from `offset`, looping over short reads; an end of file before that is an error.
  void read_at(std::uint64_t offset, std::span<std::byte> to) const;
  /// Writes all of `from` at `offset`.
  void write_at(std::uint64_t offset, std::span<const std::byte> from) const;
  /// Cuts or extends (with a hole) to `bytes`.
  void resize(std::uint64_t bytes) const;
  /// fsync.
  void sync() const;
  /// Asks the kernel to forget this file's clean cached pages (POSIX_FADV_DONTNEED).
  void drop_cache() const;

 private:
  File(const std::string& path, int flags, const SystemCalls& calls);
  [[noreturn]] void fail(std::string_view what) const;

  std::string path_;
  const SystemCalls* calls_;
  int descriptor_ = -1;
};

/// Reads through `file`, which must outlive the result.
ByteSource source_of(const File& file);

/// Error(input) when the path leads to something else than a regular file, or in a circle; nothing
/// when there is nothing.
void require_file(const std::string& path);
/// fsync of a folder, so that names made in it survive a crash.
void sync_folder(const std::string& path, const SystemCalls& calls = system_calls());
/// Renames, replacing an existing file of the name `to`.
void rename(const std::string& from, const std::string& to,
            const SystemCalls& calls = system_calls());
/// Swaps two names at once; false when this file system cannot.
bool exchange(const std::string& a, const std::string& b,
              const SystemCalls& calls = system_calls());
/// A whole small file; Error(input) when it is larger than `cap` bytes.
std::string read_text(const std::string& path, std::uint64_t cap);
/// Creates a file with this content; what had the name before is removed, of a link the link.
void write_text(const std::string& path, std::string_view text);

}  // namespace reshard::formats
