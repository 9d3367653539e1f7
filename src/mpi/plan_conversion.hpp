#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/cost.hpp"
#include "mpi/prepare.hpp"

namespace reshard::mpi {

/// What `plan` finds out; equal to what a conversion on as many ranks would do.
struct PlanReport : ConversionFacts {
  std::vector<std::pair<std::string, double>> phases;  ///< seconds
  std::uint64_t source_files = 0, target_files = 0;
  std::uint64_t memory = 0, peak_rss = 0;
  PlanCost cost;
  Json function_args;  ///< see formats::Source
};

/// Collective. Phases 1 to 4 for a job of `ranks` (0: of this many), without touching tensor data;
/// throws what convert would. `memory`: bytes a rank for buffers, 0: see default_memory. The cost
/// is known on rank 0.
PlanReport plan_conversion(const Comm& comm, const Wish& wish, int ranks, std::uint64_t memory);

}  // namespace reshard::mpi
