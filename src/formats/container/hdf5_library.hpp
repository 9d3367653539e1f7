#pragma once

#include <hdf5.h>

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.hpp"
#include "core/error.hpp"
#include "core/shape.hpp"

// What all that calls HDF5's library needs. Included by container/hdf5_*.cpp only.

namespace reshard::formats {

/// The right to call HDF5's library, which has state of its own and lets one thread in at a time.
/// The first of a process silences the library's messages and forbids it to load plugins, wherever
/// HDF5_PLUGIN_PATH points.
std::unique_lock<std::mutex> hdf5_lock();

/// The innermost message of the library's last failure, "" if it left none.
std::string hdf5_message();

/// Move-only owner of one of the library's identifiers.
class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  /// Error(kind) "call: message" when the identifier is that of a failure.
  Hdf5Handle(hid_t id, const char* call, Kind kind = Kind::input);
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(other.id_) { other.id_ = H5I_INVALID_HID; }
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Hdf5Handle();
  [[nodiscard]] hid_t get() const { return id_; }
  /// Gives up a file, with everything of it that is still open, and says when that fails.
  void close_file(Kind kind);

 private:
  hid_t id_ = H5I_INVALID_HID;
};

/// The result of a call, which is negative when it failed: Error(kind) then.
template <class Result>
Result hdf5_checked(Result result, const char* call, Kind kind = Kind::input) {
  if (result < 0) throw Error(kind, call + (": " + hdf5_message()));
  return result;
}

/// The type in a file of elements of a dtype. What HDF5 has no type for is a custom float (bf16,
/// f16, f8_e5m2), whose bits every reader converts right, else bytes; see hdf5_layout.hpp.
Hdf5Handle hdf5_type_of(Dtype dtype);
/// The dtype that a type of a file means without an attribute that says it: h5py's booleans and
/// complex numbers too. Error(input) for strings, references, big-endian numbers and all else.
Dtype dtype_of_hdf5(hid_t type);

/// The text of an attribute of one value, of fixed or any length, up to its first zero; nothing if
/// it is none. Error(input) above 16 MiB.
std::optional<std::string> hdf5_text_in(const Hdf5Handle& attribute);

/// A fixed-length string of so many bytes, UTF-8, padded with zeros.
Hdf5Handle hdf5_text_type(std::size_t bytes);
/// A space of a shape; one without dimensions is a scalar.
Hdf5Handle hdf5_space_of(const Shape& shape);

}  // namespace reshard::formats
