#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/geometry.hpp"
#include "core/json.hpp"
#include "formats/dialect/source.hpp"

namespace reshard::formats {

/// A model to be made up.
struct SampleOptions {
  std::string family;  ///< a family, one of its model types or a table FILE.json
  /// Wanted number of parameters: sizes below that are not given follow from it.
  std::optional<std::uint64_t> parameters;
  /// Lines of the record by name (layers, hidden, heads, groups, attention_bias, ...); what is not
  /// given is small.
  Json hyperparameters = Json::object();
  std::uint64_t iteration = 0;
};

/// A source without files, the model of a family and of sizes; its config.json is made for it and
/// its values, sample_value, are float32 unless the target has another dtype. Error(usage) for a
/// hyperparameter that the family's config.json has no key for, and for a number of parameters
/// that no sizes within 3 % of it are found for.
Source sample_source(const SampleOptions& options);

/// What stands for a canonical tensor in the values of its elements.
inline std::uint64_t sample_key(std::string_view role) {
  std::uint64_t key = 0xcbf29ce484222325;
  for (const char c : role) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return key * 0x9e3779b97f4a7c15;
}

/// The value of an element, by the row-major index in its canonical tensor: pseudorandom, of either
/// sign, between 2^-9 and 2^-5 and so an ordinary number in every dtype.
inline float sample_value(std::uint64_t key, std::uint64_t index) {
  std::uint64_t h = (key + index) * 0xbf58476d1ce4e5b9;
  h = (h ^ (h >> 31)) * 0x94d049bb133111eb;
  const auto sign = static_cast<std::uint32_t>(h >> 63) << 31;
  const auto exponent = static_cast<std::uint32_t>(118 + ((h >> 61) & 3)) << 23;
  return std::bit_cast<float>(sign | exponent | static_cast<std::uint32_t>((h >> 38) & 0x7fffff));
}

/// Puts the values of a target's tensors into a range of bytes of one of its files; what no
/// placement covers is left alone.
void put_sample(const Geometry& geometry, std::uint32_t file, ByteRange range,
                std::span<std::byte> bytes);

}  // namespace reshard::formats
