#include "mpi/manifest.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "core/digest.hpp"
#include "core/version.hpp"
#include "formats/file.hpp"
#include "mpi/identity.hpp"
#include "mpi/verify.hpp"

namespace reshard::mpi {
namespace {

namespace fs = std::filesystem;

/// Digest of a few blocks of a file, spread over it by its size: enough to tell it from another
/// model's of the same size.
Digest sample_of(const Stamp& stamp, std::uint64_t files) {
  constexpr std::uint64_t block = 4096, most = 64, of_all = 1024;
  const std::uint64_t blocks = stamp.bytes / block;
  const std::uint64_t count = std::min(std::clamp<std::uint64_t>(of_all / files, 1, most), blocks);
  std::vector<std::byte> bytes(stamp.bytes < block ? stamp.bytes : count * block);
  const formats::File file = formats::File::open_read(stamp.path);
  if (count == 0) file.read_at(0, bytes);
  std::mt19937_64 random(stamp.bytes);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t first = blocks * i / count, last = blocks * (i + 1) / count;
    file.read_at((first + random() % (last - first)) * block,
                 std::span(bytes).subspan(i * block, block));
  }
  return digest_run(bytes, 1, 0);
}

/// Format, path, training state and files of the source, these with samples if there are any.
Json source_facts(const Prepared& p, const Wish& wish, const std::vector<Digest>& samples) {
  const std::string unit = full_path(p.source.found.unit);
  const std::string inside = p.source.found.unit + "/";
  Json files = Json::array();
  for (std::size_t f = 0; f < p.stamps.size(); ++f) {
    const Stamp& stamp = p.stamps[f];
    const bool is_inside = stamp.path.starts_with(inside);
    const std::string path = is_inside ? stamp.path.substr(inside.size()) : full_path(stamp.path);
    files.push_back({{"path", path}, {"bytes", stamp.bytes}});
    if (!samples.empty()) files.back()["sample"] = samples[f].hex();
  }
  return {{"format", p.source.found.dialect}, {"path", unit},
          {"training", p.source.training},    {"parallelism", to_json(p.source.parallelism)},
          {"options", to_json(wish.source)},  {"files", std::move(files)}};
}

Json facts_of_manifest(const Prepared& p, const Wish& wish, const std::vector<Digest>& samples) {
  return {{"reshard", version()},
          {"source", source_facts(p, wish, samples)},
          {"target",
           {{"format", wish.target.to},
            {"parallelism", to_json(p.target.parallelism)},
            {"options", to_json(wish.target)}}},
          {"model", {{"family", p.source.model_type}, {"hyperparameters", p.source.record}}}};
}

std::string name_of(Constant constant) {
  switch (constant) {
    case Constant::none:
      return "";
    case Constant::causal_mask:
      return "causal_mask";
    case Constant::positions:
      return "positions";
    case Constant::masked_score:
      return "masked_score";
  }
  return "";
}

formats::Manifest::Tensor describe(const Geometry& geometry, const TargetTensor& tensor) {
  const StoredTensor& stored = tensor.stored;
  formats::Manifest::Tensor out{.name = stored.name,
                                .dtype = stored.dtype,
                                .shape = stored.shape,
                                .offset = tensor.base,
                                .bytes = tensor.bytes,
                                .constant = name_of(stored.constant)};
  std::uint64_t covered = 0;
  for (std::size_t i = 0; i < stored.placements.size(); ++i) {
    const Placement& placement = stored.placements[i];
    const std::string& role = geometry.model[placement.tensor].role;
    if (std::find(out.roles.begin(), out.roles.end(), role) == out.roles.end()) {
      out.roles.push_back(role);
    }
    covered += placement.box.elements();
    const bool is_repeat = i + stored.repeats >= stored.placements.size();
    if (is_repeat) out.repeated += placement.box.elements();
  }
  if (stored.constant == Constant::none) out.fill = elements(stored.shape) - covered;
  return out;
}

/// Sum of digests whose boxes make up the tensor, each element once; nothing if they do not.
class Cover {
 public:
  void add(const Box& box, const Digest& digest) {
    const bool is_new = std::none_of(boxes_.begin(), boxes_.end(), [&](const Box& other) {
      return intersect(box, other).has_value();
    });
    if (!is_new) return;
    boxes_.push_back(box);
    elements_ += box.elements();
    sum_ += digest;
  }
  [[nodiscard]] std::optional<Digest> sum(const Shape& shape) const {
    return elements_ == elements(shape) ? std::optional(sum_) : std::nullopt;
  }

