#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/chunking.hpp"
#include "core/dtype.hpp"
#include "core/json.hpp"
#include "core/shape.hpp"

namespace reshard::formats {

/// A tensor as its file's header says it lies there; checked against the file's size.
struct TensorEntry {
  std::string name;  ///< nested dicts: the levels joined by "."
  Dtype dtype = Dtype::f32;
  Shape shape;
  std::uint64_t offset = 0;            ///< bytes from the begin of the file to the first element
  std::vector<std::uint64_t> strides;  ///< in elements; empty = row-major
  std::shared_ptr<const Chunking> chunks = {};  ///< of one in chunks, which has no offset
};

/// What one file's header says, without its tensors' data.
struct FileIndex {
  std::string path;         ///< relative to the checkpoint
  std::string container;    ///< "safetensors", "torch-zip", "torch-legacy", "hdf5", "pickle" (which
                            ///< has no tensors)
  std::uint64_t bytes = 0;  ///< size of the file
  std::vector<TensorEntry> tensors;
  Json facts;  ///< everything else in it: metadata, args, iteration, ... (see the container)
};

/// Index <-> JSON, for sharing over ranks.
Json to_json(const FileIndex& index);
FileIndex index_from_json(const Json& json);

/// Where each stored tensor and each other byte of a file to be written will lie. A pure function
/// of names, dtypes and shapes, so every rank computes it alike.
struct FileLayout {
  struct Literal {
    std::uint64_t offset = 0;
    std::string bytes;
  };
  struct Data {
    std::uint32_t tensor = 0;  ///< index into the tensors it was made from; row-major elements
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };
  /// Bytes of another file that travel in this one.
  struct Copy {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::string from;               ///< path
    std::uint64_t from_offset = 0;  ///< in that file
  };
  std::uint64_t bytes = 0;        ///< size of the file
  std::vector<Literal> literals;  ///< known now: headers, padding; ascending, never overlapping
  std::vector<Data> data;         ///< ascending by offset; with the literals covers what is known
  std::vector<Copy> copies = {};  ///< ascending by offset
  std::vector<std::uint64_t> borders = {};  ///< of tiles, see TargetFile; of one that is packed
};

/// Name, dtype and shape of a tensor to be written.
struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::f32;
  Shape shape;
};

}  // namespace reshard::formats
