#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace reshard::formats {

/// What a child process may take.
struct IsolationLimits {
  std::chrono::seconds silence{20};               ///< without progress
  std::uint64_t memory = std::uint64_t{1} << 30;  ///< more than this process has now
  std::uint64_t result_bytes = std::uint64_t{1} << 30;
};

/// Runs work in a child process, for parsers that are not ours and may crash, loop or eat memory on
/// a file made to harm. Returns what work returns, throws the Error that it throws, and an
/// Error(input) when the child dies, is silent for too long or has no memory left. Work calls
/// `progress` now and then; it must not communicate. No other thread may hold a lock that work
/// takes.
std::string run_isolated(
    const std::function<std::string(const std::function<void()>& progress)>& work,
    const IsolationLimits& limits = {});

}  // namespace reshard::formats
