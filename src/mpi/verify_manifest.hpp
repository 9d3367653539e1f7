#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mpi/comm.hpp"

namespace reshard::mpi {

/// The user's wishes for the check of a converted checkpoint.
struct ProofOptions {
  std::string path;  ///< a folder with a manifest.json, or with one folder that has it
  /// Share of the tensors' bytes to be read, chosen at random among whole tensors; all bytes that
  /// are no tensor's are read in any case. Nothing: everything.
  std::optional<double> sample;
  std::uint64_t seed = 0;  ///< of the choice
  std::uint64_t io_threads = 2;
  std::function<void(std::uint64_t done, std::uint64_t all)> progress;  ///< on rank 0, in bytes
  std::function<void()> check_stop = [] {};
};

/// What was found, equal on all ranks.
struct ProofReport {
  std::string unit;
  std::uint64_t files = 0, tensors = 0, bytes = 0;  ///< of the checkpoint
  std::uint64_t tensors_read = 0, bytes_read = 0;
  std::vector<std::string> findings;  ///< one line a file or tensor that is not as it was written
  std::vector<std::string> notes;     ///< files that the manifest does not know
};

/// Collective. Holds a converted checkpoint against its own manifest, without the source.
ProofReport verify_manifest(const Comm& comm, const ProofOptions& options);

}  // namespace reshard::mpi
