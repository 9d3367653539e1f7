#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/moved.hpp"
#include "formats/file.hpp"

namespace reshard::formats {

/// The journal of a conversion: which tiles are in the target's files for good, and what they add
/// to digests and checksums, so that another run goes on from there (DESIGN.md section 4).
///
/// A folder with a file RUN-RANK-RANKS for each rank of each run that worked on the target. A file
/// is records, all numbers little-endian:
///
///     u64 bytes of the payload | u32 CRC-32 of the payload | payload: the CBOR object
///     {"tiles": [number...], "read": [piece, low, high...], "arrived": [placement, low, high...],
///      "crcs": [tensor, crc...]}
///
/// All ranks of a run append their n-th record at the same border between two rounds, after fsync
/// of what they wrote until then. So as many records of a run count as each of its ranks has whole:
/// a torn tail, and what only some ranks have, is as if it were not there.
class JournalWriter {
 public:
  /// The file is made with the first record.
  JournalWriter(std::string folder, std::uint64_t run, int rank, int ranks);
  /// Writes what is new since the last record, and fsyncs it.
  void append(const Moved& moved);

 private:
  std::string path_;
  std::optional<File> file_;
  std::uint64_t end_ = 0;
};

/// What a journal holds.
struct Journal {
  Moved moved;             ///< of all runs together
  std::uint64_t runs = 0;  ///< number of the next run
};
/// Reads the journal of a target of that geometry; Error(input) when a whole record names what the
/// geometry has not.
Journal read_journal(const std::string& folder, const Geometry& geometry);

}  // namespace reshard::formats
