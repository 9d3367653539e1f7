#include "submit/runs.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/error.hpp"
#include "formats/dialect/dialect.hpp"
#include "formats/dialect/megatron.hpp"
#include "mpi/comm.hpp"

namespace reshard::submit {
namespace {

namespace fs = std::filesystem;

/// The iteration in a folder's name, as of iter_0001000 or global_step1000.
std::optional<std::uint64_t> iteration_of(const std::string& name) {
  for (const std::string prefix : {"iter_", "global_step"}) {
    if (name.starts_with(prefix)) {
      return formats::whole_number(std::string_view(name).substr(prefix.size()));
    }
  }
  return std::nullopt;
}

std::vector<std::string> log_files(const std::vector<std::string>& words) {
  std::vector<std::string> files;
  const auto add = [&](const std::string& path) {
    if (!fs::exists(path)) throw Error(Kind::usage, "--train-logs " + path + ": does not exist");
    if (!fs::is_directory(path)) {
      files.push_back(path);
      return;
    }
    std::vector<std::string> inside;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(path)) {
      if (entry.path().extension() == ".out" && entry.is_regular_file(error)) {
        inside.push_back(entry.path().string());
      }
    }
    if (inside.empty()) throw Error(Kind::usage, "--train-logs " + path + ": no *.out in it");
    std::sort(inside.begin(), inside.end());
    files.insert(files.end(), inside.begin(), inside.end());
  };
  for (std::string word : words) {
    for (std::size_t at = word.find("::"); at != std::string::npos; at = word.find("::")) {
      add(word.substr(0, at));
      word.erase(0, at + 2);
    }
    add(word);
  }
  return files;
}

/// What one log says of one folder.
struct Told {
  std::string folder;
  std::map<std::uint64_t, const logs::Start*>
      done;  ///< whose arguments an iteration was saved with
  std::optional<std::uint64_t> tp, pp;
};

std::optional<std::uint64_t> number_of(const std::optional<std::string>& text) {
  return text ? formats::whole_number(*text) : std::nullopt;
}

/// The folders that a log's starts save to, the last first told of last; also one in which nothing
/// was saved yet.
std::vector<Told> told_by(const logs::Log& log) {
  std::vector<Told> all;
  const auto told_of = [&](const std::string& folder) -> Told& {
    for (Told& told : all) {
      if (told.folder == folder) return told;
    }
    all.push_back({folder, {}, {}, {}});
    return all.back();
  };
  for (std::size_t i = 0; i < log.starts.size(); ++i) {
    const logs::Start& start = log.starts[i];
    const logs::Start* arguments = log.arguments_at(i);
    const logs::Start& said = arguments == nullptr ? start : *arguments;
    const std::string save = logs::argument(said, "save").value_or("");
    std::set<std::string> folders;
    if (fs::path(save).is_absolute()) folders.insert(save);  // Merak's is a flag
    for (const logs::Save& one : start.saves) folders.insert(one.folder);
    for (const std::string& folder : folders) {
      Told& told = told_of(folder);
      told.tp = number_of(logs::argument(said, "tensor_model_parallel_size"));
      told.pp = number_of(logs::argument(said, "pipeline_model_parallel_size"));
      for (const logs::Save& one : start.saves) {
        if (one.folder == folder && one.state == logs::Save::State::done) {
          told.done[one.iteration] = &said;
        }
      }
    }
  }
  return all;
}

using Saved = std::map<std::uint64_t, LoggedSave>;

/// Runs by folder, and what the logs said of it.
class Finder {
 public:
  explicit Finder(const RunWish& wish) : wish_(wish) {}

  void add_log(const std::string& path, Runs& found) {
    std::shared_ptr<const logs::Log> log;
    try {
      log = std::make_shared<const logs::Log>(logs::read_log_file(path));
    } catch (const Error& error) {
      found.notes.emplace_back(error.what());
      return;
    }
    for (const std::string& note : log->notes) found.notes.push_back(path + ": " + note);
    const std::vector<Told> all = told_by(*log);
    if (all.empty()) found.notes.push_back(path + ": tells of no checkpoint");
    for (const Told& told : all) {
      const std::string folder = tidy(mapped(told.folder, wish_.maps));
      Run& run = run_of(folder, wish_.by_log ? path : "", found);
      if (wish_.by_log) run.name = fs::path(path).filename().replace_extension().string();
      run.is_named = true;
      run.logs.push_back(path);
      run.tp = told.tp ? told.tp : run.tp;
      run.pp = told.pp ? told.pp : run.pp;
      run.end = log->starts.back().end;
      for (const auto& [iteration, start] : told.done) {
        saved_[folder][iteration] = {path, {log, start}};
      }
    }
  }