 private:
  std::vector<Box> boxes_;
  std::uint64_t elements_ = 0;
  Digest sum_;
};

/// When a file was last written, in ns; nothing if it is not there or has another size.
std::optional<std::uint64_t> changed(const std::string& path, std::uint64_t bytes) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) != bytes) {
    return std::nullopt;
  }
  return nanoseconds(status.st_mtim);
}

/// What a manifest would be without samples; it may be anything.
void drop_samples(Json& facts) {
  const Json::json_pointer files("/source/files");
  if (!facts.contains(files)) return;
  for (Json& file : facts[files]) {
    if (file.is_object()) file.erase("sample");
  }
}

Earlier find_earlier(const Prepared& p, const Wish& wish, const std::vector<Digest>& samples) {
  const fs::path unit = p.staging.unit;
  if (!fs::is_regular_file(unit / formats::manifest_name)) return Earlier::other;
  std::string found;
  formats::Manifest there;
  try {
    there = formats::find_manifest(unit.string(), found);
  } catch (const Error&) {
    return Earlier::other;  // then the unit is as any other that is there
  }
  Json facts = there.facts;
  if (samples.empty()) drop_samples(facts);
  const bool same = there.proven && there.movement == movement_of(p) &&
                    facts == facts_of_manifest(p, wish, samples);
  if (!same) return Earlier::other;
  std::uint64_t first = ~std::uint64_t{0};  // of the target to be written
  for (const formats::Manifest::File& file : there.files) {
    const auto time = changed((unit / file.path).string(), file.bytes);
    if (!time) return Earlier::other;
    first = std::min(first, *time);
  }
  const auto is_before = [&](std::uint64_t Stamp::*time) {
    return std::all_of(p.stamps.begin(), p.stamps.end(),
                       [&](const Stamp& stamp) { return stamp.*time < first; });
  };
  if (!is_before(&Stamp::changed)) return Earlier::other;
  return is_before(&Stamp::placed) ? Earlier::same : Earlier::doubtful;
}

}  // namespace

std::vector<formats::FileExtents> extents_of(const Geometry& geometry,
                                             const FilteredFiles& filtered) {
  std::vector<formats::FileExtents> all;
  for (std::uint32_t f = 0; f < geometry.targets.size(); ++f) {
    const auto packed = filtered.find(f);
    formats::FileExtents extents{.bytes = geometry.targets[f].bytes};
    if (packed != filtered.end()) extents.bytes = packed->second.bytes;
    for (const std::uint32_t t : geometry.targets[f].tensors) {
      const TargetTensor& tensor = geometry.tensors[t];
      if (packed != filtered.end()) {
        extents.add(packed->second.ranges_of(tensor));
      } else {
        const ByteRange range{tensor.base, tensor.base + tensor.bytes};
        extents.add({&range, 1});
      }
    }
    extents.sort();
    all.push_back(std::move(extents));
  }
  return all;
}

std::vector<Digest> samples_of(const Comm& comm, const Prepared& p) {
  std::vector<Digest> samples(p.stamps.size());
  agree(comm, "source", [&] {
    const auto ranks = static_cast<std::size_t>(comm.size());
    for (auto f = static_cast<std::size_t>(comm.rank()); f < samples.size(); f += ranks) {
      samples[f] = sample_of(p.stamps[f], samples.size());
    }
  });
  sum(comm, samples);
  return samples;
}

