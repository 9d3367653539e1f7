#pragma once

#include <hdf5.h>

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/folder.hpp"

namespace reshard::test {

inline std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Throws when a call of HDF5's library failed.
template <class Result>
Result done(Result result) {
  if (result < 0) throw std::runtime_error("a call of HDF5 failed");
  return result;
}

using Dimensions = std::vector<hsize_t>;

/// An HDF5 file made by hand.
class Hdf5Maker {
 public:
  explicit Hdf5Maker(const std::string& path, H5F_libver_t version = H5F_LIBVER_EARLIEST) {
    const hid_t access = done(H5Pcreate(H5P_FILE_ACCESS));
    done(H5Pset_libver_bounds(access, version, H5F_LIBVER_V110));
    file_ = done(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access));
    H5Pclose(access);
    list_ = done(H5Pcreate(H5P_DATASET_CREATE));
  }
  Hdf5Maker(const Hdf5Maker&) = delete;
  Hdf5Maker& operator=(const Hdf5Maker&) = delete;
  ~Hdf5Maker() {
    H5Pclose(list_);
    H5Fclose(file_);
  }

  [[nodiscard]] hid_t file() const { return file_; }
  /// How the next datasets are made.
  [[nodiscard]] hid_t list() const { return list_; }

  void group(const std::string& name) const {
    H5Gclose(done(H5Gcreate2(file_, name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)));
  }
  /// A dataset without data; its identifier.
  [[nodiscard]] hid_t empty(const std::string& name, hid_t type, const Dimensions& shape) const {
    const hid_t space = done(
        shape.empty() ? H5Screate(H5S_SCALAR)
                      : H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr));
    const hid_t dataset =
        done(H5Dcreate2(file_, name.c_str(), type, space, H5P_DEFAULT, list_, H5P_DEFAULT));
    H5Sclose(space);
    return dataset;
  }
  void unwritten(const std::string& name, hid_t type, const Dimensions& shape) const {
    H5Dclose(empty(name, type, shape));
  }
  /// Element i of `counted`: fp32 holds it.
  static float value_of(std::size_t i) { return static_cast<float>(i % 1000003); }
  /// A dataset of such floats.
  void counted(const std::string& name, const Dimensions& shape) const {
    hsize_t size = 1;
    for (const hsize_t n : shape) size *= n;
    std::vector<float> values(size);
    for (std::size_t i = 0; i < size; ++i) values[i] = value_of(i);
    const hid_t dataset = empty(name, H5T_IEEE_F32LE, shape);
    done(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()));
    H5Dclose(dataset);
  }
  /// A text attribute of fixed length.
  void attribute(const std::string& object, const char* name, const std::string& text) const {
    const hid_t type = done(H5Tcopy(H5T_C_S1));
    done(H5Tset_size(type, text.size()));
    const hid_t space = done(H5Screate(H5S_SCALAR));
    const hid_t made = done(H5Acreate_by_name(file_, object.c_str(), name, type, space, H5P_DEFAULT,
                                              H5P_DEFAULT, H5P_DEFAULT));
    done(H5Awrite(made, type, text.data()));
    H5Aclose(made);
    H5Sclose(space);
    H5Tclose(type);
  }
  /// An attribute of the root: one integer.
  void number(const char* name, std::int64_t value) const {
    const hid_t space = done(H5Screate(H5S_SCALAR));
    const hid_t made =
        done(H5Acreate2(file_, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT));
    done(H5Awrite(made, H5T_NATIVE_INT64, &value));
    H5Aclose(made);
    H5Sclose(space);
  }

 private:
  hid_t file_ = H5I_INVALID_HID, list_ = H5I_INVALID_HID;
};

}  // namespace reshard::test
