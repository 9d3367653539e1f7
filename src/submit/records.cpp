#include "submit/records.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "core/checked_json.hpp"
#include "core/digest.hpp"
#include "core/error.hpp"
#include "formats/file.hpp"
#include "formats/lock.hpp"
#include "formats/manifest.hpp"

namespace reshard::submit {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t largest = std::uint64_t{256} << 20;

/// The objects of a file's lines; of a file that is not there none.
std::vector<Json> read_lines(const std::string& path) {
  std::vector<Json> lines;
  formats::require_file(path);
  if (!fs::exists(path)) return lines;
  const std::string text = formats::read_text(path, largest);
  std::size_t begin = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (line.empty()) continue;
    lines.push_back(with_context(path + ": line " + std::to_string(lines.size() + 1), [&] {
      Json json = json_of_text(line);
      if (!json.is_object()) throw Error(Kind::input, "not an object");
      return json;
    }));
  }
  return lines;
}

/// Adds a line, in the place of one that a writer before has not ended. Under a lock.
void append_line(const std::string& path, const Json& json) {
  formats::require_file(path);
  const bool is_there = fs::exists(path);
  const std::string text = is_there ? formats::read_text(path, largest) : "";
  const std::string line = json.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n";
  const formats::File file =
      is_there ? formats::File::open_write(path) : formats::File::create(path);
  const std::uint64_t end = text.rfind('\n') + 1;  // 0 where there is none
  file.resize(end);
  file.write_at(end, std::as_bytes(std::span(line)));
  file.sync();
}

template <class Value>
Value value_of(const Json& json, const char* key, const Value& other) {
  try {
    return json.value(key, other);
  } catch (const Json::exception&) {
    throw Error(Kind::input, std::string(key) + ": not what was wanted");
  }
}

}  // namespace

std::vector<JobRecord> read_jobs(const std::string& save) {
  const std::string path = save + "/" + jobs_name;
  return with_context(path, [&] {
    std::vector<JobRecord> records;
    for (const Json& json : read_lines(path)) {
      JobRecord record;
      record.job = value_of(json, "job", record.job);
      record.run = value_of(json, "run", record.run);
      record.logs = value_of(json, "logs", record.logs);
      record.name = value_of(json, "name", record.name);
      record.is_array = value_of(json, "array", false);
      record.targets = value_of(json, "targets", record.targets);
      record.root = value_of(json, "root", record.root);
      record.wish = value_of(json, "wish", record.wish);
      records.push_back(std::move(record));
    }
    return records;
  });
}

void append_job(const std::string& save, const JobRecord& record) {
  append_line(save + "/" + jobs_name, {{"job", record.job},
                                       {"run", record.run},
                                       {"logs", record.logs},
                                       {"name", record.name},
                                       {"array", record.is_array},
                                       {"targets", record.targets},
                                       {"root", record.root},
                                       {"wish", record.wish}});
}

std::string digest_of_unit(const std::string& unit) {
  std::string found;
  const formats::Manifest manifest = formats::find_manifest(unit, found);
  if (!manifest.proven) return "";
  std::vector<std::string> lines;
  for (const formats::Manifest::Role& role : manifest.tensors) {
    if (role.digest) lines.push_back(role.role + " " + role.digest->hex() + "\n");
  }
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const std::string& line : lines) text += line;
  return digest_run(std::as_bytes(std::span(text)), 1, 0).hex();
}

void append_index(const std::string& path, const IndexEntry& entry) {
  const formats::Lock lock(path + ".lock", std::chrono::seconds(60));
  bool is_said = false;
  for (const Json& json : read_lines(path)) {
    if (value_of<std::string>(json, "target", "") != entry.target) continue;
    is_said = value_of<std::string>(json, "digest", "") == entry.digest;
  }
  if (is_said) return;
  append_line(path, {{"source", entry.source},
                     {"target", entry.target},
                     {"iteration", entry.iteration ? Json(*entry.iteration) : Json(nullptr)},
                     {"digest", entry.digest},
                     {"seconds", entry.seconds},
                     {"bytes", entry.bytes}});
}

}  // namespace reshard::submit
