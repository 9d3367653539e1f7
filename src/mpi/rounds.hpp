#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/digest.hpp"
#include "core/geometry.hpp"
#include "core/plan.hpp"
#include "formats/source_reader.hpp"
#include "formats/target_writer.hpp"
#include "mpi/comm.hpp"
#include "mpi/schedule.hpp"

namespace reshard::mpi {

/// What the rounds leave behind on one rank; sums over ranks mean something.
struct Moved {
  std::vector<Digest> read;         ///< by source piece: its elements as read, where asked for
  std::vector<Digest> arrived;      ///< by target placement: its elements as sent
  std::vector<std::uint32_t> crcs;  ///< by target tensor
  std::uint64_t bytes_read = 0, bytes_sent = 0, bytes_written = 0;
};

/// Which digests the rounds compute.
struct DigestWish {
  bool arrived = true;     ///< of all that moves, to hold the written files against
  std::vector<bool> read;  ///< by source piece: those that have replicas
};

/// The movement, round by round: read | exchange | write overlap (DESIGN.md section 4).
class Rounds {
 public:
  Rounds(const Comm& comm, const Geometry& geometry, const Plan& plan, const Schedule& schedule,
         const DigestWish& wish, formats::SourceReader& reader, formats::TargetWriter& writer);

  /// Collective. Runs all rounds; `progress(done, all)` is called on this thread after each, and
  /// `waiting(operation)` again and again while it waits in one; what `check_stop` throws ends it.
  Moved run(const std::function<void(std::uint64_t done, std::uint64_t all)>& progress,
            const std::function<void(const std::string& operation)>& waiting,
            const std::function<void()>& check_stop);

 private:
  struct Work;
  struct Served;

  void prepare(const Round& round, Work& work);
  void serve(const Schedule::Service& service, Work& work);
  void read_slices(Work& work);
  void pack(const Served& served);
  void finish(Work& work);

  const Comm& comm_;
  const Geometry& geometry_;
  const Plan& plan_;
  const Schedule& schedule_;
  const DigestWish& wish_;
  formats::SourceReader& reader_;
  formats::TargetWriter& writer_;
  TileNumbers numbers_;
  std::vector<Dims> canonical_strides_;  ///< by canonical tensor
  Moved moved_;
};

}  // namespace reshard::mpi
