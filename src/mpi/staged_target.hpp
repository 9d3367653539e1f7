#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/geometry.hpp"
#include "formats/dialect/target.hpp"
#include "formats/staging.hpp"
#include "formats/target_writer.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// Collective. Where a target will grow and whether it may (formats::plan_staging), the same on all
/// ranks.
formats::Staging agree_on_staging(const Comm& comm, const std::string& target_path,
                                  const formats::Target& target, const std::string& source_unit,
                                  bool overwrite);

/// A target that grows under a staging name; unless it is published, nothing is left of it.
class StagedTarget {
 public:
  /// Collective. Makes the staging folder and all files at their final size; `space`: free bytes
  /// that the file system must have; `threads` of this rank write at once. References must outlive
  /// this.
  StagedTarget(const Comm& comm, const formats::Staging& staging, const Geometry& geometry,
               const formats::Target& target, const std::vector<formats::FileLayout>& layouts,
               bool overwrite, std::uint64_t space, std::uint64_t threads);

  [[nodiscard]] formats::TargetWriter& writer() { return writer_; }

  /// Collective. Writes what could not be written before checksums were known, into this rank's
  /// tiles [first, last), and closes the files.
  void seal(std::uint64_t first, std::uint64_t last, std::span<const std::uint32_t> crcs);
  /// Collective. Gives the target its name; returns what the user should know, or "".
  std::string publish();

 private:
  /// Removes what is left of the staging folder at the end, on the rank that made it.
  struct Cleaner {
    Cleaner(const Comm& comm, const formats::Staging& made)
        : staging(made), mine(comm.rank() == 0) {}
    Cleaner(const Cleaner&) = delete;
    Cleaner& operator=(const Cleaner&) = delete;
    ~Cleaner() {
      if (mine) formats::discard(staging);
    }
    const formats::Staging& staging;
    bool mine;
  };

  const Comm& comm_;
  const formats::Staging& staging_;
  const Geometry& geometry_;
  const formats::Target& target_;
  bool overwrite_;
  Cleaner cleaner_;
  formats::TargetWriter writer_;
};

}  // namespace reshard::mpi
