#pragma once

#include <cstddef>
#include <span>

#include "formats/container/pickle.hpp"
#include "formats/container/pickle_arena.hpp"

namespace reshard::formats {

/// Thrown by run_pickle when the bytes end before the pickle.
struct PickleTruncated {};

/// Runs the stack machine of containers.md section 2.8 over one pickle; every length and index is
/// checked. The bytes must outlive the result. Error(input) with the byte offset; PickleTruncated.
PickleArena run_pickle(std::span<const std::byte> bytes, const PickleLimits& limits);

}  // namespace reshard::formats
