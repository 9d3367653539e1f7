#include "formats/staging.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <optional>
#include <span>

#include "core/error.hpp"
#include "formats/dialect/dialect.hpp"
#include "formats/file.hpp"
#include "formats/lock.hpp"
#include "formats/manifest.hpp"

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;

/// Absolute and without links, as far as the path exists; no slash at the end.
fs::path resolved(const fs::path& path) {
  fs::path full = fs::weakly_canonical(fs::absolute(path));
  return full.has_filename() ? full : full.parent_path();
}

/// Absolute, the folders above without links; what the last name is, a link perhaps, stays open.
fs::path named(const fs::path& path) {
  fs::path full = fs::absolute(path);
  if (!full.has_filename()) full = full.parent_path();
  const fs::path last = full.filename();
  if (last == "." || last == ".." || last.empty()) return resolved(full);
  return resolved(full.parent_path()) / last;
}

bool is_link(const fs::path& path) {
  return fs::is_symlink(fs::symlink_status(path));
}

/// A folder that is not a link to one.
bool is_own_folder(const fs::path& path) {
  return fs::is_directory(fs::symlink_status(path));
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

/// The iteration that a tracker names, if there is one; Error(input) when it is no small file.
std::optional<std::uint64_t> old_tracker(const std::string& path) {
  require_file(path);
  return fs::exists(path) ? iteration_in(read_text(path, 4096)) : std::nullopt;
}

/// What the names of all that belongs to the growing of a path begin with.
std::string prefix_of(const fs::path& path) {
  return (path.parent_path() / ("." + path.filename().string() + ".reshard-")).string();
}

std::string identity_file(const std::string& folder) {
  return folder + "/journal/identity";
}

/// Number of a folder on its file system, which it keeps when it is renamed; 0 when it is not
/// there or no folder.
std::uint64_t inode(const std::string& path) {
  struct stat status = {};
  return ::lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) ? status.st_ino : 0;
}

/// Whether a staging folder holds more than empty folders and its identity.
bool is_begun(const std::string& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!is_own_folder(entry.path()) && entry.path() != identity_file(folder)) return true;
  }
  return false;
}

/// "PATH (12345678 bytes, last written 3 min ago)"
std::string described(const std::string& folder) {
  std::uint64_t bytes = 0;
  std::time_t last = 0;
  const auto add = [&](const fs::path& path) {
    struct stat status = {};
    if (::lstat(path.c_str(), &status) != 0) return;
    last = std::max(last, status.st_mtime);
    if (S_ISREG(status.st_mode)) bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
  };
  add(folder);
  for (const auto& entry : fs::recursive_directory_iterator(folder)) add(entry.path());
  const std::time_t age = (std::time(nullptr) - last) / 60;
  return folder + " (" + std::to_string(bytes) + " bytes, last written " +
         std::to_string(std::max<std::time_t>(age, 0)) + " min ago)";
}

/// A unit that is the whole target is one folder of files: what holds folders may be the root of a
/// run's iterations, the output of a training, or anything.
void check_replaceable(const Staging& staging) {
  if (staging.unit != staging.root || !is_own_folder(staging.unit)) return;
  for (const auto& entry : fs::directory_iterator(staging.unit)) {
    // .cache: what downloading from the Hub leaves.
    if (!is_own_folder(entry.path()) || entry.path().filename() == ".cache") continue;
    throw Error(Kind::usage, staging.unit + ": holds the folder " +
                                 entry.path().filename().string() +
                                 ", no part of what would be written: --overwrite does not replace "
                                 "it; remove it, or name another target");
  }
}

}  // namespace

