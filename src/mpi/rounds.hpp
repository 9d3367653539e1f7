#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/geometry.hpp"
#include "core/moved.hpp"
#include "core/plan.hpp"
#include "formats/source_reader.hpp"
#include "formats/target_writer.hpp"
#include "mpi/comm.hpp"
#include "mpi/schedule.hpp"

namespace reshard::mpi {

/// How what has moved is made to last, now and then on all ranks at once.
struct Commits {
  std::function<void(const Moved& since)> append;  ///< records what moved since the last time
  std::uint64_t bytes = 0;                         ///< of a rank between two commits, at most
  std::chrono::seconds seconds{};                  ///< the same in time
};

/// Writes what all ranks have to write together, on the thread that MPI runs on: called on all
/// ranks at once, for each round, with this rank's tiles in it, when all ranks have theirs.
using WriteTogether =
    std::function<void(const Round&, std::span<const formats::TargetWriter::TileBytes>)>;

/// The movement, round by round: read | exchange | write overlap (DESIGN.md section 4).
class Rounds {
 public:
  /// `digested`: by source piece, those whose numbers are digested as they are read; all that moves
  /// is as it is sent.
  Rounds(const Comm& comm, const Geometry& geometry, const Plan& plan, const Schedule& schedule,
         const std::vector<bool>& digested, formats::SourceReader& reader,
         formats::TargetWriter& writer, const Commits& commits, WriteTogether write_together = {});

  /// Collective. Runs all rounds; `progress(done, all)` is called on this thread after each, and
  /// `waiting(operation)` again and again while it waits in one; what `check_stop` throws ends it
  /// after a last commit. Returns what this rank moved.
  Moved run(const std::function<void(std::uint64_t done, std::uint64_t all)>& progress,
            const std::function<void(const std::string& operation)>& waiting,
            const std::function<void()>& check_stop);
  [[nodiscard]] std::uint64_t bytes_sent() const { return bytes_sent_; }

 private:
  struct Work;
  struct Served;

  void prepare(const Round& round, Work& work);
  void serve(const Schedule::Service& service, Work& work);
  void read_slices(Work& work);
  void pack(const Served& served, Work& work);
  void finish(Work& work);
  [[nodiscard]] std::vector<formats::TargetWriter::TileBytes> tiles_of(const Work& work) const;
  void commit();
  [[nodiscard]] bool wants_commit() const;

  const Comm& comm_;
  const Geometry& geometry_;
  const Plan& plan_;
  const Schedule& schedule_;
  const std::vector<bool>& digested_;
  formats::SourceReader& reader_;
  formats::TargetWriter& writer_;
  TileNumbers numbers_;
  std::vector<Dims> canonical_strides_;  ///< by canonical tensor
  const Commits& commits_;
  WriteTogether write_together_;
  Moved moved_, since_;  ///< up to the last commit, and since then
  std::uint64_t bytes_since_ = 0, bytes_sent_ = 0;
  std::chrono::steady_clock::time_point committed_ = std::chrono::steady_clock::now();
};

}  // namespace reshard::mpi
