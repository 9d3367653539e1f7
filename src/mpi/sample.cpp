#include "mpi/sample.hpp"

#include <algorithm>
#include <utility>

#include "core/buffer.hpp"
#include "core/error.hpp"
#include "formats/container/crc32.hpp"
#include "formats/dialect/dialect.hpp"
#include "formats/file.hpp"
#include "mpi/staged_target.hpp"

namespace reshard::mpi {
namespace {

/// A target with nothing to read.
struct Described {
  formats::Source source;
  formats::Target target;
  std::vector<formats::FileLayout> layouts;
  Geometry geometry;
};

Described describe(const SampleOptions& options) {
  Described d;
  formats::Problems problems;
  formats::SampleOptions model = options.model;
  if (options.target.dtype) model.hyperparameters["dtype"] = torch_name(*options.target.dtype);
  d.source = formats::sample_source(model);
  formats::check_options({}, options.target, "");
  if (!options.target.hdf5_filter.empty() && options.target.hdf5_filter != "none") {
    throw Error(Kind::usage, "--hdf5-filter: a sample is written without, convert it");
  }
  d.target = formats::dialect_named(options.target.to).describe(d.source, options.target, problems);
  problems.raise();
  for (const formats::FileDescription& file : d.target.files) {
    d.layouts.push_back(formats::layout_of(file));
  }
  d.geometry = formats::make_geometry(d.source, d.target, d.layouts);
  if (options.tile_bytes != 0) d.geometry.tile_bytes = options.tile_bytes;
  return d;
}

/// Part [first, last) of `all` that belongs to a rank.
std::pair<std::uint64_t, std::uint64_t> share(const Comm& comm, std::uint64_t all) {
  const auto rank = static_cast<std::uint64_t>(comm.rank());
  const auto ranks = static_cast<std::uint64_t>(comm.size());
  return {all * rank / ranks, all * (rank + 1) / ranks};
}

/// Collective. Fills all tiles, each by one rank; returns the checksums of all tensors.
std::vector<std::uint32_t> fill(const Comm& comm, const Geometry& geometry,
                                formats::TargetWriter& writer, const SampleOptions& options) {
  std::vector<std::uint32_t> crcs(geometry.tensors.size(), 0);
  agree(comm, "fill", [&] {
    const TileNumbers numbers(geometry);
    const auto [first, last] = share(comm, numbers.size());
    Buffer buffer;
    for (std::uint64_t number = first; number < last; ++number) {
      const Tile tile = numbers[number];
      const ByteRange range = bytes_of(geometry, tile);
      const std::span<std::byte> bytes = buffer.take(range.size());
      std::fill(bytes.begin(), bytes.end(), std::byte{0});
      writer.put_other_bytes(tile, bytes);
      formats::put_sample(geometry, tile.file, range, bytes);
      const formats::TargetWriter::TileBytes written{tile, bytes};
      writer.write({&written, 1}, crcs);
      if (comm.rank() == 0 && options.progress) {
        options.progress((number - first + 1) * geometry.tile_bytes,
                         (last - first) * geometry.tile_bytes);
      }
    }
  });
  exclusive_or(comm, crcs);
  return crcs;
}

/// CRC-32 of `count` zero bytes, without looking at them.
std::uint32_t crc32_of_zeros(std::uint64_t count) {
  std::uint32_t crc = 0;
  const std::byte zero{0};
  std::uint32_t power = formats::crc32_of({&zero, 1});  // of 2^i zeros
  for (std::uint64_t bytes = 1; bytes <= count && bytes != 0; bytes *= 2) {
    if ((count & bytes) != 0) crc = formats::crc32_shift(crc, bytes) ^ power;
    power = formats::crc32_shift(power, bytes) ^ power;
  }
  return crc;
}

/// Collective. Writes what stands around the tensors, leaves holes for them; returns the checksums.
std::vector<std::uint32_t> write_headers(const Comm& comm, const Described& d,
                                         const std::string& folder) {
  std::vector<std::uint32_t> crcs;
  agree(comm, "fill", [&] {
    for (const TargetTensor& tensor : d.geometry.tensors) {
      crcs.push_back(crc32_of_zeros(tensor.bytes));
    }
    const auto ranks = static_cast<std::size_t>(comm.size());
    for (auto f = static_cast<std::size_t>(comm.rank()); f < d.layouts.size(); f += ranks) {
      const formats::File file = formats::File::open_write(folder + "/" + d.target.files[f].path);
      for (const formats::FileLayout::Literal& literal : d.layouts[f].literals) {
        file.write_at(literal.offset, std::as_bytes(std::span(literal.bytes)));
      }
      file.sync();
    }
  });
  return crcs;
}

}  // namespace

SampleReport sample(const Comm& comm, const SampleOptions& options) {
  Described d;
  agree(comm, "describe", [&] { d = describe(options); });
  const formats::Staging staging = agree_on_staging(comm, options.target.path, d.target, "");
  std::uint64_t bytes = 0;
  for (const TargetFile& file : d.geometry.targets) bytes += file.bytes;
  StagedTarget staged(comm, staging, {d.geometry, d.target, d.layouts, "", options.overwrite});
  staged.create(options.sparse ? 0 : bytes);
  const std::vector<std::uint32_t> crcs = options.sparse
                                              ? write_headers(comm, d, staging.tree())
                                              : fill(comm, d.geometry, staged.writer(), options);
  const auto [first, last] = share(comm, TileNumbers(d.geometry).size());
  staged.seal(first, last, {crcs});

  SampleReport report{
      staging.unit, d.source.model_type, d.source.model.tensors().size(), 0, d.target.files.size(),
      bytes,        d.target.notes};
  report.notes.insert(report.notes.end(), staged.notes().begin(), staged.notes().end());
  for (const CanonicalTensor& tensor : d.source.model.tensors()) {
    report.parameters += elements(tensor.shape);
  }
  const std::string note = staged.publish();
  if (!note.empty()) report.notes.push_back(note);
  return report;
}

}  // namespace reshard::mpi
