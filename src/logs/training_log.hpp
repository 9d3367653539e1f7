#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace reshard::logs {

/// A checkpoint that a log tells of.
struct Save {
  /// How far the log follows it: only one that is done may be used.
  enum class State { started, scheduled, done };
  std::uint64_t iteration = 0;
  std::string folder;                   ///< as the log says it: the run's, not the iteration's
  std::string format;                   ///< "torch_dist", "torch", ...; "" where no line tells
  std::optional<std::uint64_t> tp, pp;  ///< of "[ t 1/2, p 1/4 ]"
  State state = State::started;
  friend bool operator==(const Save&, const Save&) = default;
};

/// A checkpoint that training went on from.
struct Load {
  std::uint64_t iteration = 0;
  std::string folder;
  friend bool operator==(const Load&, const Load&) = default;
};

/// One start of the training program, from its command line to the next start.
struct Start {
  std::string command;                           ///< "" where it was not printed
  std::map<std::string, std::string> arguments;  ///< of a whole arguments block: Python's str()
  bool has_arguments = false;                    ///< the block was there, to its end
  std::optional<std::uint64_t> padded_vocab;
  std::optional<Load> loaded;
  std::vector<Save> saves;  ///< by their first line
  /// Last iteration that was reported, and how many were to be.
  std::optional<std::uint64_t> iteration, iterations;
  /// "done", "exited", "time limit", "preempted", "node failure", "cancelled", "out of memory",
  /// "layout refused", "failed"; "" where nothing tells.
  std::string end;
};

/// What a training log says.
struct Log {
  std::vector<Start> starts;
  std::vector<std::string> notes;  ///< what could not be read, as a last line that is cut
  std::uint64_t lines = 0;

  /// The start whose arguments hold for what the n-th start saved: the last one up to it with a
  /// whole block; nothing when there is none.
  [[nodiscard]] const Start* arguments_at(std::size_t n) const;
};

/// Reads the output of a Megatron-LM or Merak job, as text comes: lines end with LF, CRLF or CR,
/// may have the prefixes of `srun --label` and `torchrun --tee`, colours, and lines of other
/// workers between and behind them. Nothing in a log is trusted: lines are cut, and what is kept of
/// them is bounded. Takes time linear in the bytes.
///
///     0: [node01:0]:------------------------ arguments ------------------------
///     0: [node01:0]:  save ............................................ /scratch/run1
///     0: [node01:0]:-------------------- end of arguments ---------------------
///     0: [node01:0]:saving checkpoint at iteration       2 to /scratch/run1 in torch_dist format
///     0: [node01:0]:  successfully saved checkpoint from iteration       2 to /scratch/run1 [ t
///     1/1, p 1/1 ]
class Scanner {
 public:
  /// Error(input) when the log has more starts, arguments or checkpoints than a job could write.
  void add(std::string_view bytes);
  /// The result; a line without end is the last, and may be cut.
  Log finish();

 private:
  void append(std::string_view part);
  void end_line(bool whole);
  void read_line(std::string_view line, bool whole);
  bool read_block(std::string_view prefix, std::string_view line);
  bool read_command(std::string_view line);
  void read_event(std::string_view line, bool whole);
  void read_save(std::string_view line, bool whole);
  void read_end(std::string_view line);
  /// The folder that a checkpoint line begins with: what the run was told to write to, or what an
  /// earlier line of the same save said; "" when it is neither.
  std::string folder_of(std::uint64_t iteration, std::string_view rest);
  Save& save_of(std::uint64_t iteration, const std::string& folder);
  Start& start();
  /// A new start, if the current one has more than a command line.
  void begin();
  void note(const std::string& text);
  /// Counts what is kept in memory.
  void keep(std::size_t bytes);

  Log log_;
  std::string line_;
  bool is_long_ = false;
  std::optional<std::string> block_;  ///< prefix of the lines of an arguments block that is open
  std::map<std::string, std::string> arguments_;
  std::string save_;       ///< the argument, where it is known
  int command_lines_ = 0;  ///< of a frame around a command that may still come
  std::uint64_t kept_ = 0;
};

/// What the text of a whole log says.
Log read_log(std::string_view text);
/// What a log file says, up to the size that it has now; Error(input) when it is no file.
Log read_log_file(const std::string& path);

/// Options of a command line as a shell would cut it, each with its values; the last of a name
/// counts: "--data-path 14 /a 14 /b" has four values, "--bf16" none.
std::map<std::string, std::vector<std::string>> flags_of(std::string_view command);

/// An argument of a start: of its block ("None" is none), else of its command line; nothing when
/// neither has it.
std::optional<std::string> argument(const Start& start, const std::string& name);

}  // namespace reshard::logs
