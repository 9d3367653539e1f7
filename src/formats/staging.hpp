#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/dialect/target.hpp"

namespace reshard::formats {

/// The folder in which a target grows, beside the unit of publication on the same file system, and
/// the unit's final path (DESIGN.md section 4, Journal and publication). A value: the functions
/// below act on the file system and are called by one rank.
///
///     DST/.iter_0000003.reshard-ID/unit/      what becomes DST/iter_0000003
///     DST/.iter_0000003.reshard-ID/journal/   see Journal, and `identity`: what it is a journal of
///     DST/.iter_0000003.reshard-ID/old/       what was replaced, on its way to be removed
///     DST/.iter_0000003.reshard-lock          see Lock: no two conversions write one unit
struct Staging {
  std::string folder;             ///< "DST/.iter_0000003.reshard-ID"
  std::string unit;               ///< "DST/iter_0000003"
  std::string root;               ///< folder of the tracker
  std::uint64_t new_parents = 0;  ///< folders above that did not exist before

  [[nodiscard]] std::string tree() const { return folder + "/unit"; }
  [[nodiscard]] std::string journal() const { return folder + "/journal"; }
  [[nodiscard]] std::string lock() const;
};

/// Names the staging of a unit. Error(usage) when it is a file, when the root above it is a
/// checkpoint of its own, or when source (a unit or a file, if it is not "") and unit lie in one
/// another.
Staging plan_staging(const std::string& target_path, const Target& target,
                     const std::string& source_path);
/// Error(usage) when the unit exists and is not empty; with `overwrite` only when it is the whole
/// target, a folder of files, and holds folders.
void check_place(const Staging& staging, bool overwrite);
/// Makes the folder above the unit, in which the lock lies.
void create_parent(const Staging& staging);
/// Makes the staging folder, which is for a conversion of that identity; Error(io) also when the
/// file system has less free space than `bytes`.
void create_staging(const Staging& staging, const std::string& identity, std::uint64_t bytes);

/// A staging folder that another run left behind.
struct Abandoned {
  std::string folder;
  std::string identity;    ///< what it is of; "" when it has no journal, or that of another folder
  bool is_begun = false;   ///< something was written
  bool published = false;  ///< its unit has got its name already, only the rest was not done
  std::string described;   ///< its name, size and age in words
};
/// All that were left behind by conversions into the unit, which is locked; links are none.
std::vector<Abandoned> abandoned(const Staging& staging);

/// Writes manifest.json (see Manifest) into the grown tree, or again.
void write_manifest(const Staging& staging, const std::string& text);
/// Renames the grown tree to the unit, an old one away: of a link the link, not what it leads to.
void publish_tree(const Staging& staging, bool overwrite);
/// Raises the tracker, under a lock of its own; returns what the user should know, or "".
std::string raise_tracker(const Staging& staging, const Target& target);
/// Removes the staging folder, whatever is in it; never throws.
void discard(const Staging& staging) noexcept;
/// Removes the folders above the unit that were made and have nothing in them; never throws.
void discard_parents(const Staging& staging) noexcept;

}  // namespace reshard::formats
