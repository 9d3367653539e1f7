#include "mpi/compare_manifest.hpp"

#include <map>

#include "core/buffer.hpp"
#include "core/strides.hpp"
#include "families/line.hpp"
#include "families/record.hpp"
#include "formats/canonical_reader.hpp"
#include "formats/manifest.hpp"
#include "mpi/compare.hpp"
#include "mpi/open_source.hpp"
#include "mpi/verify.hpp"

namespace reshard::mpi {
namespace {

constexpr std::uint64_t tile_bytes = std::uint64_t{4} << 20;

/// The manifest's tensors by their roles.
using Roles = std::map<std::string, const formats::Manifest::Role*>;

/// What of a tensor is compared: where nothing tells the checkpoint's true vocabulary, the rows
/// that the manifest has, for the rest is padding.
Box compared(const formats::Source& source, const CanonicalTensor& tensor, const Roles& roles) {
  Box box = formats::whole(tensor);
  const auto role = roles.find(tensor.role);
  const bool is_told = source.config.is_object() && source.config.contains("vocab_size");
  const bool has_rows = !is_told && role != roles.end() && !tensor.factors.empty() &&
                        tensor.factors.front() == "vocab" && !role->second->shape.empty();
  if (has_rows) box.extent[0] = std::min(box.extent[0], role->second->shape[0]);
  return box;
}

/// Collective. The digest of what is compared of every canonical tensor.
std::vector<Digest> digests_of(const Comm& comm, const formats::Source& source,
                               const Roles& roles) {
  std::vector<Digest> digests(source.model.tensors().size());
  agree(comm, "compare", [&] {
    formats::CanonicalReader reader(source);
    Buffer buffer;
    int next = 0;
    for (std::uint32_t t = 0; t < digests.size(); ++t) {
      const CanonicalTensor& tensor = source.model[t];
      if (is_padding(tensor.role)) continue;
      const std::uint64_t width = bytes(source.dtypes[t]);
      const Dims canonical = strides_of(tensor);
      for (const Box& box : formats::cut_box(compared(source, tensor, roles), tile_bytes / width)) {
        if (next++ % comm.size() != comm.rank()) continue;
        const std::span<std::byte> to = buffer.take(box.elements() * width);
        reader.read(t, box, to);
        digests[t] +=
            digest_box(to.data(), width, view(box.extent), view(packed_strides(box.extent)),
                       view(canonical), element_at(box.offset, canonical));
      }
    }
  });
  sum(comm, digests);
  return digests;
}

/// The hyperparameters that the manifest has otherwise.
std::vector<std::string> differing_hyperparameters(const formats::Manifest& manifest,
                                                   const formats::Source& source) {
  const Json* told = families::find_dotted(manifest.facts, "model.hyperparameters");
  if (told == nullptr || !told->is_object()) return {"the manifest has no hyperparameters"};
  std::vector<std::string> lines;
  for (const std::string& name : families::differing_lines(source.record, *told)) {
    lines.push_back("hyperparameter " + name + ": " + source.record.at(name).dump() + ", wanted " +
                    told->at(name).dump());
  }
  return lines;
}

/// What is wrong with one tensor, or "".
std::string difference(const formats::Manifest::Role& wanted, const Shape& shape, Dtype dtype,
                       double add, const Digest& digest, RolesReport& report) {
  if (wanted.shape != shape) {
    return "shape " + to_string(shape) + ", wanted " + to_string(wanted.shape);
  }
  const bool is_target = dtype == wanted.dtype && add == wanted.add;
  const bool is_source =
      wanted.source_digest && dtype == wanted.source_dtype && add == wanted.source_add;
  if (!is_target && !is_source) {
    return "dtype " + std::string(name(dtype)) +
           (add != wanted.add ? " and another constant" : "") + ", wanted " +
           std::string(name(wanted.dtype));
  }
  ++report.tensors;
  if (is_target && digest == *wanted.digest) return "";
  if (is_source && digest == *wanted.source_digest) {
    ++report.as_source;
    return "";
  }
  return "has the digest " + digest.hex() + ", wanted " +
         (is_target ? *wanted.digest : *wanted.source_digest).hex();
}

}  // namespace

RolesReport compare_manifest(const Comm& comm, const formats::SourceOptions& options,
                             const std::string& folder) {
  RolesReport report;
  formats::Problems problems;
  formats::Source source = open_source(comm, options, problems);
  formats::Manifest manifest;
  agree(comm, "manifest", [&] {
    problems.raise();
    find_replicas(source.pieces);
    manifest = formats::find_manifest(folder, report.manifest);
    if (!manifest.proven) {
      throw Error(Kind::input, report.manifest + ": was converted with --no-verify, its manifest " +
                                   "holds no digests");
    }
  });
  report.unit = source.found.unit;
  Roles roles;
  for (const formats::Manifest::Role& role : manifest.tensors) {
    if (!is_padding(role.role)) roles[role.role] = &role;
  }
  report.findings = differing_hyperparameters(manifest, source);
  const std::vector<Digest> digests = digests_of(comm, source, roles);
  Roles left = roles;  // that the checkpoint has not
  for (std::uint32_t t = 0; t < digests.size(); ++t) {
    const CanonicalTensor& tensor = source.model[t];
    if (is_padding(tensor.role)) continue;
    const auto wanted = left.find(tensor.role);
    if (wanted == left.end()) {
      report.findings.push_back(tensor.role + ": is not in the manifest");
      continue;
    }
    const Dims shape = compared(source, tensor, roles).extent;
    if (shape.size() > 0 && shape[0] < tensor.shape[0]) {
      report.padding.push_back(tensor.role + ": " + std::to_string(tensor.shape[0] - shape[0]) +
                               " rows beyond the manifest's vocabulary");
    }
    const std::string what = difference(*wanted->second, {shape.begin(), shape.end()},
                                        source.dtypes[t], source.adds[t], digests[t], report);
    if (!what.empty()) report.findings.push_back(tensor.role + ": " + what);
    left.erase(wanted);
  }
  for (const auto& [role, wanted] : left) report.findings.push_back(role + ": is missing");
  for (std::string& line : differing_replicas(comm, source, report.replicas)) {
    report.findings.push_back(std::move(line));
  }
  return report;
}

}  // namespace reshard::mpi
