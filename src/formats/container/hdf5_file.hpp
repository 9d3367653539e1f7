#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "formats/container/file_index.hpp"

// Reads the headers of HDF5 files, our own (hdf5_layout.hpp) and plain foreign ones. HDF5's library
// parses them, in a child process (isolated.hpp), for it was not written to withstand files made to
// harm; tensor data is read without it, at the offsets that the headers tell.

namespace reshard::formats {

/// Whether a file begins as HDF5 does, behind a user block perhaps.
bool is_hdf5(const std::string& path);

/// The header of a file. `name` is what the index and errors call it.
///
/// Tensors of our own files are the datasets of /tensors; in others all datasets are, and the
/// groups that they lie in are joined to their names with ".". Datasets are contiguous, or chunked
/// with the filters of Chunking. Facts are
///
///     {"attributes": {"format": "reshard-h5", ...}, texts and integers of the root of our own,
///      "metadata": {"config.json": [offset, bytes], ...}, "others": ["optimizer", ...]}
///
/// and {} in foreign files. Error(input) names file and dataset: links that are not plain names of
/// objects, groups in a cycle or deeper than 32, committed types, virtual datasets, external
/// storage, other filters, numbers of other kinds, data that was never written or that the file has
/// no place for.
FileIndex read_hdf5(const std::string& path, const std::string& name);

/// The same in this process; errors do not name the file. `progress` is called for each object.
FileIndex read_hdf5_here(const std::string& path, const std::string& name,
                         const std::function<void()>& progress);

}  // namespace reshard::formats
