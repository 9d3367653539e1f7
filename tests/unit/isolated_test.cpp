#include "formats/container/isolated.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

using Progress = std::function<void()>;

std::string refusal(const std::function<std::string(const Progress&)>& work,
                    const IsolationLimits& limits = {}) {
  try {
    run_isolated(work, limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input);
    return error.what();
  }
  return "";
}

TEST(Isolated, ReturnsTheResult) {
  EXPECT_EQ(run_isolated([](const Progress&) { return std::string(); }), "");
  const std::string large(3 << 20, 'x');
  int mine = 1;
  EXPECT_EQ(run_isolated([&](const Progress& progress) {
              mine = 2;
              for (int i = 0; i < 20000; ++i) progress();
              return large;
            }),
            large);
  EXPECT_EQ(mine, 1);
}

TEST(Isolated, PassesErrorsOn) {
  try {
    run_isolated([](const Progress&) -> std::string { throw Error(Kind::incomplete, "not yet"); });
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::incomplete);
    EXPECT_STREQ(error.what(), "not yet");
  }
  try {
    run_isolated([](const Progress&) -> std::string { throw std::logic_error("ours"); });
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::internal);
    EXPECT_STREQ(error.what(), "ours");
  }
}

TEST(Isolated, OutlivesACrash) {
  EXPECT_EQ(refusal([](const Progress&) -> std::string {
              ::raise(SIGSEGV);
              return "";
            }),
            "the library that reads its header ended with \"Segmentation fault\": it is damaged or "
            "made to harm");
  EXPECT_NE(refusal([](const Progress&) -> std::string { std::abort(); }).find("Aborted"),
            std::string::npos);
  EXPECT_NE(refusal([](const Progress&) -> std::string { ::_exit(0); }).find("gave up"),
            std::string::npos);
}

TEST(Isolated, EndsAnEndlessLoop) {
  IsolationLimits limits;
  limits.silence = std::chrono::seconds(1);
  EXPECT_EQ(refusal(
                [](const Progress& progress) -> std::string {
                  progress();
                  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
                },
                limits),
            "no progress for 1 s in reading its header: it is damaged or made to harm");
}

TEST(Isolated, BoundsMemory) {
  IsolationLimits limits;
  limits.memory = std::uint64_t{64} << 20;
  const auto eat = [](const Progress&) {
    std::vector<std::string> eaten;
    for (int i = 0; i < 400; ++i) eaten.emplace_back(1 << 20, 'x');
    return eaten.back();
  };
#if !defined(__SANITIZE_ADDRESS__)  // which ends a process that has no memory left
  EXPECT_NE(refusal(eat, limits).find("more memory"), std::string::npos);
#endif
  EXPECT_EQ(run_isolated(eat).size(), std::size_t{1} << 20);
  limits = {};
  limits.result_bytes = 10;
  EXPECT_NE(refusal([](const Progress&) { return std::string(11, 'x'); }, limits)
                .find("11 bytes, at most 10"),
            std::string::npos);
}

TEST(Isolated, LeavesNoChild) {
  EXPECT_EQ(run_isolated([](const Progress&) { return std::string("x"); }), "x");
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace reshard::formats
