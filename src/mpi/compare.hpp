#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/dialect/dialect.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// A canonical tensor whose numbers differ between two checkpoints.
struct TensorDifference {
  std::string role;
  std::uint64_t compared = 0, differing = 0;  ///< elements
  Shape first;                                ///< canonical index of the first that differs
  std::string a, b;                           ///< its two values
  double largest = 0;                         ///< absolute difference; infinite when one is NaN
};

/// What compare found, equal on all ranks.
struct CompareReport {
  struct Side {
    std::string unit, format, family;
    formats::Parallelism parallelism;
    std::vector<std::string> warnings;
    std::uint64_t replicas = 0;  ///< copies held against their original
  } a, b;
  std::uint64_t tensors = 0, elements = 0;  ///< compared
  std::vector<TensorDifference> values;
  std::vector<std::string> only_a, only_b;             ///< roles
  std::vector<std::string> shapes, dtypes;             ///< one line a tensor
  std::vector<std::string> replicas, hyperparameters;  ///< one line a difference
  std::vector<std::string> padding;  ///< vocabulary rows left out, one line a tensor
  bool dtypes_count = true;          ///< false with a tolerance

  [[nodiscard]] bool equal() const {
    return values.empty() && only_a.empty() && only_b.empty() && shapes.empty() &&
           replicas.empty() && hyperparameters.empty() && (dtypes.empty() || !dtypes_count);
  }
};

/// Collective. Holds two checkpoints of any formats against each other, canonical tensor by
/// canonical tensor, in tiles of 4 MiB spread over ranks; every byte is read once. Values of equal
/// dtypes must have equal bits; with different dtypes, or a tolerance, both are cast to fp32.
CompareReport compare(const Comm& comm, const formats::SourceOptions& a,
                      const formats::SourceOptions& b, std::optional<double> tolerance);

/// Collective. Holds every copy within a checkpoint against its original (find_replicas); one line
/// for each that differs. `held` counts them; vocabulary padding is not the model's and may differ.
std::vector<std::string> differing_replicas(const Comm& comm, const formats::Source& source,
                                            std::uint64_t& held);

}  // namespace reshard::mpi
