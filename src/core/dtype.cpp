#include "core/dtype.hpp"

#include <array>
#include <string>

#include "core/error.hpp"

namespace reshard {
namespace {

struct Row {
  Dtype dtype;
  std::uint64_t bits;
  std::string_view name, torch;
};

constexpr std::array<Row, 23> rows = {{
    {Dtype::boolean, 8, "BOOL", "bool"},
    {Dtype::f4, 4, "F4", "float4_e2m1fn_x2"},
    {Dtype::f6_e2m3, 6, "F6_E2M3", ""},
    {Dtype::f6_e3m2, 6, "F6_E3M2", ""},
    {Dtype::u8, 8, "U8", "uint8"},
    {Dtype::i8, 8, "I8", "int8"},
    {Dtype::f8_e5m2, 8, "F8_E5M2", "float8_e5m2"},
    {Dtype::f8_e4m3, 8, "F8_E4M3", "float8_e4m3fn"},
    {Dtype::f8_e8m0, 8, "F8_E8M0", "float8_e8m0fnu"},
    {Dtype::f8_e4m3fnuz, 8, "F8_E4M3FNUZ", "float8_e4m3fnuz"},
    {Dtype::f8_e5m2fnuz, 8, "F8_E5M2FNUZ", "float8_e5m2fnuz"},
    {Dtype::i16, 16, "I16", "int16"},
    {Dtype::u16, 16, "U16", "uint16"},
    {Dtype::f16, 16, "F16", "float16"},
    {Dtype::bf16, 16, "BF16", "bfloat16"},
    {Dtype::i32, 32, "I32", "int32"},
    {Dtype::u32, 32, "U32", "uint32"},
    {Dtype::f32, 32, "F32", "float32"},
    {Dtype::c64, 64, "C64", "complex64"},
    {Dtype::f64, 64, "F64", "float64"},
    {Dtype::i64, 64, "I64", "int64"},
    {Dtype::u64, 64, "U64", "uint64"},
    {Dtype::c128, 128, "C128", "complex128"},
}};

const Row& row(Dtype dtype) {
  return rows[static_cast<std::size_t>(dtype)];
}

}  // namespace

std::uint64_t bits(Dtype dtype) {
  return row(dtype).bits;
}

std::uint64_t bytes(Dtype dtype) {
  if (bits(dtype) % 8 != 0) {
    throw Error(Kind::input, "elements of dtype " + std::string(name(dtype)) +
                                 " are smaller than a byte: not supported");
  }
  return bits(dtype) / 8;
}

bool is_floating(Dtype dtype) {
  return name(dtype).front() == 'F' || dtype == Dtype::bf16;
}

std::string_view name(Dtype dtype) {
  return row(dtype).name;
}
std::string_view torch_name(Dtype dtype) {
  return row(dtype).torch;
}

std::optional<Dtype> dtype_of_name(std::string_view safetensors_name) {
  for (const Row& r : rows) {
    if (r.name == safetensors_name) return r.dtype;
  }
  return std::nullopt;
}

std::optional<Dtype> dtype_of_torch_name(std::string_view torch_name) {
  for (const Row& r : rows) {
    if (!r.torch.empty() && r.torch == torch_name) return r.dtype;
  }
  return std::nullopt;
}

}  // namespace reshard
