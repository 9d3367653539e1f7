#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <future>
#include <vector>

namespace reshard {

/// Calls work(0), ..., work(count - 1), on at most `threads` threads, this one among them. When
/// calls throw, no more are begun and one of the errors is thrown after all have ended.
template <class Work>
void for_each(std::uint64_t count, std::uint64_t threads, const Work& work) {
  std::atomic<std::uint64_t> next = 0;
  const auto take_turns = [&] {
    try {
      for (std::uint64_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      next = count;
      throw;
    }
  };
  std::vector<std::future<void>> helpers;
  for (std::uint64_t t = 1; t < std::min(threads, count); ++t) {
    helpers.push_back(std::async(std::launch::async, take_turns));
  }
  std::exception_ptr failure;
  try {
    take_turns();
  } catch (...) {
    failure = std::current_exception();
  }
  for (std::future<void>& helper : helpers) {
    try {
      helper.get();
    } catch (...) {
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace reshard
