#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace reshard {

/// Element types, all that safetensors and torch know (containers.md section 1.3), in the order of
/// the safetensors reference ("increasing alignment"; its writer sorts by it, descending).
enum class Dtype : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
  c128,
};

/// Bits of one element (4 for f4, 6 for f6, 8 for bool).
std::uint64_t bits(Dtype dtype);
/// Bytes of one element; Error(input) for packed types below one byte.
std::uint64_t bytes(Dtype dtype);
/// Whether elements are floating point numbers, of any width, as weights are.
bool is_floating(Dtype dtype);
/// safetensors' name: "BF16"; c128, which safetensors lacks, is "C128".
std::string_view name(Dtype dtype);
/// torch's name: "bfloat16"; empty for types that torch lacks (f6).
std::string_view torch_name(Dtype dtype);
std::optional<Dtype> dtype_of_name(std::string_view safetensors_name);
std::optional<Dtype> dtype_of_torch_name(std::string_view torch_name);

}  // namespace reshard
