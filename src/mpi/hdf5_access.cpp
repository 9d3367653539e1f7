#include "mpi/hdf5_access.hpp"

#include <hdf5.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>

#include "core/error.hpp"
#include "formats/file.hpp"

namespace reshard::mpi {
namespace {

/// So long a rank that failed within a collective call waits for others to come out of it.
constexpr std::chrono::seconds patience{5};

}  // namespace

#ifdef H5_HAVE_PARALLEL
Hdf5Access::Hdf5Access(const Comm& comm)
    : lists_{H5Pcreate(H5P_FILE_ACCESS), H5Pcreate(H5P_DATASET_XFER)} {
  const bool made = H5Pset_fapl_mpio(lists_.access, comm.handle(), MPI_INFO_NULL) >= 0 &&
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
    : comm_(comm), geometry_(geometry), numbers_(geometry), access_(comm) {
  for (std::uint32_t f = 0; f < target.files.size(); ++f) {
    const formats::FileDescription& described = target.files[f];
    if (!described.is_filtered()) continue;
    const formats::Hdf5Spec& spec = specs_.emplace(f, hdf5_spec(described)).first->second;
    // What can be found out alone.
    agree(comm_, "open", [&] { formats::File::open_write(writer.path(f)); });
    settle(attempt([&] {
      files_.emplace(f, std::make_unique<formats::Hdf5Tensors>(writer.path(f), spec,
                                                               described.packing, access_.lists()));
    }));
  }
}

void FilteredWriter::write(const Round& round, std::span<const TileBytes> tiles) {
  if (round.modulus == 1) {
    for (std::uint64_t slot = round.first; slot < round.last; ++slot) write_slot(slot, tiles);
    return;
  }
  agree(comm_, "write", [&] {
    if (tiles.empty()) return;
    kept_.assign(tiles[0].bytes.begin(), tiles[0].bytes.end());
    kept_tile_ = tiles[0].tile;
  });
  if (round.residue + 1 < std::min(round.modulus, comm_.size())) return;
  const TileBytes kept{kept_tile_.value_or(Tile{}), kept_};
  write_slot(round.first, {&kept, kept_tile_ ? 1U : 0U});
  kept_tile_.reset();
}

void FilteredWriter::write_slot(std::uint64_t slot, std::span<const TileBytes> tiles) {
  const auto ranks = static_cast<std::uint64_t>(comm_.size());
  const std::uint64_t mine = slot * ranks + static_cast<std::uint64_t>(comm_.rank());
  const auto own = std::find_if(tiles.begin(), tiles.end(), [&](const TileBytes& tile) {
    return numbers_.number(tile.tile) == mine;
  });
  for (const auto& [file, opened] : files_) {
    const std::uint64_t first = std::max(numbers_.first(file), slot * ranks);
    const std::uint64_t last = std::min(numbers_.first(file + 1), (slot + 1) * ranks);
    if (first >= last) continue;
    const ByteRange all{bytes_of(geometry_, numbers_[first]).first,
                        bytes_of(geometry_, numbers_[last - 1]).last};
    for (const std::uint32_t t : tensors_in(geometry_, file, all)) {
      const TargetTensor& tensor = geometry_.tensors[t];
      const std::uint64_t width = bytes(tensor.stored.dtype);
      Part part;
      if (own != tiles.end() && own->tile.file == file) {
        const ByteRange range = bytes_of(geometry_, own->tile);
        const std::uint64_t begin = std::max(range.first, tensor.base);
        const std::uint64_t end = std::min(range.last, tensor.base + tensor.bytes);
        if (begin < end) {
          part = {(begin - tensor.base) / width, (end - begin) / width,
                  own->bytes.subspan(begin - range.first, end - begin)};
        }
      }
      write_tensor(tensor, part);
    }
  }
}

void FilteredWriter::write_tensor(const TargetTensor& tensor, const Part& part) {
  formats::Hdf5Tensors& file = *files_.at(tensor.file);
  const auto named = [&](const auto& work) {
    with_context(geometry_.targets[tensor.file].path + ": " + tensor.stored.name, work);
  };
  agree(comm_, "write",
        [&] { named([&] { file.select(tensor.number, part.first, part.count); }); });
  settle(attempt([&] { named([&] { file.write(part.bytes); }); }));
}

void FilteredWriter::close() {
  for (const auto& [number, file] : files_) settle(attempt([&] { file->close(); }));
}

void FilteredWriter::settle(const std::optional<Error>& failed) {
  Agreement agreement(comm_, failed);
  if (comm_.size() > 1 && failed) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!agreement.test()) {
      if (std::chrono::steady_clock::now() > end) give_up(*failed, true);
      std::this_thread::yield();
    }
  }
  try {
    agreement.wait("write");
  } catch (const Error& error) {
    if (comm_.size() == 1) throw;
    give_up(error, comm_.rank() == 0);
  }
}

void FilteredWriter::give_up(const Error& error, bool reports) {
  for (const auto& [number, file] : files_) file->abandon();
  if (reports) {
    std::fprintf(stderr, "reshard: %s; HDF5 leaves no way on: all ranks are ended\n", error.what());
  } else {
    std::this_thread::sleep_for(patience);  // for the one that reports
  }
  MPI_Abort(comm_.handle(), static_cast<int>(error.kind()));
  std::abort();
}

bool has_filtered(const formats::Target& target) {
  return std::any_of(target.files.begin(), target.files.end(),
                     [](const auto& file) { return file.is_filtered(); });
}

}  // namespace reshard::mpi
