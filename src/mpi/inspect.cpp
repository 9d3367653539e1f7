#include "mpi/inspect.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/buffer.hpp"
#include "core/transform.hpp"
#include "formats/canonical_reader.hpp"
#include "formats/container/safetensors.hpp"
#include "formats/container/torch_file.hpp"
#include "formats/container/torch_legacy.hpp"
#include "formats/file.hpp"

namespace reshard::mpi {
namespace {

namespace fs = std::filesystem;

/// Files below a path that may hold tensors, by their endings; a single file is taken as it is.
std::vector<fs::path> candidates(const fs::path& path) {
  if (fs::is_regular_file(path)) return {path};
  std::vector<fs::path> files;
  if (!fs::is_directory(path)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    const std::string ending = entry.path().extension().string();
    const bool fits = ending == ".safetensors" || ending == ".pt" || ending == ".bin" ||
                      ending == ".pth" || ending == ".ckpt" || ending == ".distcp" ||
                      ending == ".pkl" || entry.path().filename() == ".metadata";
    if (fits && entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// A pickle without torch around it.
formats::FileIndex read_plain_pickle(const formats::ByteSource& source, const std::string& name) {
  const formats::PickleLimits limits;
  return with_context(name, [&] {
    if (source.size > limits.bytes) throw Error(Kind::input, "too large for a pickle");
    const std::string bytes = formats::read_bytes(source, 0, source.size, "pickle");
    return formats::FileIndex{name,
                              "pickle",
                              source.size,
                              {},
                              formats::read_pickle(std::as_bytes(std::span(bytes))).value};
  });
}

formats::FileIndex read_any(const fs::path& path, const std::string& name) {
  const formats::File file = formats::File::open_read(path.string());
  const formats::ByteSource source = source_of(file);
  if (path.extension() == ".safetensors") return formats::read_safetensors(source, name);
  const std::string head =
      formats::read_bytes(source, 0, std::min<std::uint64_t>(source.size, 16), "begin");
  const bool plain_pickle = head.starts_with('\x80') && !formats::is_torch_legacy(head);
  return plain_pickle ? read_plain_pickle(source, name) : formats::read_torch_file(source, name);
}

/// The files that some container reads; what the others say goes to the problems.
void read_files(const std::string& root, InspectReport& report) {
  constexpr std::size_t most = 10'000;
  const bool whole = fs::is_directory(root);
  std::vector<fs::path> paths = candidates(root);
  if (paths.size() > most) {
    report.problems.push_back("only " + std::to_string(most) + " of " +
                              std::to_string(paths.size()) + " files are looked at");
    paths.resize(most);
  }
  for (const fs::path& path : paths) {
    const std::string name =
        whole ? path.lexically_relative(root).string() : path.filename().string();
    try {
      report.indices.push_back(read_any(path, name));
    } catch (const Error& error) {
      report.problems.emplace_back(error.what());
    }
  }
}

/// Collective. What to show of a path that is no checkpoint: rank 0 looks for files.
void inspect_files(const Comm& comm, const formats::SourceOptions& options, const Error& failure,
                   InspectReport& report) {
  agree(comm, "inspect", [&] {
    report.failure = failure.what();
    if (comm.rank() != 0) return;
    read_files(options.path, report);
    if (!report.indices.empty()) return;
    const bool is_told = report.problems.empty() ||
                         report.failure.find(report.problems.front()) != std::string::npos;
    throw is_told ? failure : failure.in(report.problems.front());
  });
}

void add_values(std::span<const float> values, TensorStatistics& s) {
  for (const float value : values) {
    if (std::isnan(value)) {
      ++s.nans;
    } else if (std::isinf(value)) {
      ++s.infinities;
    } else {
      const auto wide = static_cast<double>(value);
      s.least = s.finite == 0 ? wide : std::min(s.least, wide);
      s.most = s.finite == 0 ? wide : std::max(s.most, wide);
      s.sum += wide;
      ++s.finite;
    }
  }
}

void merge(const TensorStatistics& from, TensorStatistics& to) {
  if (from.finite != 0) {
    to.least = to.finite == 0 ? from.least : std::min(to.least, from.least);
    to.most = to.finite == 0 ? from.most : std::max(to.most, from.most);
  }
  to.sum += from.sum;
  to.finite += from.finite;
  to.nans += from.nans;
  to.infinities += from.infinities;
}

/// This rank's tiles of all tensors.
std::vector<TensorStatistics> statistics_of(const Comm& comm, const formats::Source& source) {
  constexpr std::uint64_t tile_bytes = std::uint64_t{4} << 20;
  std::vector<TensorStatistics> all(source.model.tensors().size());
  formats::CanonicalReader reader(source);
  Buffer buffer;
  std::vector<float> values;
  std::uint64_t turn = 0;
  const auto size = static_cast<std::uint64_t>(comm.size());
  for (std::uint32_t t = 0; t < all.size(); ++t) {
    const Dtype dtype = source.dtypes[t];
    const std::uint64_t width = bytes(dtype);
    for (const Box& box : formats::cut_box(formats::whole(source.model[t]), tile_bytes / width)) {
      if (turn++ % size != static_cast<std::uint64_t>(comm.rank())) continue;
      const std::span<std::byte> raw = buffer.take(box.elements() * width);
      reader.read(t, box, raw);
      values.resize(box.elements());
      auto* to = reinterpret_cast<std::byte*>(values.data());
      cast(to, Dtype::f32, raw.data(), dtype, values.size());
      if (source.adds[t] != 0) add_constant(to, Dtype::f32, values.size(), -source.adds[t]);
      add_values(values, all[t]);
    }
  }
  return all;
}

/// Collective. All ranks' statistics, merged in the order of ranks.
std::vector<TensorStatistics> gather(const Comm& comm, const std::vector<TensorStatistics>& mine) {
  static_assert(std::is_trivially_copyable_v<TensorStatistics>);
  const std::string text(reinterpret_cast<const char*>(mine.data()),
                         mine.size() * sizeof(TensorStatistics));
  std::vector<TensorStatistics> all(mine.size()), theirs(mine.size());
  for (const std::string& packed : gather_all(comm, text)) {
    std::copy_n(packed.data(), packed.size(), reinterpret_cast<char*>(theirs.data()));
    for (std::size_t t = 0; t < all.size(); ++t) merge(theirs[t], all[t]);
  }
  return all;
}

}  // namespace

InspectReport inspect(const Comm& comm, const formats::SourceOptions& options, bool statistics) {
  InspectReport report;
  try {
    Headers headers = read_headers(comm, options);
    report.indices = std::move(headers.indices);
    agree(comm, "index", [&] {
      formats::Problems problems;
      report.source = formats::dialect_named(headers.found.dialect)
                          .open(headers.found, report.indices, options, problems);
      report.problems = problems.texts();
      find_replicas(report.source->pieces);
    });
  } catch (const Error& error) {  // the same on all ranks
    if (error.kind() != Kind::input && error.kind() != Kind::incomplete) throw;
    report = {};
    inspect_files(comm, options, error, report);
  }
  if (!statistics || !report.source) return report;
  std::vector<TensorStatistics> mine;
  agree(comm, "statistics", [&] { mine = statistics_of(comm, *report.source); });
  report.statistics = gather(comm, mine);
  return report;
}

}  // namespace reshard::mpi
