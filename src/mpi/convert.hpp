#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.hpp"
#include "formats/dialect/dialect.hpp"
#include "mpi/comm.hpp"
#include "mpi/prepare.hpp"

namespace reshard::mpi {

/// A parallel file system answers several requests of a rank at once.
inline constexpr std::uint64_t default_io_threads = 2;

/// The user's wishes for one conversion.
struct ConvertOptions {
  formats::SourceOptions source;
  formats::TargetOptions target;
  std::uint64_t memory = 0;  ///< bytes a rank for buffers; 0: see default_memory
  std::uint64_t io_threads = default_io_threads;  ///< of a rank that read, and as many that write
  bool verify = true;
  bool overwrite = false;
  bool resume = false;  ///< goes on with what a run of the same conversion left
  std::uint64_t journal_bytes = std::uint64_t{256} << 20;  ///< of a rank between two records
  std::uint64_t tile_bytes = 0;  ///< 0: by the size of the target (see Geometry)
  /// Called on rank 0 between rounds, with bytes of the target.
  std::function<void(std::uint64_t done, std::uint64_t all)> progress;
  /// Called often, on any rank and thread: throws when the conversion should end.
  std::function<void()> check_stop = [] {};
  /// Called on any rank when one of its operations takes longer than `patience`.
  std::function<void(const std::string& text)> stalled;
  std::chrono::seconds patience{60};
  /// Called on every rank at the end of each phase; what it throws is a failure of the phase.
  std::function<void(std::string_view phase)> after_phase;
};

/// What a conversion did, equal on all ranks; the report prints it.
struct ConvertReport : ConversionFacts {
  struct Phase {
    std::string name;
    double seconds = 0;
  };
  std::vector<Phase> phases;
  std::uint64_t rounds = 0, memory = 0;
  bool verified = false;
  std::uint64_t resumed_bytes = 0;  ///< of the target that earlier runs wrote
  std::vector<std::uint64_t> bytes_read, bytes_sent, bytes_written, peak_rss;  ///< by rank
};

/// Collective. The phases of DESIGN.md section 4 in order; throws the same Error on all ranks, and
/// then nothing lies under the target's name.
ConvertReport convert(const Comm& comm, const ConvertOptions& options);

/// Collective. Bytes that a rank's buffers may take when the user does not say: the smaller of 2
/// GiB and half of what the cgroup or the node leaves to each of its ranks.
std::uint64_t default_memory(const Comm& comm);

/// Collective. What bounds the buffers of a rank: `memory`, if it is not 0, or default_memory; more
/// where the largest tile of the target needs more, and a note in `facts` then.
std::uint64_t memory_bound(const Comm& comm, std::uint64_t memory, const Geometry& geometry,
                           ConversionFacts& facts);

/// Bytes of a round for a rank, within a memory bound.
std::uint64_t round_bytes(std::uint64_t memory, int ranks);

}  // namespace reshard::mpi
