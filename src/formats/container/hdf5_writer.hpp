#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/container/hdf5_layout.hpp"
#include "formats/container/hdf5_library.hpp"

namespace reshard::formats {

/// Writes the structure of one of our files (hdf5_layout.hpp), object by object. Who calls it has
/// the lock.
class Hdf5Writer {
 public:
  /// What is not smaller lies at multiples of this.
  static constexpr std::uint64_t alignment = 4096;

  /// Creates the file, with the root's attributes.
  Hdf5Writer(const std::string& path, const Hdf5Spec& spec);
  /// Finishes the file.
  void close() {
    pads_.clear();
    file_.close_file(Kind::io);
  }

  [[nodiscard]] Hdf5Handle group(const char* name) const;
  /// A dataset whose data has a place at once, fit for its elements. `creation`: a list of its own,
  /// else contiguous.
  [[nodiscard]] Hdf5Handle dataset(const Hdf5Handle& group, const std::string& name, Dtype dtype,
                                   const Shape& shape, const Hdf5Handle* creation = nullptr);
  /// A dataset of a tensor, with its attributes; digests of nullptr say that there are none.
  [[nodiscard]] Hdf5Handle tensor(const Hdf5Handle& group, const Hdf5Spec::Tensor& tensor,
                                  const std::vector<Digest>* digests,
                                  const Hdf5Handle* creation = nullptr);

 private:
  void attribute(hid_t object, const char* name, const std::string& text) const;
  void attribute(hid_t object, const char* name, const std::vector<std::string>& texts) const;

  Hdf5Handle file_, contiguous_, link_, group_, scalar_;
  std::vector<Hdf5Handle> pads_;  ///< datasets without a name, for the places that they take
};

/// A list for datasets without time stamps.
Hdf5Handle hdf5_dataset_list();
/// What the attribute `digests` of a tensor has: nullptr says that they were not computed, none
/// that the tensor has no elements.
std::vector<std::string> hdf5_digest_texts(const Hdf5Spec::Tensor& tensor,
                                           const std::vector<Digest>* digests);

}  // namespace reshard::formats
