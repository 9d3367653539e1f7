#include "formats/staging.hpp"

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <filesystem>
#include <optional>
#include <span>

#include "core/error.hpp"
#include "formats/dialect/dialect.hpp"
#include "formats/file.hpp"

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;

/// Absolute and without links, as far as the path exists; no slash at the end.
fs::path resolved(const fs::path& path) {
  fs::path full = fs::weakly_canonical(fs::absolute(path));
  return full.has_filename() ? full : full.parent_path();
}

bool is_inside(const fs::path& inner, const fs::path& outer) {
  const auto [rest, end] = std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end());
  return rest == outer.end();
}

bool is_empty_folder(const fs::path& path) {
  return fs::is_directory(path) && fs::is_empty(path);
}

[[noreturn]] void fail(const fs::path& path, const std::error_code& error) {
  throw Error(Kind::io, path.string() + ": " + error.message());
}

std::optional<std::uint64_t> iteration_in(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end != text.data() ? std::optional(value) : std::nullopt;
}

}  // namespace

Staging plan_staging(const std::string& target_path, const Target& target,
                     const std::string& source_unit, bool overwrite) {
  const fs::path root = resolved(target_path);
  const fs::path unit = target.unit == "." ? root : root / target.unit;
  if (!source_unit.empty()) {
    const fs::path source = resolved(source_unit);
    if (is_inside(unit, source) || is_inside(source, unit)) {
      throw Error(Kind::usage,
                  unit.string() + ": source " + source.string() + " and target lie in one another");
    }
  }
  for (const fs::path& path : {root, unit}) {
    if (fs::exists(path) && !fs::is_directory(path)) {
      throw Error(Kind::usage, path.string() + ": is a file, wanted a folder or a new name");
    }
  }
  if (unit != root && fs::exists(root) && holds_checkpoint(root.string())) {
    throw Error(Kind::usage, root.string() + ": holds a checkpoint of its own, " +
                                 unit.filename().string() + " cannot lie in it: name another " +
                                 "folder");
  }
  if (fs::exists(unit) && !is_empty_folder(unit) && !overwrite) {
    throw Error(Kind::usage, unit.string() + ": exists and is not empty; --overwrite replaces it");
  }
  const auto ticks = std::chrono::system_clock::now().time_since_epoch().count();
  const std::string id = std::to_string(::getpid()) + "-" + std::to_string(ticks);
  const fs::path folder = unit.parent_path() / ("." + unit.filename().string() + ".reshard-" + id);
  return {folder.string(), unit.string(), root.string(), !fs::exists(unit.parent_path())};
}

void create_staging(const Staging& staging, std::uint64_t bytes) {
  std::error_code error;
  fs::create_directories(fs::path(staging.folder).parent_path(), error);
  if (error) fail(fs::path(staging.folder).parent_path(), error);
  const fs::space_info space = fs::space(fs::path(staging.folder).parent_path(), error);
  if (error) fail(fs::path(staging.folder).parent_path(), error);
  if (space.available < bytes) {
    throw Error(Kind::io, fs::path(staging.folder).parent_path().string() + ": " +
                              std::to_string(space.available) + " bytes free, wanted " +
                              std::to_string(bytes));
  }
  fs::create_directory(staging.folder, error);
  if (error) fail(staging.folder, error);
}

std::string publish(const Staging& staging, const Target& target, bool overwrite) {
  for (const auto& entry : fs::recursive_directory_iterator(staging.folder)) {
    if (entry.is_directory()) sync_folder(entry.path().string());
  }
  sync_folder(staging.folder);
  const fs::path parent = fs::path(staging.unit).parent_path();
  if (fs::exists(staging.unit) && !is_empty_folder(staging.unit)) {
    if (!overwrite) {
      throw Error(Kind::usage, staging.unit + ": has come into being meanwhile");
    }
    const std::string old = staging.folder + ".old";
    if (exchange(staging.folder, staging.unit)) {
      fs::remove_all(staging.folder);
    } else {
      rename(staging.unit, old);
      rename(staging.folder, staging.unit);
      fs::remove_all(old);
    }
  } else {
    rename(staging.folder, staging.unit);
  }
  sync_folder(parent.string());
  if (target.tracker.empty()) return "";
  const fs::path tracker = fs::path(staging.root) / target.tracker;
  if (fs::exists(tracker)) {
    const std::string there = read_text(tracker.string(), 4096);
    const auto old = iteration_in(there), mine = iteration_in(target.tracker_content);
    if (old && mine && *old > *mine) {
      return tracker.string() + " names the later iteration " + std::to_string(*old) +
             " and was left so";
    }
  }
  const std::string fresh = staging.folder + ".tracker";
  {
    const File file = File::create(fresh);
    file.write_at(0, std::as_bytes(std::span(target.tracker_content)));
    file.sync();
  }
  rename(fresh, tracker.string());
  sync_folder(staging.root);
  return "";
}

void discard(const Staging& staging) noexcept {
  std::error_code ignored;
  fs::remove_all(staging.folder, ignored);
  fs::remove(staging.folder + ".tracker", ignored);
  if (staging.makes_parent) {
    ::rmdir(fs::path(staging.folder).parent_path().c_str());  // which fails unless it is empty
  }
}

}  // namespace reshard::formats
