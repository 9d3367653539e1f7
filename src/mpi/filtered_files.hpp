#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/geometry.hpp"
#include "core/moved.hpp"
#include "formats/container/file_index.hpp"
#include "formats/target_writer.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// Where the tensors of a written file lie whose data is packed.
class FilteredFile {
 public:
  explicit FilteredFile(const formats::FileIndex& index);

  /// Its chunks, or its one place, in the order of its elements; Error(verification) when the file
  /// has none of this name, dtype and shape.
  [[nodiscard]] std::vector<ByteRange> ranges_of(const TargetTensor& tensor) const;
  /// The same, as the file's header says it.
  [[nodiscard]] const formats::TensorEntry& entry(const TargetTensor& tensor) const;

  std::uint64_t bytes = 0;  ///< of the file

 private:
  std::map<std::string, formats::TensorEntry> entries_;
};

/// By number of the file.
using FilteredFiles = std::map<std::uint32_t, FilteredFile>;

/// Collective. Holds a target's filtered files but for their data against what was to be written,
/// and says where the data lies. Error(verification).
FilteredFiles index_filtered(const Comm& comm, const formats::Target& target,
                             const formats::TargetWriter& writer, const Sums& sums);

}  // namespace reshard::mpi
