#include "formats/container/hdf5_library.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

namespace reshard::formats {
namespace {

/// Sign, exponent and mantissa of a little-endian float that HDF5 has no name for.
struct FloatFields {
  std::size_t bytes, sign, exponent, exponent_bits, mantissa_bits, bias;
};

Hdf5Handle float_type(const FloatFields& f) {
  Hdf5Handle type(H5Tcopy(H5T_IEEE_F32LE), "H5Tcopy");
  hdf5_checked(H5Tset_fields(type.get(), f.sign, f.exponent, f.exponent_bits, 0, f.mantissa_bits),
               "H5Tset_fields");
  hdf5_checked(H5Tset_size(type.get(), f.bytes), "H5Tset_size");
  hdf5_checked(H5Tset_ebias(type.get(), f.bias), "H5Tset_ebias");
  return type;
}

/// h5py's complex numbers.
Hdf5Handle complex_type(hid_t part) {
  const std::size_t width = H5Tget_size(part);
  Hdf5Handle type(H5Tcreate(H5T_COMPOUND, 2 * width), "H5Tcreate");
  hdf5_checked(H5Tinsert(type.get(), "r", 0, part), "H5Tinsert");
  hdf5_checked(H5Tinsert(type.get(), "i", width, part), "H5Tinsert");
  return type;
}

/// h5py's booleans.
Hdf5Handle boolean_type() {
  Hdf5Handle type(H5Tenum_create(H5T_STD_I8LE), "H5Tenum_create");
  signed char value = 0;
  hdf5_checked(H5Tenum_insert(type.get(), "FALSE", &value), "H5Tenum_insert");
  value = 1;
  hdf5_checked(H5Tenum_insert(type.get(), "TRUE", &value), "H5Tenum_insert");
  return type;
}

bool same_type(hid_t a, hid_t b) {
  return hdf5_checked(H5Tequal(a, b), "H5Tequal") > 0;
}

/// What a type is that no tensor has.
std::string description_of(hid_t type) {
  const H5T_class_t kind = H5Tget_class(type);
  if (kind == H5T_STRING) return "texts";
  const std::string bytes = std::to_string(H5Tget_size(type)) + " bytes";
  const bool number = kind == H5T_INTEGER || kind == H5T_FLOAT;
  if (number && H5Tget_order(type) == H5T_ORDER_BE) return "big-endian numbers of " + bytes;
  return (number ? "numbers of " : "values of ") + bytes;
}

}  // namespace

std::unique_lock<std::mutex> hdf5_lock() {
  static std::mutex mutex;  // as global as what it guards
  std::unique_lock lock(mutex);
  static bool ready = false;
  if (!ready) {
    hdf5_checked(H5open(), "H5open", Kind::internal);
    hdf5_checked(H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr), "H5Eset_auto2", Kind::internal);
    hdf5_checked(H5PLset_loading_state(0), "H5PLset_loading_state", Kind::internal);
    ready = true;
  }
  return lock;
}

std::string hdf5_message() {
  std::string message;
  const auto keep_last = [](unsigned, const H5E_error2_t* error, void* to) -> herr_t {
    if (error->desc != nullptr) *static_cast<std::string*>(to) = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_last, &message);
  return message;
}

Hdf5Handle::Hdf5Handle(hid_t id, const char* call, Kind kind) : id_(hdf5_checked(id, call, kind)) {}

Hdf5Handle::~Hdf5Handle() {
  if (id_ >= 0) H5Idec_ref(id_);
}

void Hdf5Handle::close_file(Kind kind) {
  hdf5_checked(H5Fclose(std::exchange(id_, H5I_INVALID_HID)), "H5Fclose", kind);
}

