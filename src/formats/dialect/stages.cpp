#include "formats/dialect/stages.hpp"

#include <algorithm>
#include <map>
#include <numeric>
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

Json to_json(const Parallelism& p) {
  Json chunks = Json::array();
  for (std::size_t c = 0; c < p.chunks.size(); ++c) {
    chunks.push_back({{"stage", c % p.pp},
                      {"chunk", c / p.pp},
                      {"first_layer", p.chunks[c].first},
                      {"layers", p.chunks[c].count}});
  }
  return {{"tp", p.tp},   {"pp", p.pp}, {"vpp", p.vpp}, {"ep", p.ep},
          {"etp", p.etp}, {"cp", p.cp}, {"dp", p.dp},   {"stages", std::move(chunks)}};
}

std::vector<FileRank> file_grid(const Parallelism& p, std::uint64_t world) {
  constexpr std::uint64_t most_files = std::uint64_t{1} << 20;
  const std::uint64_t ranks = std::max(p.tp, checked_product(p.etp, p.ep));
  const std::string degrees = "tp " + std::to_string(p.tp) + ", ep " + std::to_string(p.ep) +
                              ", etp " + std::to_string(p.etp) + " and pp " + std::to_string(p.pp);
  if (world / p.pp < ranks) {
    throw Error(Kind::input, degrees + " do not fit a world of " + std::to_string(world));
  }
  if (ranks > most_files / p.pp) {
    throw Error(Kind::input, degrees + " make more than " + std::to_string(most_files) + " files");
  }
  std::map<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>, FileRank> files;  // by name
  for (std::uint64_t stage = 0; stage < p.pp; ++stage) {
    for (std::uint64_t inner = 0; inner < ranks; ++inner) {
      const FileRank rank{inner % p.tp, stage, inner / p.etp % p.ep, inner % p.etp};
      const auto [at, is_new] = files.emplace(std::tuple(rank.tp, rank.pp, rank.ep), rank);
      if (!is_new && at->second != rank) {
        throw Error(Kind::input, degrees + ": ranks with different parts of the experts would " +
                                     "share one file, whose name tells only tp, pp and ep; wanted "
                                     "an etp that divides tp");
      }
    }
  }
  std::vector<FileRank> grid;
  for (const auto& [name, rank] : files) grid.push_back(rank);
  return grid;
}

std::uint64_t ranks_of_stage(const Parallelism& p) {
  return std::lcm(p.tp, checked_product(p.etp, p.ep));
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
