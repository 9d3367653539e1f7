#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/digest.hpp"
#include "core/geometry.hpp"
#include "core/json.hpp"
#include "formats/container/file_index.hpp"
#include "formats/container/hdf5_filtered.hpp"
#include "formats/dialect/source.hpp"

namespace reshard::formats {

/// A file of the target before it has bytes: stored tensors and all else in it. Of a dcp file each
/// tensor is an item.
struct FileDescription {
  enum class Container { safetensors, torch, dcp, hdf5, plain, copy };

  std::string path;  ///< relative to the unit of publication
  Container container = Container::plain;
  std::vector<StoredTensor> tensors;
  Json value;  ///< safetensors: its metadata; torch: the tree, see torch_layout.hpp; hdf5: the
               ///< root's `attributes` and, by tensor, lists of `roles`
  std::string content;      ///< plain: all of it; dcp: the items without tensors, at its begin
  std::string copied_from;  ///< copy: the file whose bytes these are
  std::uint64_t copied_bytes = 0;      ///< how many
  std::uint64_t copied_offset = 0;     ///< of the first
  std::vector<FileDescription> inner;  ///< hdf5: plain files and copies that travel in it
  Hdf5Packing packing;                 ///< hdf5: of its datasets

  /// Whether its bytes are made by a library that all ranks call together; its layout is then that
  /// of the tensors alone.
  [[nodiscard]] bool is_filtered() const { return !packing.filter.empty(); }
};

/// A target, described: files, unit of publication and what the user must know.
struct Target {
  std::string unit;  ///< below DST: "iter_0000003"; "." is DST itself
  std::vector<FileDescription> files;
  std::string tracker;  ///< file beside the unit, raised last; empty: none
  std::string tracker_content;
  Parallelism parallelism;
  std::vector<std::string> warnings;
  std::vector<std::string> notes;  ///< flags that the run or loader needs, what was filled
};

/// A plain file.
FileDescription plain_file(std::string path, std::string content);
/// Companions as files of a folder of the target ("" is the unit itself).
std::vector<FileDescription> companion_files(const std::vector<Companion>& companions,
                                             const std::string& folder);

/// An HDF5 file's content.
Hdf5Spec hdf5_spec(const FileDescription& file);

/// Where the bytes of a described file lie.
FileLayout layout_of(const FileDescription& file);
/// The canonical tensors that a stored tensor has elements of, each once, in the order of its
/// placements.
std::vector<std::uint32_t> contents_of(const StoredTensor& tensor);
/// Whether the file has bytes that need the CRCs of its tensors.
bool has_crcs(const FileDescription& file);
/// Sums over the described tensors of one file.
struct TensorSums {
  std::vector<std::uint32_t> crcs;
  std::vector<std::vector<Digest>> digests;  ///< by tensor: of each of contents_of; empty: unknown
};
/// Bytes that need such sums, ascending; none unless it is a torch, dcp or contiguous HDF5 file.
/// They lie over what its layout has there.
std::vector<FileLayout::Literal> trailer_of(const FileDescription& file, const FileLayout& layout,
                                            const TensorSums& sums);

/// The movement from an opened source to a described target, completed and checked. The source's
/// pieces and the target's placements move into it: of a large model they are the most memory.
Geometry make_geometry(Source& source, Target& target, const std::vector<FileLayout>& layouts);

}  // namespace reshard::formats