Hdf5Handle hdf5_type_of(Dtype dtype) {
  const auto named = [](hid_t type) { return Hdf5Handle(H5Tcopy(type), "H5Tcopy"); };
  switch (dtype) {
    case Dtype::i8:
      return named(H5T_STD_I8LE);
    case Dtype::i16:
      return named(H5T_STD_I16LE);
    case Dtype::u16:
      return named(H5T_STD_U16LE);
    case Dtype::i32:
      return named(H5T_STD_I32LE);
    case Dtype::u32:
      return named(H5T_STD_U32LE);
    case Dtype::i64:
      return named(H5T_STD_I64LE);
    case Dtype::u64:
      return named(H5T_STD_U64LE);
    case Dtype::f32:
      return named(H5T_IEEE_F32LE);
    case Dtype::f64:
      return named(H5T_IEEE_F64LE);
    case Dtype::f16:
      return float_type({2, 15, 10, 5, 10, 15});
    case Dtype::bf16:
      return float_type({2, 15, 7, 8, 7, 127});
    case Dtype::f8_e5m2:
      return float_type({1, 7, 2, 5, 2, 15});
    case Dtype::c64:
      return complex_type(H5T_IEEE_F32LE);
    case Dtype::c128:
      return complex_type(H5T_IEEE_F64LE);
    case Dtype::boolean:
    case Dtype::u8:
    case Dtype::f8_e4m3:
    case Dtype::f8_e8m0:
    case Dtype::f8_e4m3fnuz:
    case Dtype::f8_e5m2fnuz:
      return named(H5T_STD_U8LE);
    case Dtype::f4:
    case Dtype::f6_e2m3:
    case Dtype::f6_e3m2:
      break;
  }
  bytes(dtype);  // says that they are smaller than a byte
  throw Error(Kind::internal, "no HDF5 type of dtype " + std::string(name(dtype)));
}

Dtype dtype_of_hdf5(hid_t type) {
  constexpr std::array plain = {Dtype::u8,  Dtype::i8,  Dtype::i16,     Dtype::u16, Dtype::i32,
                                Dtype::u32, Dtype::i64, Dtype::u64,     Dtype::f16, Dtype::bf16,
                                Dtype::f32, Dtype::f64, Dtype::f8_e5m2, Dtype::c64, Dtype::c128};
  const auto found = std::find_if(plain.begin(), plain.end(), [&](Dtype dtype) {
    return same_type(type, hdf5_type_of(dtype).get());
  });
  if (found != plain.end()) return *found;
  if (same_type(type, boolean_type().get())) return Dtype::boolean;
  throw Error(Kind::input, "holds " + description_of(type) + ", a type that no tensor has here");
}

std::optional<std::string> hdf5_text_in(const Hdf5Handle& attribute) {
  constexpr std::uint64_t most = std::uint64_t{16} << 20;
  const Hdf5Handle type(H5Aget_type(attribute.get()), "H5Aget_type");
  const Hdf5Handle space(H5Aget_space(attribute.get()), "H5Aget_space");
  if (H5Tget_class(type.get()) != H5T_STRING) return std::nullopt;
  if (H5Sget_simple_extent_npoints(space.get()) != 1) return std::nullopt;
  const auto check = [](std::uint64_t bytes) {
    if (bytes > most) throw Error(Kind::input, "a text of " + std::to_string(bytes) + " bytes");
  };
  if (H5Tis_variable_str(type.get()) > 0) {
    char* allocated = nullptr;
    hdf5_checked(H5Aread(attribute.get(), type.get(), &allocated), "H5Aread");
    const std::unique_ptr<char, herr_t (*)(void*)> text(
        allocated, [](void* memory) { return H5free_memory(memory); });
    if (text == nullptr) return "";
    check(std::strlen(text.get()));
    return text.get();
  }
  const std::size_t bytes = H5Tget_size(type.get());
  check(bytes);
  std::string text(bytes, '\0');
  hdf5_checked(H5Aread(attribute.get(), type.get(), text.data()), "H5Aread");
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

Hdf5Handle hdf5_text_type(std::size_t bytes) {
  Hdf5Handle type(H5Tcopy(H5T_C_S1), "H5Tcopy");
  hdf5_checked(H5Tset_size(type.get(), std::max<std::size_t>(bytes, 1)), "H5Tset_size");
  hdf5_checked(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), "H5Tset_strpad");
  hdf5_checked(H5Tset_cset(type.get(), H5T_CSET_UTF8), "H5Tset_cset");
  return type;
}

Hdf5Handle hdf5_space_of(const Shape& shape) {
  if (shape.empty()) return {H5Screate(H5S_SCALAR), "H5Screate"};
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  return {H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
          "H5Screate_simple"};
}

}  // namespace reshard::formats
