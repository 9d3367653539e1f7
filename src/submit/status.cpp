#include "submit/status.hpp"

#include <algorithm>
#include <filesystem>
#include <map>

#include "core/error.hpp"
#include "formats/file.hpp"
#include "formats/manifest.hpp"
#include "logs/line.hpp"
#include "mpi/comm.hpp"
#include "submit/queue.hpp"
#include "submit/records.hpp"

namespace reshard::submit {
namespace {

namespace fs = std::filesystem;

/// More of a log's end is not looked at.
constexpr std::uint64_t most_of_log = std::uint64_t{1} << 20;

bool is_proven(const std::string& unit) {
  std::string found;
  bool proven = false;
  const auto fault = mpi::attempt([&] { proven = formats::find_manifest(unit, found).proven; });
  return !fault && proven && fs::path(found) == fs::path(unit);
}

/// What a line of a job's log blames, or "".
std::string blamed(std::string_view line) {
  line.remove_prefix(logs::prefix_of(line).size());
  if (line.starts_with("reshard: note")) return "";
  for (const std::string_view mark : {"reshard: ", "error: ", "not requeued: ", "rror: "}) {
    if (line.find(mark) != std::string_view::npos) return std::string(line);
  }
  return "";
}

std::string log_of(const JobRecord& record, std::optional<std::uint64_t> index) {
  const std::string job = std::to_string(record.job);
  return record.logs + "/" + record.name + "-" + job + (index ? "_" + std::to_string(*index) : "") +
         ".out";
}

TargetStatus status_of(const JobRecord& record, const std::string& target,
                       std::optional<std::uint64_t> index, const Queue& queue) {
  TargetStatus status{record.run, target, record.job, index, "", ""};
  const auto state = queue.state(record.job, index);
  if (is_proven(target)) {
    status.state = "done";
  } else if (state) {
    status.state = *state == "PENDING" || *state == "REQUEUED" ? "queued" : "running";
    status.reason = *state;
  } else {
    status.state = "failed";
    status.reason = last_error(log_of(record, index));
    if (status.reason.empty()) status.reason = "no error in " + log_of(record, index);
  }
  return status;
}

}  // namespace

std::string last_error(const std::string& log) {
  std::string last, text;
  const auto fault = mpi::attempt([&] {
    const formats::File file = formats::File::open_read(log);
    const std::uint64_t size = file.size(), begin = size - std::min(size, most_of_log);
    text.resize(size - begin);
    file.read_at(begin, std::as_writable_bytes(std::span(text)));
  });
  if (fault) return fault->what();
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string error = blamed(std::string_view(text).substr(at, end - at));
    if (!error.empty()) last = error;
    at = end + 1;
  }
  return last;
}

std::vector<TargetStatus> status_of(const std::string& save) {
  const std::vector<JobRecord> records = read_jobs(save);
  const Queue queue = records.empty() ? Queue("") : Queue::ask();
  std::map<std::string, TargetStatus> by_target;  // the last job counts
  for (const JobRecord& record : records) {
    for (std::size_t i = 0; i < record.targets.size(); ++i) {
      const auto index = record.is_array ? std::optional<std::uint64_t>(i) : std::nullopt;
      by_target[record.targets[i]] = status_of(record, record.targets[i], index, queue);
    }
    if (!record.targets.empty()) continue;
    TargetStatus late = status_of(record, record.root, std::nullopt, queue);
    if (late.state == "failed" && last_error(log_of(record, std::nullopt)).empty()) {
      late.state = "done";  // what it found is told by its own lines in index.jsonl
      late.reason.clear();
    }
    late.target += "/ (" + record.wish + ")";
    by_target[late.target] = late;
  }
  std::vector<TargetStatus> all;
  for (auto& [target, status] : by_target) all.push_back(std::move(status));
  return all;
}

}  // namespace reshard::submit
