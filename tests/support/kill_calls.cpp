#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "formats/file.hpp"

// System calls of a reshard that is killed: linked into the program in place of
// formats/system_calls.cpp. RESHARD_KILL_AT=N ends the process with SIGKILL right before its N-th
// call that changes a file or a name, RESHARD_NO_EXCHANGE=1 takes away the exchange of names.

namespace reshard::formats {
namespace {

class KillingCalls : public SystemCalls {
 public:
  KillingCalls() {
    const char* const at = std::getenv("RESHARD_KILL_AT");
    left_ = at == nullptr ? -1 : std::atoi(at);
    has_exchange_ = std::getenv("RESHARD_NO_EXCHANGE") == nullptr;
  }

  ssize_t pwrite(int file, const void* from, std::size_t bytes, off_t offset) const override {
    count();
    return SystemCalls::pwrite(file, from, bytes, offset);
  }
  int ftruncate(int file, off_t bytes) const override {
    count();
    return SystemCalls::ftruncate(file, bytes);
  }
  int fsync(int file) const override {
    count();
    return SystemCalls::fsync(file);
  }
  int rename(const char* from, const char* to) const override {
    count();
    return SystemCalls::rename(from, to);
  }
  int exchange(const char* a, const char* b) const override {
    count();
    if (has_exchange_) return SystemCalls::exchange(a, b);
    errno = EINVAL;
    return -1;
  }

 private:
  void count() const {
    if (left_-- == 0) std::raise(SIGKILL);
  }
  mutable std::atomic<int> left_ = -1;
  bool has_exchange_ = true;
};

}  // namespace

const SystemCalls& system_calls() {
  static const KillingCalls calls;
  return calls;
}

}  // namespace reshard::formats
