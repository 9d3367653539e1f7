#pragma once

#include <cstdint>
#include <string>

#include "formats/dialect/target.hpp"

namespace reshard::formats {

/// The folder in which a target grows, beside the unit of publication on the same file system, and
/// the unit's final path (DESIGN.md section 4, Journal and publication). A value: the functions
/// below act on the file system and are called by one rank.
struct Staging {
  std::string folder;         ///< "DST/.iter_0000003.reshard-ID"
  std::string unit;           ///< "DST/iter_0000003"
  std::string root;           ///< folder of the tracker
  bool makes_parent = false;  ///< the folder above did not exist before
};

/// Checks that the unit may be written and names its staging. Error(usage) when it exists and is
/// not empty without `overwrite`, when it is a file, when the root above it is a checkpoint of its
/// own, or when source (if it is not "") and unit lie in one another.
Staging plan_staging(const std::string& target_path, const Target& target,
                     const std::string& source_unit, bool overwrite);
/// Makes the staging folder; Error(io) also when the file system has less free space than `bytes`.
void create_staging(const Staging& staging, std::uint64_t bytes);
/// Renames staging to the unit, an old one away, then raises the tracker; returns what the user
/// should know, or "".
std::string publish(const Staging& staging, const Target& target, bool overwrite);
/// Removes the staging folder, whatever is in it, and what was made for it; never throws.
void discard(const Staging& staging) noexcept;

}  // namespace reshard::formats