Staging plan_staging(const std::string& target_path, const Target& target,
                     const std::string& source_path) {
  // The user's own links are followed above the unit, which is renamed and removed as it is named.
  const bool is_root = target.unit == ".";
  const fs::path root = is_root ? named(target_path) : resolved(target_path);
  const fs::path unit = is_root ? root : root / target.unit;
  if (!source_path.empty()) {
    const fs::path source = resolved(source_path);
    for (const fs::path& path : {unit, resolved(unit)}) {
      if (is_inside(path, source) || is_inside(source, path)) {
        throw Error(Kind::usage, unit.string() + ": source " + source.string() +
                                     " and target lie in one another");
      }
    }
  }
  for (const fs::path& path : {root, unit}) {
    if (fs::exists(path) && !fs::is_directory(path) && !is_link(path)) {
      throw Error(Kind::usage, path.string() + ": is a file, wanted a folder or a new name");
    }
  }
  if (unit != root && fs::exists(root) && holds_checkpoint(root.string())) {
    throw Error(Kind::usage, root.string() + ": holds a checkpoint of its own, " +
                                 unit.filename().string() + " cannot lie in it: name another " +
                                 "folder");
  }
  if (!target.tracker.empty()) old_tracker((root / target.tracker).string());
  const auto ticks = std::chrono::system_clock::now().time_since_epoch().count();
  const std::string id = std::to_string(::getpid()) + "-" + std::to_string(ticks);
  Staging staging{prefix_of(unit) + id, unit.string(), root.string()};
  for (fs::path above = unit.parent_path(); !fs::exists(above); above = above.parent_path()) {
    ++staging.new_parents;
  }
  return staging;
}

void check_place(const Staging& staging, bool overwrite) {
  if (overwrite) return check_replaceable(staging);
  if (is_link(staging.unit)) {
    throw Error(
        Kind::usage,
        staging.unit + ": is a link; --overwrite replaces the link, not what " + "it leads to");
  }
  if (!fs::exists(staging.unit) || is_empty_folder(staging.unit)) return;
  const bool converted = fs::exists(fs::path(staging.unit) / manifest_name);
  throw Error(Kind::usage,
              staging.unit +
                  (converted ? ": was converted, but without a proof or by another "
                               "reshard, or the options, the source or a file of it have "
                               "changed since"
                             : ": exists and is not empty") +
                  "; --overwrite replaces it");
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
    const bool is_made = fs::create_directory(folder, error);
    if (error) fail(folder, error);
    if (!is_made) fail(folder, std::make_error_code(std::errc::file_exists));
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
    if (!name.starts_with(prefix.filename().string()) || !is_own_folder(entry.path())) continue;
    const std::string folder = entry.path().string();
    Abandoned one{folder, "", is_begun(folder), false, described(folder)};
    if (is_own_folder(one.folder + "/journal") && fs::exists(identity_file(one.folder))) {
      const std::string text = read_text(identity_file(one.folder), std::uint64_t{64} << 20);
      const std::size_t line = text.find('\n');
      const std::string made = text.substr(0, line);
      if (line != std::string::npos) one.identity = text.substr(line + 1);
      one.published = std::to_string(inode(staging.unit)) == made;
      if (!one.published && std::to_string(inode(one.folder + "/unit")) != made) one.identity = "";
    }
    found.push_back(std::move(one));
  }
  return found;
}

void write_manifest(const Staging& staging, const std::string& text) {
  const std::string path = staging.tree() + "/" + std::string(manifest_name);
  write_text(path, text);
  File::open_write(path).sync();
  if (read_text(path, text.size()) != text) {
    throw Error(Kind::verification, path + ": does not hold what was written");
  }
}

void publish_tree(const Staging& staging, bool overwrite) {
  for (const auto& entry : fs::recursive_directory_iterator(staging.tree())) {
    if (is_own_folder(entry.path())) sync_folder(entry.path().string());
  }
  sync_folder(staging.tree());
  const fs::path parent = fs::path(staging.unit).parent_path();
  if (is_link(staging.unit) || (fs::exists(staging.unit) && !is_empty_folder(staging.unit))) {
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
  const auto old = old_tracker(tracker.string()), mine = iteration_in(target.tracker_content);
  if (old && mine && *old > *mine) {
    return tracker.string() + " names the later iteration " + std::to_string(*old) +
           " and was left so";
  }
  if (old.value_or(0) > 0 && !mine) {
    return tracker.string() + " names iteration " + std::to_string(*old) +
           " and was left so: it must say " + target.tracker_content + " for a run to load that";
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

void discard_parents(const Staging& staging) noexcept {
  fs::path above = fs::path(staging.folder).parent_path();
  for (std::uint64_t n = 0; n < staging.new_parents; ++n, above = above.parent_path()) {
    ::rmdir(above.c_str());  // which fails unless it is empty
  }
}

}  // namespace reshard::formats
