#include "mpi/prepare.hpp"

#include <filesystem>

#include "formats/dialect/rows.hpp"
#include "mpi/identity.hpp"
#include "mpi/manifest.hpp"
#include "mpi/open_source.hpp"
#include "mpi/replicas.hpp"
#include "mpi/staged_target.hpp"

namespace reshard::mpi {
namespace {

/// Error(usage) when weights of the source lie in the unit that would be replaced.
void check_apart(const Prepared& p) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(fs::symlink_status(p.staging.unit))) return;
  const std::string unit = fs::weakly_canonical(p.staging.unit).string() + "/";
  for (const SourceFile& file : p.geometry.sources) {
    if (!file.content.empty() || file.chunks) continue;
    const fs::path path = fs::path(p.source.found.unit) / file.path;
    if (!fs::weakly_canonical(path).string().starts_with(unit)) continue;
    throw Error(Kind::usage, path.string() + ": lies in " + p.staging.unit +
                                 " by a link, which --overwrite would replace");
  }
}

}  // namespace

Prepared prepare(const Comm& comm, const Wish& wish,
                 const std::function<void(const std::string&)>& done) {
  Prepared p;
  formats::Problems problems;
  p.source = open_source(comm, wish.source, problems);
  done("index");
  agree(comm, "describe", [&] {
    problems.raise();
    formats::check_options(wish.source, wish.target, p.source.found.dialect);
  });
  if (wish.source.average_replicas) average_replicas(comm, p.source);
  agree(comm, "describe", [&] {
    p.target = formats::dialect_named(wish.target.to).describe(p.source, wish.target, problems);
    problems.raise();
    for (const formats::FileDescription& file : p.target.files) {
      p.layouts.push_back(formats::layout_of(file));
    }
    p.geometry = formats::make_geometry(p.source, p.target, p.layouts);
  });
  // A file as source leaves the rest of its folder free.
  const bool is_file = std::filesystem::is_regular_file(wish.source.path);
  p.staging = agree_on_staging(comm, wish.target.path, p.target,
                               is_file ? wish.source.path : p.source.found.unit);
  p.stamps = stamps_of(comm, p);
  if (wish.overwrite) {
    agree(comm, "describe", [&] {
      if (comm.rank() == 0) check_apart(p);
    });
  }
  const Earlier earlier = wish.overwrite ? Earlier::other : earlier_conversion(comm, p, wish);
  p.is_converted = earlier != Earlier::other;
  if (earlier == Earlier::doubtful) {
    p.source.warnings.push_back(
        p.source.found.unit +
        ": files were put there, renamed or given other rights after the conversion, though last "
        "written before: compare with --manifest tells whether they hold the same numbers");
  }
  agree(comm, "describe", [&] {
    const bool may_be_there = wish.resume || p.is_converted;
    if (comm.rank() == 0 && !may_be_there) formats::check_place(p.staging, wish.overwrite);
  });
  done("describe");
  return p;
}

ConversionFacts facts_of(const Prepared& p, const Wish& wish) {
  ConversionFacts facts;
  facts.from = p.source.found.dialect;
  facts.to = wish.target.to;
  facts.family = p.source.model_type;
  facts.unit = p.staging.unit;
  facts.already = p.is_converted;
  facts.source_parallelism = p.source.parallelism;
  facts.target_parallelism = p.target.parallelism;
  facts.tensors = p.source.model.tensors().size();
  facts.parameters = formats::parameter_count(p.source.model);
  for (const TargetFile& file : p.geometry.targets) facts.target_bytes += file.bytes;
  facts.tile_bytes = p.geometry.tile_bytes;
  facts.warnings = p.source.warnings;
  facts.warnings.insert(facts.warnings.end(), p.target.warnings.begin(), p.target.warnings.end());
  facts.dropped = p.source.dropped;
  facts.notes = p.source.notes;
  facts.notes.insert(facts.notes.end(), p.target.notes.begin(), p.target.notes.end());
  return facts;
}

}  // namespace reshard::mpi
