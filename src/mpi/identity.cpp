#include "mpi/identity.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <concepts>
#include <filesystem>
#include <system_error>

#include "core/digest.hpp"

namespace reshard::mpi {
namespace {

/// Numbers and texts one behind the other, for a digest of all.
class Words {
 public:
  template <std::unsigned_integral Number>
  void add(Number number) {
    words_.push_back(number);
  }
  void add(const std::string& text) {
    add(text.size());
    const std::size_t at = words_.size();
    words_.resize(at + (text.size() + 7) / 8, 0);
    text.copy(reinterpret_cast<char*>(&words_[at]), text.size());
  }
  void add(const Dims& dims) {
    add(dims.size());
    for (const std::uint64_t n : dims) add(n);
  }
  void add(const Placement& p) {
    add(p.tensor);
    add(p.box.offset);
    add(p.box.extent);
    add(p.offset);
    add(p.stride);
  }
  void add(double value) { add(std::to_string(value)); }
  [[nodiscard]] std::string digest() const {
    return digest_run(std::as_bytes(std::span(words_)), 8, 0).hex() + "-" +
           std::to_string(words_.size());
  }

 private:
  std::vector<std::uint64_t> words_;
};

void add_source(const Geometry& geometry, Words& words) {
  for (const SourceFile& file : geometry.sources) {
    words.add(file.path);
    words.add(std::string(reinterpret_cast<const char*>(file.content.data()), file.content.size()));
  }
  for (const SourcePiece& piece : geometry.pieces) {
    words.add(piece.placement);
    words.add(piece.file);
    words.add(piece.base);
    words.add(static_cast<std::uint64_t>(piece.dtype));
    words.add(piece.add);
  }
}

/// What is in a filtered file beside its tensors; of others the layout says it.
void add_filtered(const formats::FileDescription& file, Words& words) {
  words.add(file.packing.filter);
  words.add(file.packing.chunk_bytes);
  words.add(file.value.dump(-1, ' ', false, Json::error_handler_t::replace));
  for (const formats::FileDescription& inner : file.inner) {
    words.add(inner.path);
    words.add(inner.content);
    words.add(inner.copied_from.empty() ? "" : full_path(inner.copied_from));
    words.add(inner.copied_offset);
  }
}

void add_target(const Prepared& p, Words& words) {
  for (std::size_t f = 0; f < p.geometry.targets.size(); ++f) {
    words.add(p.geometry.targets[f].path);
    words.add(p.geometry.targets[f].bytes);
    if (p.target.files[f].is_filtered()) add_filtered(p.target.files[f], words);
    for (const formats::FileLayout::Copy& copy : p.layouts[f].copies) {
      words.add(copy.offset);
      words.add(full_path(copy.from));
      words.add(copy.from_offset);
    }
    for (const formats::FileLayout::Literal& literal : p.layouts[f].literals) {
      words.add(literal.offset);
      words.add(literal.bytes);
    }
  }
  for (const TargetTensor& tensor : p.geometry.tensors) {
    words.add(tensor.file);
    words.add(tensor.base);
    words.add(static_cast<std::uint64_t>(tensor.stored.dtype));
    words.add(static_cast<std::uint64_t>(tensor.stored.constant));
    words.add(tensor.stored.add);
    for (const Placement& placement : tensor.stored.placements) words.add(placement);
  }
}

std::vector<std::string> paths_of(const Prepared& p) {
  std::vector<std::string> paths;
  for (const SourceFile& file : p.geometry.sources) {
    if (file.content.empty() && !file.chunks)
      paths.push_back(p.source.found.unit + "/" + file.path);
  }
  for (const formats::FileLayout& layout : p.layouts) {
    for (const formats::FileLayout::Copy& copy : layout.copies) paths.push_back(copy.from);
  }
  for (const formats::FileDescription& file : p.target.files) {
    for (const formats::FileDescription& inner : file.inner) {
      const bool is_copy = file.is_filtered() && !inner.copied_from.empty();
      if (is_copy) paths.push_back(inner.copied_from);
    }
  }
  return paths;
}

}  // namespace

std::string full_path(const std::string& path) {
  return std::filesystem::weakly_canonical(std::filesystem::absolute(path)).string();
}

std::uint64_t nanoseconds(const timespec& time) {
  return static_cast<std::uint64_t>(time.tv_sec) * 1000000000U +
         static_cast<std::uint64_t>(time.tv_nsec);
}

std::vector<Stamp> stamps_of(const Comm& comm, const Prepared& prepared) {
  const std::vector<std::string> paths = paths_of(prepared);
  std::vector<std::uint64_t> numbers(3 * paths.size(), 0);
  agree(comm, "source", [&] {
    const auto ranks = static_cast<std::size_t>(comm.size());
    for (auto f = static_cast<std::size_t>(comm.rank()); f < paths.size(); f += ranks) {
      struct stat status = {};
      if (::stat(paths[f].c_str(), &status) != 0) {
        throw Error(Kind::io,
                    paths[f] + ": " + std::error_code(errno, std::generic_category()).message());
      }
      numbers[3 * f] = static_cast<std::uint64_t>(status.st_size);
      numbers[3 * f + 1] = nanoseconds(status.st_mtim);
      numbers[3 * f + 2] = nanoseconds(status.st_ctim);
    }
  });
  sum(comm, numbers);
  std::vector<Stamp> stamps;
  for (std::size_t f = 0; f < paths.size(); ++f) {
    stamps.push_back({paths[f], numbers[3 * f], numbers[3 * f + 1], numbers[3 * f + 2]});
  }
  return stamps;
}

std::string movement_of(const Prepared& prepared) {
  Words words;
  add_source(prepared.geometry, words);
  add_target(prepared, words);
  return words.digest();
}

std::string identity_of(const Prepared& prepared) {
  const std::string inside = prepared.source.found.unit + "/";
  const std::string unit = full_path(prepared.source.found.unit) + "/";
  Json source = Json::array();
  for (const Stamp& stamp : prepared.stamps) {
    const bool is_inside = stamp.path.starts_with(inside);
    source.push_back({is_inside ? unit + stamp.path.substr(inside.size()) : full_path(stamp.path),
                      stamp.bytes, stamp.changed, stamp.placed});
  }
  return Json({{"source", source},
               {"movement", movement_of(prepared)},
               {"tile_bytes", prepared.geometry.tile_bytes}})
      .dump(-1, ' ', false, Json::error_handler_t::replace);  // names need not be UTF-8
}

void check_unchanged(const std::vector<Stamp>& before, const std::vector<Stamp>& after) {
  for (std::size_t f = 0; f < before.size(); ++f) {
    if (before[f] == after[f]) continue;
    const std::string what = before[f].bytes == after[f].bytes
                                 ? "its time of change is another"
                                 : std::to_string(before[f].bytes) + " bytes before, " +
                                       std::to_string(after[f].bytes) + " now";
    throw Error(Kind::input, before[f].path + ": was changed while it was read (" + what + ")");
  }
}

}  // namespace reshard::mpi
