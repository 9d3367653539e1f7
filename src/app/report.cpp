#include "app/report.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "app/text.hpp"
#include "core/printable.hpp"

namespace reshard::app {
namespace {

std::uint64_t total(const std::vector<std::uint64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::uint64_t{0});
}

/// Lines of which each is printable; those that put texts of strangers into lines have shortened
/// them.
std::string printable_lines(std::string_view text) {
  std::string lines;
  for (std::size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    lines += printable(text.substr(0, end), SIZE_MAX) + "\n";
    text.remove_prefix(end + 1);
  }
  return lines + printable(text, SIZE_MAX);
}

/// Writes all of a text to stdout, or says by errno why not.
bool print(const std::string& text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
         std::fflush(stdout) == 0;
}

/// JSON text in ASCII, which no terminal obeys; names of files need not be UTF-8.
std::string dumped(const Json& json) {
  return json.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

std::string text_of(const mpi::ConvertReport& r) {
  double seconds = 0;
  std::string phases;
  for (const auto& phase : r.phases) {
    seconds += phase.seconds;
    phases += (phases.empty() ? "" : ", ") + phase.name + " " + fixed(phase.seconds, 2) + " s";
  }
  std::string text;
  text += lines_of("warning: ", r.warnings) + lines_of("dropped: ", r.dropped);
  text += r.family + " from " + r.from + " (" + layout_text(r.source_parallelism) + ") to " + r.to +
          " (" + layout_text(r.target_parallelism) + "): " + std::to_string(r.tensors) +
          " tensors, " + human_bytes(r.target_bytes) + " in " + fixed(seconds, 2) + " s\n";
  text += "  " + phases + "\n";
  text += "  read " + human_bytes(total(r.bytes_read)) + ", exchanged " +
          human_bytes(total(r.bytes_sent)) + ", written " + human_bytes(total(r.bytes_written)) +
          " by " + std::to_string(r.bytes_read.size()) + " ranks in " + std::to_string(r.rounds) +
          " rounds; peak memory of a rank " +
          human_bytes(*std::max_element(r.peak_rss.begin(), r.peak_rss.end())) +
          " (buffers within " + human_bytes(r.memory) + ")\n";
  text += lines_of("note: ", r.notes);
  if (r.resumed_bytes > 0) {
    text += "resumed: " + human_bytes(r.resumed_bytes) + " were written by an earlier run\n";
  }
  const std::string unit = printable(r.unit) + "\n";
  if (r.already) {
    return text + "already converted: what is there is of the same source and options\n" + unit;
  }
  text += r.verified ? "verified: every byte was read back, the numbers of every tensor are those "
                       "of the source\n"
                     : "not verified: --no-verify\n";
  return text + unit;
}

}  // namespace

Json report_json(const mpi::ConvertReport& r) {
  Json phases = Json::object();
  double seconds = 0;
  for (const auto& phase : r.phases) {
    phases[phase.name] = phase.seconds;
    seconds += phase.seconds;
  }
  const auto bytes = [](const std::vector<std::uint64_t>& by_rank) {
    return Json{{"sum", total(by_rank)}, {"by_rank", by_rank}};
  };
  return {
      {"unit", r.unit},
      {"from", r.from},
      {"to", r.to},
      {"family", r.family},
      {"seconds", seconds},
      {"phases", phases},
      {"ranks", r.bytes_read.size()},
      {"rounds", r.rounds},
      {"tile_bytes", r.tile_bytes},
      {"memory", r.memory},
      {"tensors", r.tensors},
      {"parameters", r.parameters},
      {"target_bytes", r.target_bytes},
      {"read", bytes(r.bytes_read)},
      {"sent", bytes(r.bytes_sent)},
      {"written", bytes(r.bytes_written)},
      {"resumed", r.resumed_bytes},
      {"already", r.already},
      {"peak_rss",
       {{"max", *std::max_element(r.peak_rss.begin(), r.peak_rss.end())}, {"by_rank", r.peak_rss}}},
      {"verified", r.verified},
      {"warnings", r.warnings},
      {"dropped", r.dropped},
      {"notes", r.notes}};
}

void add_output_options(CLI::App& command, OutputOptions& options) {
  command.add_flag("--json", options.json, "print one JSON object")->group("Output");
  command.add_flag("--quiet", options.quiet, "no progress")->group("Output");
}

Report::Report(OutputOptions options, bool speaks)
    : options_(options),
      speaks_(speaks),
      terminal_(::isatty(STDERR_FILENO) != 0),
      begin_(std::chrono::steady_clock::now()),
      last_(begin_) {}

void Report::progress(std::uint64_t done, std::uint64_t all) {
  const auto now = std::chrono::steady_clock::now();
  const auto pause = terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10);
  if (!speaks_ || options_.quiet || done == 0 || (now - last_ < pause && done != all)) return;
  if (!terminal_ && done == all && !line_open_) return;  // over before the first line was due
  last_ = now;
  const double share = static_cast<double>(done) / static_cast<double>(all);
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const std::string text = fixed(100 * share, 0) + " %, " + human_bytes(done) + " of " +
                           human_bytes(all) + ", " + human_bytes(static_cast<std::uint64_t>(rate)) +
                           "/s, about " + fixed(seconds / share - seconds, 0) + " s left";
  std::fprintf(stderr, terminal_ ? "\r%s\033[K" : "%s\n", text.c_str());
  line_open_ = true;
  if (done == all) end_line();
}

void Report::end_line() {
  if (line_open_ && terminal_) std::fputc('\n', stderr);
  line_open_ = false;
}

void Report::stalled(const std::string& text) {
  end_line();
  std::fprintf(stderr, "reshard: %s\n", printable(text).c_str());
}

void Report::converted(const mpi::ConvertReport& report) {
  if (speaks_) output(text_of(report), report_json(report));
}

void Report::output(const std::string& text, const Json& json) {
  if (!speaks_) return;
  if (print(options_.json ? dumped(json) : printable_lines(text))) return;
  throw Error(Kind::io, std::string("standard output: ") + std::strerror(errno));
}

void report_note(const std::string& note) {
  std::fprintf(stderr, "reshard: note: %s\n", printable(note).c_str());
}

void print_raw(const std::string& bytes) {
  if (!print(bytes)) throw Error(Kind::io, std::string("standard output: ") + std::strerror(errno));
}

Json failure_json(const Error& error) {
  return {{"code", static_cast<int>(error.kind())}, {"message", error.what()}};
}

void report_failure(const Error& error, bool json) {
  if (!json || !print(dumped(failure_json(error))))
    std::fprintf(stderr, "reshard: %s\n", error.what());
}

std::string human_bytes(std::uint64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit < 5) {
    value /= 1024;
    ++unit;
  }
  return fixed(value, unit == 0 ? 0 : 1) + " " + units[unit];
}

}  // namespace reshard::app
