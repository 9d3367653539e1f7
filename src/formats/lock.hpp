#pragma once

#include <chrono>
#include <string>

namespace reshard::formats {

/// The right to write what a path names, held against other processes by a file beside it: an flock
/// for the life of this object, and text that tells a human who holds it.
///
/// A process that was killed leaves the file behind but not the flock. On the same machine that
/// settles that the lock is stale. On another one flock may not reach this one (NFS, Lustre with
/// localflock), so a file of another host is only taken over within the same Slurm job, which then
/// was requeued; else Error(usage) explains what to do. Where the file system has no flock at all
/// (Lustre mounted without), the file itself is the lock: it is taken over only from a process of
/// this machine that has ended.
class Lock {
 public:
  /// Takes the lock or throws Error(usage) that names host, process and job of the holder; waits so
  /// long for it first.
  explicit Lock(const std::string& path, std::chrono::seconds patience = {});
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  /// Removes the file.
  ~Lock();

  /// What a stale lock said that was taken over, or "".
  [[nodiscard]] const std::string& stale() const { return stale_; }

 private:
  /// Whether the file was opened, is still the one of its name, and is ours.
  bool take();

  std::string path_, stale_;
  int descriptor_ = -1;
  bool has_flock_ = true;
};

}  // namespace reshard::formats