  void add_checkpoint(const std::string& path, Runs& found) {
    const std::string folder = tidy(mapped(path, wish_.maps));
    const std::optional<std::uint64_t> only = iteration_of(fs::path(folder).filename().string());
    const std::string root = only ? fs::path(folder).parent_path().string() : folder;
    Run& run = run_of(root, "", found);
    if (only) {
      run.named[*only] = folder;
    } else {
      run.is_named = true;
    }
  }

  [[nodiscard]] const Saved& saved_in(const std::string& folder) { return saved_[folder]; }

 private:
  Run& run_of(const std::string& folder, const std::string& key, Runs& found) {
    const auto [at, is_new] = places_.try_emplace({folder, key}, found.runs.size());
    if (is_new) {
      Run run;
      run.folder = folder;
      run.name = wish_.run_name.empty() ? fs::path(folder).filename().string() : wish_.run_name;
      found.runs.push_back(std::move(run));
    }
    return found.runs[at->second];
  }

  const RunWish& wish_;
  std::map<std::pair<std::string, std::string>, std::size_t> places_;
  std::map<std::string, Saved> saved_;
};

/// Looks whether the files of a checkpoint are there.
void look_at(const std::string& folder, const formats::SourceOptions& source, Iteration& one) {
  formats::SourceOptions options = source;
  options.path = folder;
  options.iteration = one.number;
  const auto fault = mpi::attempt([&] { static_cast<void>(formats::detect(options)); });
  one.is_complete = !fault;
  if (fault) one.fault = fault->what();
}

void add_iterations(Run& run, const Saved& saved, const formats::SourceOptions& source) {
  std::set<std::uint64_t> there;
  std::error_code error;
  bool is_tracked = false;  // the folder says itself which iteration was finished last
  for (const auto& entry : fs::directory_iterator(run.folder, error)) {
    const std::string name = entry.path().filename().string();
    is_tracked = is_tracked || (name.starts_with("latest") && entry.is_regular_file(error));
    const auto number = iteration_of(name);
    if (number && entry.is_directory(error)) there.insert(*number);
  }
  if (there.empty() && saved.empty() && fs::is_directory(run.folder)) {
    Iteration one;
    one.is_there = true;
    look_at(run.folder, source, one);
    run.iterations.push_back(one);
    return;
  }
  std::set<std::uint64_t> all = there;
  for (const auto& [number, save] : saved) all.insert(number);
  for (const std::uint64_t number : all) {
    Iteration one;
    one.number = number;
    if (const auto at = saved.find(number); at != saved.end()) one.logged = at->second;
    one.is_there = there.contains(number);
    if (!one.is_there) {
      one.fault = "not on disk";
    } else if (!is_tracked && !one.logged && !run.named.contains(number)) {
      one.fault = "neither a tracker nor a log says that it was finished";
    } else {
      look_at(run.folder, source, one);
    }
    run.iterations.push_back(one);
  }
}

}  // namespace

std::string tidy(const std::string& path) {
  fs::path full = fs::absolute(path).lexically_normal();
  if (full.has_parent_path() && full.filename().empty()) full = full.parent_path();
  return full.string();
}

std::string mapped(const std::string& path,
                   const std::vector<std::pair<std::string, std::string>>& maps) {
  for (const auto& [from, to] : maps) {
    if (!path.starts_with(from)) continue;
    const bool is_whole =
        path.size() == from.size() || from.ends_with('/') || path[from.size()] == '/';
    if (is_whole) return to + path.substr(from.size());
  }
  return path;
}

Runs find_runs(const RunWish& wish, const formats::SourceOptions& source) {
  const std::string& name = wish.run_name;
  if (name.find('/') != std::string::npos || name == "." || name == "..") {
    throw Error(Kind::usage, "--run-name " + name + ": wanted the name of one folder");
  }
  Runs found;
  Finder finder(wish);
  for (const std::string& file : log_files(wish.train_logs)) finder.add_log(file, found);
  for (const std::string& path : wish.checkpoints) finder.add_checkpoint(path, found);
  for (Run& run : found.runs) add_iterations(run, finder.saved_in(run.folder), source);
  return found;
}

}  // namespace reshard::submit
