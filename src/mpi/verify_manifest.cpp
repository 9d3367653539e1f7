#include "mpi/verify_manifest.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <random>
#include <set>

#include "core/buffer.hpp"
#include "core/parallel.hpp"
#include "families/pattern.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/file.hpp"
#include "formats/manifest.hpp"
#include "mpi/verify.hpp"

namespace reshard::mpi {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t part_bytes = std::uint64_t{4} << 20;

/// JSON text; names of files need not be UTF-8.
std::string dumped(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Bytes of one file that are read at once.
struct Part {
  std::size_t file = 0;
  ByteRange range;
};

/// Which tensors are to be read, by number.
std::vector<bool> chosen(const formats::FileSums& sums, std::size_t tensors,
                         const ProofOptions& options) {
  std::vector<bool> wanted(tensors, !options.sample);
  if (!options.sample) return wanted;
  std::vector<std::uint64_t> sizes;
  for (const formats::FileExtents& file : sums.files()) {
    const std::size_t begin = sizes.size();
    sizes.resize(begin + file.tensors);
    for (const formats::FileExtents::Part& part : file.parts) {
      sizes[begin + part.tensor] += part.range.size();
    }
  }
  const double all = static_cast<double>(std::accumulate(sizes.begin(), sizes.end(), 0.0));
  std::vector<std::size_t> order(tensors);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937_64 random(options.seed);
  for (std::size_t i = tensors; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  double taken = 0;
  for (const std::size_t t : order) {
    if (taken >= all * *options.sample) break;
    wanted[t] = true;
    taken += static_cast<double>(sizes[t]);
  }
  return wanted;
}

/// The parts that cover all bytes of a file but those of tensors that are not wanted.
void add_parts(const formats::FileSums& sums, std::size_t file, const std::vector<bool>& wanted,
               std::vector<Part>& parts) {
  const formats::FileExtents& extents = sums.files()[file];
  const auto add = [&](std::uint64_t first, std::uint64_t last) {
    for (; first < last; first += part_bytes) {
      parts.push_back({file, {first, std::min(last, first + part_bytes)}});
    }
  };
  std::uint64_t begin = 0;
  for (const formats::FileExtents::Part& part : extents.parts) {
    if (wanted[sums.first_tensor(file) + part.tensor]) continue;
    add(begin, part.range.first);
    begin = part.range.last;
  }
  add(begin, extents.bytes);
}

/// Files that are not there or not of their size; the others are to be read.
std::vector<bool> readable_files(const std::string& unit, const formats::Manifest& manifest,
                                 std::vector<std::string>& findings) {
  std::vector<bool> readable(manifest.files.size(), false);
  for (std::size_t f = 0; f < manifest.files.size(); ++f) {
    const formats::Manifest::File& file = manifest.files[f];
    const fs::path path = fs::path(unit) / file.path;
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) {
      const bool is_there = fs::exists(fs::symlink_status(path, ignored));
      findings.push_back(file.path + (is_there ? ": is no file" : ": is missing"));
    } else if (fs::file_size(path) != file.bytes) {
      findings.push_back(file.path + ": has " + std::to_string(fs::file_size(path)) +
                         " bytes, wanted " + std::to_string(file.bytes));
    } else {
      readable[f] = true;
    }
  }
  return readable;
}

/// Whether a loader may take a file for a part of a checkpoint, whatever the format of the rest:
/// by its name, in a folder of the checkpoint or in one of a rank.
bool may_be_loaded(const fs::path& path, const std::set<fs::path>& folders) {
  constexpr std::array patterns = {
      "*.safetensors", "pytorch_model*.bin", "*.pt",      "*.h5",          "*.hdf5",
      "*.distcp",      "*.index.json",       "adapter_*", "metadata.json", ".metadata"};
  const std::string name = path.filename().string();
  const bool is_near =
      folders.count(path.parent_path()) != 0 || path.begin()->string().starts_with("mp_rank_");
  return is_near && std::any_of(patterns.begin(), patterns.end(), [&](const char* pattern) {
           return families::matches(pattern, name);
         });
}

/// What lies beside the files of the manifest: a finding where a loader may take it for part of
/// the checkpoint.
void look_beside(const std::string& unit, const formats::Manifest& manifest, ProofReport& report) {
  std::set<fs::path> known = {fs::path(formats::manifest_name)};
  std::set<fs::path> folders = {fs::path()};
  for (const formats::Manifest::File& file : manifest.files) {
    known.insert(file.path);
    folders.insert(fs::path(file.path).parent_path());
  }
  constexpr auto options = fs::directory_options::skip_permission_denied;
  for (const auto& entry : fs::recursive_directory_iterator(unit, options)) {
    const fs::path path = entry.path().lexically_relative(unit);
    std::error_code ignored;
    const bool is_link = fs::is_symlink(entry.symlink_status(ignored));
    const bool is_folder = entry.is_directory(ignored);
    if (known.count(path) != 0) continue;
    if (is_folder && !is_link) {
      if (::access(entry.path().c_str(), R_OK | X_OK) == 0) continue;
      report.notes.push_back(path.string() + " is a folder that cannot be looked into");
    } else if (is_folder) {
      report.findings.push_back(path.string() +
                                ": is a link to a folder, no part of the conversion");
    } else if (may_be_loaded(path, folders)) {
      report.findings.push_back(path.string() + ": is no file of the conversion");
    } else {
      report.notes.push_back(path.string() + " is no file of the conversion and was not looked at");
    }
  }
}

/// The folders that a tracker's text may mean; "_all_dp" ends those of Merak's data parallel runs.
std::vector<std::string> units_of(const std::string& text) {
  const bool is_number = !text.empty() && text.size() < 19 &&
                         text.find_first_not_of("0123456789") == std::string::npos;
  const std::string iteration =
      formats::iteration_folder(is_number ? std::stoull(text) : std::uint64_t{0});
  if (is_number) return {iteration, iteration + "_all_dp", "global_step" + text};
  if (text == "release") return {text, iteration + "_all_dp"};
  return {text};
}

/// Where the folder above a unit was named: what its tracker says, which loaders follow.
void look_above(const std::string& named, const std::string& unit, ProofReport& report) {
  std::error_code ignored;
  if (fs::equivalent(named, unit, ignored)) return;
  const std::string name = fs::path(unit).filename().string();
  for (const char* tracker : {"latest_checkpointed_iteration.txt", "latest"}) {
    const fs::path path = fs::path(named) / tracker;
    if (!fs::is_regular_file(path, ignored)) continue;
    constexpr std::uint64_t most = 4096;
    std::string text = formats::read_text(path.string(), most);
    text.erase(std::min(text.find_last_not_of(" \n\r\t") + 1, text.size()));
    const std::vector<std::string> units = units_of(text);
    if (std::find(units.begin(), units.end(), name) != units.end()) continue;
    const bool is_there = std::any_of(units.begin(), units.end(), [&](const std::string& other) {
      return !other.empty() && fs::is_directory(fs::path(named) / other, ignored);
    });
    const std::string line = std::string(tracker) + ": names '" + text + "', not " + name +
                             ", the one conversion that is there";
    (is_there ? report.notes : report.findings).push_back(line);
  }
}

/// Reads this rank's parts and sums what they hold.
formats::ByteSums read_parts(const Comm& comm, const std::string& unit,
                             const formats::Manifest& manifest, const formats::FileSums& files,
                             const std::vector<Part>& parts, const ProofOptions& options) {
  const auto rank = static_cast<std::uint64_t>(comm.rank());
  const auto ranks = static_cast<std::uint64_t>(comm.size());
  const std::uint64_t first = parts.size() * rank / ranks;
  const std::uint64_t count = parts.size() * (rank + 1) / ranks - first;
  const std::uint64_t threads = std::max<std::uint64_t>(options.io_threads, 1);
  std::mutex one;
  std::uint64_t done = 0, all = 0;
  for (std::uint64_t i = 0; i < count; ++i) all += parts[first + i].range.size();
  formats::ByteSums sums = files.none();
  for_each(threads, threads, [&](std::uint64_t thread) {
    formats::ByteSums mine = files.none();
    Buffer buffer;
    std::optional<formats::File> file;
    std::size_t number = files.files().size();
    const std::uint64_t end = first + count * (thread + 1) / threads;
    for (std::uint64_t i = first + count * thread / threads; i < end; ++i) {
      options.check_stop();
      const Part& part = parts[i];
      if (number != part.file) {
        file = formats::File::open_read(unit + "/" + manifest.files[part.file].path);
      }
      number = part.file;
      const std::span<std::byte> bytes = buffer.take(part.range.size());
      file->read_at(part.range.first, bytes);
      files.add(part.file, part.range.first, bytes, mine);
      const std::lock_guard lock(one);
      done += bytes.size();
      if (rank == 0 && options.progress) options.progress(done, all);
    }
    const std::lock_guard lock(one);
    sums += mine;
  });
  return sums;
}

/// What the sums of readable files say.
void judge(const formats::Manifest& manifest, const formats::FileSums& files,
           const std::vector<bool>& readable, const std::vector<bool>& wanted,
           const formats::ByteSums& sums, ProofReport& report) {
  for (std::size_t f = 0; f < manifest.files.size(); ++f) {
    const formats::Manifest::File& file = manifest.files[f];
    if (!readable[f]) continue;
    if (sums.others[f] != file.others) {
      report.findings.push_back(file.path + (file.tensors.empty()
                                                 ? ": its bytes are not those that were written"
                                                 : ": bytes of its header, padding or trailer are "
                                                   "not those that were written"));
    }
    for (std::size_t t = 0; t < file.tensors.size(); ++t) {
      const formats::Manifest::Tensor& tensor = file.tensors[t];
      const std::size_t number = files.first_tensor(f) + t;
      if (!wanted[number]) continue;
      ++report.tensors_read;
      if (sums.tensors[number] == tensor.digest) continue;
      std::string roles;
      for (const std::string& role : tensor.roles) roles += (roles.empty() ? "" : ", ") + role;
      report.findings.push_back(file.path + ": " + tensor.name +
                                (roles.empty() ? "" : " (" + roles + ")") + ": has the digest " +
                                sums.tensors[number].hex() + ", wanted " + tensor.digest.hex());
    }
  }
}

}  // namespace

ProofReport verify_manifest(const Comm& comm, const ProofOptions& options) {
  ProofReport report;
  std::string text;
  agree(comm, "manifest", [&] {
    if (comm.rank() != 0) return;
    const formats::Manifest manifest = formats::find_manifest(options.path, report.unit);
    if (!manifest.proven) {
      throw Error(Kind::input, report.unit + ": was converted with --no-verify, its manifest " +
                                   "holds no digests");
    }
    std::vector<std::string> findings;
    const std::vector<bool> readable = readable_files(report.unit, manifest, findings);
    text = dumped({report.unit, manifest_text(manifest), findings, readable});
  });
  const Json shared = Json::parse(broadcast(comm, text, 0));
  report.unit = shared[0].get<std::string>();
  formats::Manifest manifest;
  std::vector<Part> parts;
  std::optional<formats::FileSums> files;
  std::vector<bool> wanted;
  const auto readable = shared[3].get<std::vector<bool>>();
  formats::ByteSums sums;
  agree(comm, "verify", [&] {
    manifest = formats::read_manifest(shared[1].get<std::string>(), report.unit);
    report.findings = shared[2].get<std::vector<std::string>>();
    files.emplace(extents_of(manifest));
    sums = files->none();
    wanted = chosen(*files, sums.tensors.size(), options);
    for (std::size_t f = 0; f < manifest.files.size(); ++f) {
      report.bytes += manifest.files[f].bytes;
      if (readable[f]) add_parts(*files, f, wanted, parts);
    }
    for (const Part& part : parts) report.bytes_read += part.range.size();
    sums = read_parts(comm, report.unit, manifest, *files, parts, options);
  });
  report.files = manifest.files.size();
  report.tensors = sums.tensors.size();
  sum(comm, sums);
  judge(manifest, *files, readable, wanted, sums, report);
  agree(comm, "verify", [&] {
    if (comm.rank() == 0) {
      look_beside(report.unit, manifest, report);
      look_above(options.path, report.unit, report);
      std::sort(report.findings.begin(), report.findings.end());
      std::sort(report.notes.begin(), report.notes.end());
    }
    text = dumped({report.findings, report.notes});
  });
  const Json all = Json::parse(broadcast(comm, text, 0));
  report.findings = all[0].get<std::vector<std::string>>();
  report.notes = all[1].get<std::vector<std::string>>();
  return report;
}

}  // namespace reshard::mpi
