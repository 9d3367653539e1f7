#pragma once

#include <functional>
#include <vector>

#include "core/digest.hpp"
#include "core/geometry.hpp"
#include "core/plan.hpp"
#include "formats/dialect/source.hpp"
#include "formats/source_reader.hpp"
#include "mpi/comm.hpp"

namespace reshard::mpi {

/// Collective. Reads this rank's replicas of the source and holds their digests against those of
/// the pieces that were read instead (`read`, summed over ranks). Error(input) names the tensor,
/// both files and the size of the difference.
void compare_replicas(const Comm& comm, const Geometry& geometry, const Plan& plan,
                      const std::vector<Digest>& read, formats::SourceReader& reader,
                      const std::function<void()>& check_stop);

/// Collective. Puts means in the place of what every tensor parallel rank stores whole under one
/// name (norms, biases), because Megatron-DeepSpeed lets them drift apart (deepspeed.md section 9):
/// summed in f32 (f64 for f64) in the order of the replicas, divided, rounded once. Means lie in
/// memory, as a source file of their own; a note tells how far the replicas were apart.
void average_replicas(const Comm& comm, formats::Source& source);

}  // namespace reshard::mpi
