#include "formats/dialect/stages.hpp"

#include <algorithm>
#include <string>
#include <tuple>

#include "core/error.hpp"
#include "core/shape.hpp"

namespace reshard::formats {

std::vector<std::uint64_t> Parallelism::layers_of_stages() const {
  std::vector<std::uint64_t> layers(pp, 0);
  for (std::size_t c = 0; c < chunks.size(); ++c) layers[c % pp] += chunks[c].count;
  return layers;
}

std::vector<FileRank> file_grid(const Parallelism& p, std::uint64_t world) {
  const std::uint64_t ranks = std::max(p.tp, p.etp * p.ep);
  if (world / p.pp < ranks || ranks % p.tp != 0 || ranks % p.etp != 0) {
    throw Error(Kind::input, "tp " + std::to_string(p.tp) + ", ep " + std::to_string(p.ep) +
                                 ", etp " + std::to_string(p.etp) + " and pp " +
                                 std::to_string(p.pp) + " do not fit a world of " +
                                 std::to_string(world));
  }
  std::vector<FileRank> grid;
  for (std::uint64_t stage = 0; stage < p.pp; ++stage) {
    for (std::uint64_t inner = 0; inner < ranks; ++inner) {
      const FileRank rank{inner % p.tp, stage, inner / p.etp % p.ep, inner % p.etp};
      if (std::find(grid.begin(), grid.end(), rank) == grid.end()) grid.push_back(rank);
    }
  }
  std::sort(grid.begin(), grid.end(), [](const FileRank& a, const FileRank& b) {
    return std::tie(a.tp, a.pp, a.ep) < std::tie(b.tp, b.pp, b.ep);
  });
  return grid;
}

std::vector<LayerRange> stage_table(std::uint64_t layers, std::uint64_t pp, std::uint64_t vpp,
                                    const std::vector<std::uint64_t>& stage_layers) {
  std::vector<std::uint64_t> stages = stage_layers;
  if (stages.empty()) {
    if (layers % pp != 0) {
      throw Error(Kind::usage, std::to_string(layers) + " layers do not divide into " +
                                   std::to_string(pp) +
                                   " equal stages: name them with --stage-layers");
    }
    stages.assign(pp, layers / pp);
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t n : stages) sum = checked_sum(sum, n);
  if (stages.size() != pp || sum != layers) {
    throw Error(Kind::usage, "--stage-layers names " + std::to_string(stages.size()) +
                                 " stages with " + std::to_string(sum) + " layers; wanted " +
                                 std::to_string(pp) + " stages with " + std::to_string(layers));
  }
  std::vector<std::uint64_t> counts;
  for (std::uint64_t v = 0; v < vpp; ++v) {
    for (const std::uint64_t n : stages) {
      if (n % vpp != 0) {
        throw Error(Kind::usage, "a stage of " + std::to_string(n) +
                                     " layers does not divide into --vpp " + std::to_string(vpp) +
                                     " chunks");
      }
      counts.push_back(n / vpp);
    }
  }
  return chunks_of_counts(counts);
}

std::vector<LayerRange> chunks_of_counts(const std::vector<std::uint64_t>& counts) {
  std::vector<LayerRange> chunks;
  std::uint64_t first = 0;
  for (const std::uint64_t n : counts) {
    chunks.push_back({first, n});
    first += n;
  }
  return chunks;
}

}  // namespace reshard::formats
