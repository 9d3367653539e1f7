#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/geometry.hpp"
#include "core/moved.hpp"
#include "formats/dialect/target.hpp"
#include "formats/journal.hpp"
#include "formats/lock.hpp"
#include "formats/staging.hpp"
#include "formats/target_writer.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// Collective. Where a target will grow and whether it may (formats::plan_staging), the same on all
/// ranks.
formats::Staging agree_on_staging(const Comm& comm, const std::string& target_path,
                                  const formats::Target& target, const std::string& source_path,
                                  bool overwrite);

/// What is to grow, and how.
struct Growth {
  const Geometry& geometry;
  const formats::Target& target;
  const std::vector<formats::FileLayout>& layouts;
  std::string identity;          ///< JSON; what a run must have in common with one that goes on
  bool overwrite = false;        ///< what has the target's name may be replaced
  bool resume = false;           ///< goes on with what a run of the same identity left
  std::uint64_t io_threads = 1;  ///< of this rank that write at once
};

/// A target that grows under a staging name, with its unit locked; unless it is published or kept,
/// nothing is left of it.
class StagedTarget {
 public:
  /// Collective. Locks the unit and looks for what other runs left. With `resume`, Error(usage)
  /// when that is of another conversion. References must outlive this.
  StagedTarget(const Comm& comm, formats::Staging staging, Growth growth);

  /// What the user should know of earlier runs.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }
  /// What earlier runs moved: numbers of tiles on all ranks, the sums on rank 0 only.
  [[nodiscard]] const Moved& before() const { return journal_.moved; }
  /// Whether an earlier run published already; `publish` does what is left to do.
  [[nodiscard]] bool is_published() const { return published_; }

  /// Collective. Makes the staging folder, if it is not there, and all files at their final size;
  /// `space`: free bytes that the file system must have.
  void create(std::uint64_t space);
  [[nodiscard]] const std::string& folder() const { return staging_.folder; }
  [[nodiscard]] formats::TargetWriter& writer() { return *writer_; }
  /// Records what this rank moved; every rank does so at the same time.
  void append(const Moved& moved);

  /// Collective. Writes what could not be written before checksums were known, into this rank's
  /// tiles [first, last), and closes the files.
  void seal(std::uint64_t first, std::uint64_t last, std::span<const std::uint32_t> crcs);
  /// Collective. Gives the target its name; returns what the user should know, or "".
  std::string publish();
  /// Collective. Leaves the staging folder to another run if there is a journal; whether there is.
  bool keep();

 private:
  /// On the rank that locked the unit: removes what is left of the staging folder at the end.
  struct Cleaner {
    explicit Cleaner(const formats::Staging& cleaned) : staging(cleaned) {}
    Cleaner(const Cleaner&) = delete;
    Cleaner& operator=(const Cleaner&) = delete;
    ~Cleaner();
    const formats::Staging& staging;
    std::optional<formats::Lock> lock;
    bool removes = true;
  };
  void find_earlier();

  const Comm& comm_;
  formats::Staging staging_;
  Growth growth_;
  std::optional<Cleaner> cleaner_;
  formats::Journal journal_;
  bool found_ = false, published_ = false, recorded_ = false;
  std::vector<std::string> notes_;
  std::optional<formats::TargetWriter> writer_;
  std::optional<formats::JournalWriter> journal_writer_;
};

}  // namespace reshard::mpi
