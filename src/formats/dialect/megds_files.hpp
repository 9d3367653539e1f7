#pragma once

#include <map>

#include "formats/dialect/megds.hpp"

namespace reshard::formats {

/// The files of one Megatron-DeepSpeed folder, sorted out.
struct MegdsFiles {
  bool pipeline = true;                      ///< layer files, else the model in `module`
  bool split_qkv = false;                    ///< query and key_value are two tensors
  std::uint64_t tp = 1, pp = 1;              ///< as names say
  std::vector<const FileIndex*> layers;      ///< by number and tp rank
  std::vector<const FileIndex*> models;      ///< mp_rank files by rank
  std::map<std::uint64_t, LayerFile> kinds;  ///< number of a layer file -> what it holds
};

/// Sorts the files by their names and by what they hold; gaps and doubts become problems.
/// Error(input) where nothing can be made of them; the indices must outlive the result.
MegdsFiles megds_files(const std::vector<FileIndex>& indices, Problems& problems);

/// Whether the files of all layers, and those around them, are there.
void check_layers(const MegdsFiles& files, std::uint64_t layers, bool has_head, Problems& problems);

/// mp_rank files of one run say the same args and counters, and no rank wrote two of them.
void check_models(const families::ArgumentTable& table, const MegdsFiles& files, Source& source,
                  Problems& problems);

}  // namespace reshard::formats
