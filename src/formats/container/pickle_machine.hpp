#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/error.hpp"
#include "formats/container/pickle.hpp"
#include "formats/container/pickle_arena.hpp"

namespace reshard::formats {

/// Counts the memory that a pickle takes, from its bytes to its JSON; Error(input) beyond the
/// limit.
class PickleBudget {
 public:
  explicit PickleBudget(const PickleLimits& limits) : parts_(limits.nodes) {}
  void charge(std::uint64_t bytes) {
    spent_ += bytes;
    if (spent_ > parts_ * 64) {
      throw Error(Kind::input,
                  "pickle: its value has more than " + std::to_string(parts_) + " parts");
    }
  }

 private:
  std::uint64_t parts_, spent_ = 0;
};

/// Thrown by run_pickle when the bytes end before the pickle.
struct PickleTruncated {};

/// Runs the stack machine of containers.md section 2.8 over one pickle; every length and index is
/// checked, and what is kept is charged. The bytes must outlive the result. Error(input) with the
/// byte offset; PickleTruncated.
PickleArena run_pickle(std::span<const std::byte> bytes, PickleBudget& budget);

}  // namespace reshard::formats
