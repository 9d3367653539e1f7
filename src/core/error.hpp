#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace reshard {

/// What went wrong; the value is the exit code (DESIGN.md section 4, Failure).
enum class Kind : int {
  usage = 2,         ///< the command line
  input = 3,         ///< a bad or unsupported checkpoint, model or layout
  io = 4,            ///< the operating system refused
  verification = 5,  ///< bytes differ from what they must be
  internal = 6,      ///< our own bug
  incomplete = 7,    ///< the source is not complete yet
  stopped = 75,      ///< stopped on a signal, resumable
};

/// The one exception of reshard: a kind and a text that names file, tensor, seen and wanted.
class Error : public std::runtime_error {
 public:
  Error(Kind kind, const std::string& text) : std::runtime_error(text), kind_(kind) {}
  /// The same kind, "where: text".
  [[nodiscard]] Error in(std::string_view where) const {
    return {kind_, std::string(where) + ": " + what()};
  }
  [[nodiscard]] Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

/// Runs work and returns its result; an Error that leaves it gets `where` in front.
template <class Work>
auto with_context(std::string_view where, Work&& work) -> decltype(work()) {
  try {
    return work();
  } catch (const Error& error) {
    throw error.in(where);
  }
}

}  // namespace reshard
