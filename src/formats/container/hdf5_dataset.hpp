#pragma once

#include <hdf5.h>

#include <cstdint>
#include <functional>
#include <string>

#include "formats/container/file_index.hpp"

namespace reshard::formats {

/// Where an opened dataset's elements lie in a file of so many bytes, `own` or one that others
/// wrote. Error(input) for all that read_hdf5 refuses of a dataset. `progress` is called now and
/// then.
TensorEntry hdf5_entry(hid_t dataset, const std::string& name, bool own, std::uint64_t file_bytes,
                       const std::function<void()>& progress);

}  // namespace reshard::formats
