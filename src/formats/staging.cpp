#include "formats/staging.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <filesystem>
#include <optional>
#include <span>

#include "core/error.hpp"
#include "formats/dialect/dialect.hpp"
#include "formats/file.hpp"
#include "formats/lock.hpp"

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

/// What the names of all that belongs to the growing of a path begin with.
std::string prefix_of(const fs::path& path) {
  return (path.parent_path() / ("." + path.filename().string() + ".reshard-")).string();
}

std::string identity_file(const std::string& folder) {
  return folder + "/journal/identity";
}

/// Number of a folder on its file system, which it keeps when it is renamed; 0 when it is not
/// there.
std::uint64_t inode(const std::string& path) {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_ino : 0;
}

/// "PATH (12345678 bytes, last written 3 min ago)"
std::string described(const std::string& folder) {
  std::uint64_t bytes = 0;
  fs::file_time_type last = fs::last_write_time(folder);
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    last = std::max(last, entry.last_write_time());
    struct stat status = {};
    if (entry.is_regular_file() && ::stat(entry.path().c_str(), &status) == 0) {
      bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
  }
  const auto age =
      std::chrono::duration_cast<std::chrono::minutes>(fs::file_time_type::clock::now() - last);
  return folder + " (" + std::to_string(bytes) + " bytes, last written " +
         std::to_string(std::max<std::int64_t>(age.count(), 0)) + " min ago)";
}

}  // namespace

Staging plan_staging(const std::string& target_path, const Target& target,
                     const std::string& source_path, bool overwrite) {
  const fs::path root = resolved(target_path);
  const fs::path unit = target.unit == "." ? root : root / target.unit;
  if (!source_path.empty()) {
    const fs::path source = resolved(source_path);
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
  const auto ticks = std::chrono::system_clock::now().time_since_epoch().count();
  const std::string id = std::to_string(::getpid()) + "-" + std::to_string(ticks);
  const Staging staging{prefix_of(unit) + id, unit.string(), root.string(),
                        !fs::exists(unit.parent_path())};
  if (!overwrite) check_unoccupied(staging);
  return staging;
}

void check_unoccupied(const Staging& staging) {
  if (!fs::exists(staging.unit) || is_empty_folder(staging.unit)) return;
  throw Error(Kind::usage, staging.unit + ": exists and is not empty; --overwrite replaces it");
}

std::string Staging::lock() const {
  return prefix_of(unit) + "lock";
}

void create_parent(const Staging& staging) {
  const fs::path parent = fs::path(staging.unit).parent_path();
  std::error_code error;
  fs::create_directories(parent, error);
  if (error) fail(parent, error);
}

void create_staging(const Staging& staging, const std::string& identity, std::uint64_t bytes) {
  const fs::path parent = fs::path(staging.folder).parent_path();
  std::error_code error;
  const fs::space_info space = fs::space(parent, error);
  if (error) fail(parent, error);
  if (space.available < bytes) {
    throw Error(Kind::io, parent.string() + ": " + std::to_string(space.available) +
                              " bytes free, wanted " + std::to_string(bytes));
  }
  for (const std::string& folder : {staging.folder, staging.tree(), staging.journal()}) {
    fs::create_directory(folder, error);
    if (error) fail(folder, error);
  }
  const File file = File::create(identity_file(staging.folder));
  const std::string text = std::to_string(inode(staging.tree())) + "\n" + identity;
  file.write_at(0, std::as_bytes(std::span(text)));
  file.sync();
  sync_folder(staging.journal());
  sync_folder(staging.folder);
  sync_folder(parent.string());
}

std::vector<Abandoned> abandoned(const Staging& staging) {
  const fs::path prefix = prefix_of(staging.unit);
  std::vector<Abandoned> found;
  for (const auto& entry : fs::directory_iterator(prefix.parent_path())) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_directory() || !name.starts_with(prefix.filename().string())) continue;
    Abandoned one{entry.path().string(), "", false, ""};
    if (fs::exists(identity_file(one.folder))) {
      const std::string text = read_text(identity_file(one.folder), std::uint64_t{64} << 20);
      const std::size_t line = text.find('\n');
      const std::string made = text.substr(0, line);
      if (line != std::string::npos) one.identity = text.substr(line + 1);
      one.published = std::to_string(inode(staging.unit)) == made;
      if (!one.published && std::to_string(inode(one.folder + "/unit")) != made) one.identity = "";
    }
    one.described = described(one.folder);
    found.push_back(std::move(one));
  }
  return found;
}

void publish_tree(const Staging& staging, bool overwrite) {
  for (const auto& entry : fs::recursive_directory_iterator(staging.tree())) {
    if (entry.is_directory()) sync_folder(entry.path().string());
  }
  sync_folder(staging.tree());
  const fs::path parent = fs::path(staging.unit).parent_path();
  if (fs::exists(staging.unit) && !is_empty_folder(staging.unit)) {
    if (!overwrite) {
      throw Error(Kind::usage, staging.unit + ": has come into being meanwhile");
    }
    if (!exchange(staging.tree(), staging.unit)) {
      const std::string old = staging.folder + "/old";
      rename(staging.unit, old);
      try {
        rename(staging.tree(), staging.unit);
      } catch (const Error&) {
        rename(old, staging.unit);
        throw;
      }
    }
  } else {
    rename(staging.tree(), staging.unit);
  }
  sync_folder(parent.string());
}

std::string raise_tracker(const Staging& staging, const Target& target) {
  if (target.tracker.empty()) return "";
  const fs::path tracker = fs::path(staging.root) / target.tracker;
  const Lock lock(prefix_of(tracker) + "lock", std::chrono::seconds(60));
  if (fs::exists(tracker)) {
    const std::string there = read_text(tracker.string(), 4096);
    const auto old = iteration_in(there), mine = iteration_in(target.tracker_content);
    if (old && mine && *old > *mine) {
      return tracker.string() + " names the later iteration " + std::to_string(*old) +
             " and was left so";
    }
  }
  const std::string fresh = prefix_of(tracker) + "new";
  write_text(fresh, target.tracker_content);
  File::open_write(fresh).sync();
  rename(fresh, tracker.string());
  sync_folder(staging.root);
  return "";
}

void discard(const Staging& staging) noexcept {
  std::error_code ignored;
  fs::remove_all(staging.folder, ignored);
}

void discard_parent(const Staging& staging) noexcept {
  if (!staging.makes_parent) return;
  ::rmdir(fs::path(staging.folder).parent_path().c_str());  // which fails unless it is empty
}

}  // namespace reshard::formats