formats::Manifest describe_manifest(const Prepared& p, const Wish& wish,
                                    const std::vector<Digest>& samples,
                                    const FilteredFiles& filtered) {
  const Geometry& geometry = p.geometry;
  formats::Manifest manifest;
  manifest.facts = facts_of_manifest(p, wish, samples);
  manifest.movement = movement_of(p);
  for (const CanonicalTensor& tensor : geometry.model.tensors()) {
    manifest.tensors.push_back(
        {.role = tensor.role, .factors = tensor.factors, .shape = tensor.shape});
  }
  for (std::uint32_t f = 0; f < geometry.targets.size(); ++f) {
    const TargetFile& file = geometry.targets[f];
    const auto packed = filtered.find(f);
    formats::Manifest::File described{.path = file.path, .bytes = file.bytes};
    if (packed != filtered.end()) described.bytes = packed->second.bytes;
    for (const std::uint32_t t : file.tensors) {
      const TargetTensor& tensor = geometry.tensors[t];
      described.tensors.push_back(describe(geometry, tensor));
      if (packed != filtered.end()) {
        formats::Manifest::Tensor& last = described.tensors.back();
        last.chunks = packed->second.ranges_of(tensor);
        last.offset = 0;
      }
      for (const Placement& placement : tensor.stored.placements) {
        manifest.tensors[placement.tensor].dtype = tensor.stored.dtype;
        manifest.tensors[placement.tensor].add = tensor.stored.add;
      }
    }
    manifest.files.push_back(std::move(described));
  }
  for (const SourcePiece& piece : geometry.pieces) {
    manifest.tensors[piece.placement.tensor].source_dtype = piece.dtype;
    manifest.tensors[piece.placement.tensor].source_add = piece.add;
  }
  return manifest;
}

void prove(formats::Manifest& manifest, const Geometry& geometry, const Moved& moved,
           const formats::ByteSums& sums) {
  std::vector<Cover> targets(manifest.tensors.size()), sources(manifest.tensors.size());
  for (const TargetTensor& tensor : geometry.tensors) {
    for (std::size_t n = 0; n < tensor.stored.placements.size(); ++n) {
      if (!tensor.primary[n]) continue;
      const Placement& placement = tensor.stored.placements[n];
      targets[placement.tensor].add(placement.box, moved.arrived[tensor.first_placement + n]);
    }
  }
  const std::vector<bool> changed = changed_tensors(geometry);
  for (const SourcePiece& piece : geometry.pieces) {
    const std::uint32_t tensor = piece.placement.tensor;
    if (!changed[tensor] || piece.replica_of != SourcePiece::no_replica) continue;
    sources[tensor].add(piece.placement.box, moved.read[piece.original]);
  }
  for (std::size_t t = 0; t < manifest.tensors.size(); ++t) {
    formats::Manifest::Role& role = manifest.tensors[t];
    role.digest = targets[t].sum(role.shape);
    if (changed[t]) role.source_digest = sources[t].sum(role.shape);
    const bool is_whole = role.digest && (!changed[t] || role.source_digest);
    if (!is_whole && !is_padding(role.role)) {
      throw Error(Kind::internal, role.role + ": its parts do not make up the whole");
    }
  }
  std::erase_if(manifest.tensors, [](const formats::Manifest::Role& role) {
    return is_padding(role.role);  // whose rows differ from layout to layout
  });
  std::size_t number = 0;
  for (std::size_t f = 0; f < manifest.files.size(); ++f) {
    manifest.files[f].others = sums.others[f];
    for (formats::Manifest::Tensor& tensor : manifest.files[f].tensors) {
      tensor.digest = sums.tensors[number++];
    }
  }
  manifest.proven = true;
}

std::vector<bool> changed_tensors(const Geometry& geometry) {
  std::vector<bool> changed(geometry.model.tensors().size(), false);
  std::vector<const SourcePiece*> pieces(changed.size());
  for (const SourcePiece& piece : geometry.pieces) {
    const std::uint32_t tensor = piece.placement.tensor;
    if (pieces[tensor] == nullptr) pieces[tensor] = &piece;
    const SourcePiece& first = *pieces[tensor];
    if (first.dtype != piece.dtype || first.add != piece.add) changed[tensor] = true;
  }
  for (const TargetTensor& target : geometry.tensors) {
    for (const Placement& placement : target.stored.placements) {
      const SourcePiece& piece = *pieces[placement.tensor];
      if (piece.dtype != target.stored.dtype || piece.add != target.stored.add) {
        changed[placement.tensor] = true;
      }
    }
  }
  return changed;
}

Earlier earlier_conversion(const Comm& comm, const Prepared& prepared, const Wish& wish) {
  // Files are read only where all else that is known of them is the same.
  const auto find = [&](const std::vector<Digest>& samples) {
    std::uint64_t found = 0;
    agree(comm, "manifest", [&] {
      if (comm.rank() != 0) return;
      found = static_cast<std::uint64_t>(find_earlier(prepared, wish, samples));
    });
    maximum(comm, {&found, 1});
    return static_cast<Earlier>(found);
  };
  const Earlier earlier = find({});
  return earlier == Earlier::other ? earlier : find(samples_of(comm, prepared));
}

}  // namespace reshard::mpi
