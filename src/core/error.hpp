#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/printable.hpp"

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

/// The one exception of reshard: a kind and a text that names file, tensor, seen and wanted. Names
/// come from strangers' files: every text is made printable, so that only a list has lines.
class Error : public std::runtime_error {
 public:
  Error(Kind kind, std::string_view text) : Error(kind, Lines{printable(text)}) {}
  /// An error of several lines, which have no line breaks of their own.
  static Error of_lines(Kind kind, const std::vector<std::string>& lines) {
    std::string text;
    for (const std::string& line : lines) text += (text.empty() ? "" : "\n") + printable(line);
    return {kind, Lines{text}};
  }
  /// The error that another rank or an earlier layer had: its text stays as it is.
  static Error again(Kind kind, std::string what) { return {kind, Lines{std::move(what)}}; }

  /// The same kind, "where: text".
  [[nodiscard]] Error in(std::string_view where) const {
    return {kind_, Lines{printable(where) + ": " + what()}};
  }
  /// The same kind and text, and more behind it.
  [[nodiscard]] Error with(std::string_view more) const {
    return {kind_, Lines{what() + printable(more)}};
  }
  [[nodiscard]] Kind kind() const { return kind_; }

 private:
  /// Text whose lines are printable.
  struct Lines {
    std::string text;
  };
  Error(Kind kind, const Lines& lines) : std::runtime_error(lines.text), kind_(kind) {}

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
