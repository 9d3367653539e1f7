#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/json.hpp"

namespace reshard {

/// What JSON from a stranger may hold: nesting, and values, keys and text for its size in memory.
struct JsonLimits {
  int depth = 32;
  std::uint64_t bytes = std::uint64_t{64} << 20;  ///< of the value in memory, about
};

/// The value of JSON text; Error(input) with the byte where it is none, names a key of an object
/// twice, or goes beyond the limits.
Json json_of_text(std::string_view text, const JsonLimits& limits = {});
/// The same of CBOR.
Json json_of_cbor(std::span<const std::byte> bytes, const JsonLimits& limits = {});

}  // namespace reshard
