#include "mpi/hdf5_access.hpp"

#include <hdf5.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.hpp"

namespace reshard::mpi {

#ifdef H5_HAVE_PARALLEL
Hdf5Access::Hdf5Access(const Comm& comm)
    : lists_{H5Pcreate(H5P_FILE_ACCESS), H5Pcreate(H5P_DATASET_XFER)} {
  // Independent metadata reads may find what another rank has not written yet; and what a library
  // of another process left in the page cache is not asked for.
  const bool made = H5Pset_fapl_mpio(lists_.access, comm.handle(), MPI_INFO_NULL) >= 0 &&
                    H5Pset_all_coll_metadata_ops(lists_.access, true) >= 0 &&
                    H5Pset_coll_metadata_write(lists_.access, true) >= 0 &&
                    H5Pset_libver_bounds(lists_.access, H5F_LIBVER_V18, H5F_LIBVER_V110) >= 0 &&
                    H5Pset_dxpl_mpio(lists_.transfer, H5FD_MPIO_COLLECTIVE) >= 0;
  if (!made) throw Error(Kind::internal, "HDF5 made no property lists for MPI");
}
#else
Hdf5Access::Hdf5Access(const Comm&) {
  throw Error(Kind::usage, "--hdf5-filter: needs an HDF5 that is built with MPI");
}
#endif

Hdf5Access::~Hdf5Access() {
  H5Pclose(lists_.access);
  H5Pclose(lists_.transfer);
}

FilteredWriter::FilteredWriter(const Comm& comm, const Geometry& geometry,
                               const formats::Target& target, const formats::TargetWriter& writer)
    : comm_(comm), geometry_(geometry), access_(comm) {
  for (std::uint32_t f = 0; f < target.files.size(); ++f) {
    if (!target.files[f].is_filtered()) continue;
    const formats::Hdf5Spec& spec = specs_.emplace(f, hdf5_spec(target.files[f])).first->second;
    const std::optional<Error> mine = attempt([&] {
      files_.emplace(
          f, std::make_unique<formats::Hdf5Tensors>(writer.path(f), spec, true, access_.lists()));
    });
    Agreement(comm_, mine).wait("open");
  }
}

std::vector<FilteredWriter::Part> FilteredWriter::parts_of(std::span<const TileBytes> tiles) const {
  std::vector<Part> parts;
  for (const TileBytes& tile : tiles) {
    if (!files_.contains(tile.tile.file)) continue;
    const ByteRange range = bytes_of(geometry_, tile.tile);
    for (const std::uint32_t t : tensors_in(geometry_, tile.tile.file, range)) {
      const TargetTensor& tensor = geometry_.tensors[t];
      const std::uint64_t first = std::max(range.first, tensor.base);
      const std::uint64_t last = std::min(range.last, tensor.base + tensor.bytes);
      if (first >= last) continue;
      parts.push_back({t, (first - tensor.base) / bytes(tensor.stored.dtype),
                       tile.bytes.subspan(first - range.first, last - first)});
    }
  }
  std::stable_sort(parts.begin(), parts.end(),
                   [](const Part& a, const Part& b) { return a.target < b.target; });
  return parts;
}

void FilteredWriter::write(std::span<const TileBytes> tiles) {
  const std::vector<Part> parts = parts_of(tiles);
  std::string mine;
  for (const Part& part : parts) {
    mine.append(reinterpret_cast<const char*>(&part.target), sizeof part.target);
  }
  // As often as some rank has a part of a dataset, all ranks write to it.
  std::map<std::uint32_t, std::size_t> most;
  for (const std::string& theirs : gather_all(comm_, mine)) {
    std::map<std::uint32_t, std::size_t> counts;
    for (std::size_t at = 0; at < theirs.size(); at += sizeof(std::uint32_t)) {
      std::uint32_t target = 0;
      std::memcpy(&target, theirs.data() + at, sizeof target);
      ++counts[target];
    }
    for (const auto& [target, count] : counts) most[target] = std::max(most[target], count);
  }
  // A rank that failed goes on, so that others do not wait for it.
  std::optional<Error> failed;
  auto next = parts.begin();
  for (const auto& [target, count] : most) {
    const TargetTensor& tensor = geometry_.tensors[target];
    formats::Hdf5Tensors& file = *files_.at(tensor.file);
    for (std::size_t i = 0; i < count; ++i) {
      const bool have = next != parts.end() && next->target == target;
      const Part part = have ? *next : Part{target, 0, {}};
      if (have) ++next;
      const std::optional<Error> error = attempt([&] {
        with_context(geometry_.targets[tensor.file].path + ": " + tensor.stored.name,
                     [&] { file.write(tensor.number, part.first, part.bytes); });
      });
      if (!failed) failed = error;
    }
  }
  Agreement(comm_, failed).wait("write");
}

void FilteredWriter::close() {
  for (const auto& [number, file] : files_) {
    Agreement(comm_, attempt([&] { file->close(); })).wait("write");
  }
}

bool has_filtered(const formats::Target& target) {
  return std::any_of(target.files.begin(), target.files.end(),
                     [](const auto& file) { return file.is_filtered(); });
}

}  // namespace reshard::mpi
