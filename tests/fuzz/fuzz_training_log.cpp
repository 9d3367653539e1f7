#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.hpp"
#include "logs/training_log.hpp"

namespace {

using reshard::logs::Log;

/// What both ways of reading must agree on; nothing where a log is refused.
std::size_t checked(const Log& log) {
  for (std::size_t i = 0; i < log.starts.size(); ++i) {
    const reshard::logs::Start* arguments = log.arguments_at(i);
    if (arguments != nullptr && !arguments->has_arguments) __builtin_trap();
    if (!log.starts[i].has_arguments && !log.starts[i].arguments.empty()) __builtin_trap();
    for (const auto& save : log.starts[i].saves) {
      if (save.folder.empty() || save.folder.find('\n') != std::string::npos) __builtin_trap();
    }
    static_cast<void>(reshard::logs::argument(log.starts[i], "save"));
  }
  return log.starts.size();
}

}  // namespace

/// Any bytes as a training log, whole and in pieces.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const std::size_t starts = checked(reshard::logs::read_log(text));
    reshard::logs::Scanner scanner;
    for (std::size_t at = 0; at < size; at += 100) scanner.add(text.substr(at, 100));
    if (checked(scanner.finish()) != starts) __builtin_trap();
  } catch (const reshard::Error& error) {
    if (error.kind() != reshard::Kind::input) __builtin_trap();
  }
  return 0;
}
