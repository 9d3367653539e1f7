#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <string>

#include "mpi/convert.hpp"

namespace reshard::app {

/// How the user wants to be told.
struct OutputOptions {
  bool json = false, quiet = false;
};
void add_output_options(CLI::App& command, OutputOptions& options);

/// The only printer: results go to stdout, all else to stderr; only one rank speaks.
class Report {
 public:
  Report(OutputOptions options, bool speaks);
  /// Bytes of the target that are done, of all: one line on a terminal, a line now and then in a
  /// log.
  void progress(std::uint64_t done, std::uint64_t all);
  /// An operation that takes very long; any rank may say so.
  void stalled(const std::string& text);
  void converted(const mpi::ConvertReport& report);
  /// Prints text, or with --json the object, as a command's output; Error(io) when stdout takes it
  /// not.
  void output(const std::string& text, const Json& json);

 private:
  void end_line();

  OutputOptions options_;
  bool speaks_, terminal_;
  bool line_open_ = false;
  std::chrono::steady_clock::time_point begin_, last_;
};

/// Tells of something before a command runs, on stderr.
void report_note(const std::string& note);
/// Tells of a failure on stderr; with --json as one object {code, message} on stdout.
void report_failure(const Error& error, bool json);

/// Bytes for a script, to stdout as they are; Error(io) when it takes them not.
void print_raw(const std::string& bytes);

/// What --json prints of a conversion and of a failure.
Json report_json(const mpi::ConvertReport& report);
Json failure_json(const Error& error);

/// "12.5 GiB"
std::string human_bytes(std::uint64_t bytes);

}  // namespace reshard::app
