#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/digest.hpp"
#include "core/json.hpp"
#include "formats/container/file_index.hpp"

// A checkpoint in one HDF5 file, "reshard-h5" version 1:
//
//   /                   attributes format = "reshard-h5", format_version = 1 (i64) and those of the
//                       description, texts
//   /tensors/NAME       a dataset for each tensor, in one flat group (creation order is tracked: it
//                       is that of the data); attributes:
//                         dtype    safetensors' name of the dtype: "BF16"
//                         roles    the canonical tensors in it, fixed-length texts
//                         digests  of each of them, 32 hexadecimal digits (core/digest.hpp): of the
//                                  part that lies in this dataset; parts of one role add up
//   /metadata/NAME      other files of the model, datasets of bytes
//
// Datasets are contiguous and unfiltered, at offsets that are multiples of 4096 unless they are
// smaller than that; all integers and floats are little-endian. BF16, F16 and F8_E5M2 are custom
// floats, of which BF16 is 1 sign bit, 8 bits of exponent (bias 127), 7 of mantissa; BOOL and the
// other floats of one byte are unsigned bytes with the attribute `dtype`; C64 and C128 are h5py's
// compounds {r, i}. There are no time stamps.

namespace reshard::formats {

inline constexpr const char* hdf5_format = "reshard-h5";
inline constexpr std::int64_t hdf5_format_version = 1;

/// Content of such a file to be written.
struct Hdf5Spec {
  struct Tensor : TensorSpec {
    std::vector<std::string> roles;
  };
  /// A file that travels in the file: its bytes, or where to copy them from.
  struct Content {
    std::string name, bytes;
    FileLayout::Copy copy;  ///< with a `from`: instead of bytes
  };
  Json attributes = Json::object();  ///< of the root: texts
  std::vector<Tensor> tensors;
  std::vector<Content> contents;
};

/// Digests of the roles of each tensor of a file.
using Hdf5Digests = std::vector<std::vector<Digest>>;

/// Where every byte lies, made by HDF5's own library in memory; the attributes `digests` say that
/// they were not computed. A pure function. Error(input) for what HDF5 or reshard cannot hold: a
/// name with '/', a type smaller than a byte, more than 32 dimensions.
FileLayout hdf5_layout(const Hdf5Spec& spec);

/// The bytes that are others than in hdf5_layout(spec), `layout`, once the digests are known.
std::vector<FileLayout::Literal> hdf5_trailer(const Hdf5Spec& spec, const FileLayout& layout,
                                              const Hdf5Digests& digests);

}  // namespace reshard::formats
