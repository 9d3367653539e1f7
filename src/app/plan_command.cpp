#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>

#include "app/commands.hpp"
#include "app/report.hpp"
#include "app/shared_options.hpp"
#include "app/text.hpp"
#include "core/printable.hpp"
#include "mpi/plan_conversion.hpp"

namespace reshard::app {
namespace {

struct Options {
  formats::SourceOptions source;
  formats::TargetOptions target;
  OptionWords words;
  bool overwrite = false;
  int ranks = 0;
  std::uint64_t ranks_per_node = 0;
  OutputOptions output;
};

using Bytes = std::vector<std::uint64_t>;

std::uint64_t sum_of(const Bytes& values) {
  return std::accumulate(values.begin(), values.end(), std::uint64_t{0});
}

/// The quantities that are balanced, by name; all are what disks and network see of a rank.
std::vector<std::pair<const char*, Bytes>> quantities(const PlanCost& cost) {
  Bytes all = cost.read;
  for (const Bytes* bytes : {&cost.sent, &cost.received, &cost.written}) {
    std::transform(all.begin(), all.end(), bytes->begin(), all.begin(), std::plus<>());
  }
  return {{"read", cost.read},       {"sent", cost.sent}, {"received", cost.received},
          {"written", cost.written}, {"all", all},        {"local", cost.local}};
}

Json json_of(const mpi::PlanReport& r, std::uint64_t per_node) {
  Json phases = Json::object(), pairs = Json::array();
  for (const auto& [phase, seconds] : r.phases) phases[phase] = seconds;
  for (const PlanCost::Pair& pair : r.cost.heaviest) {
    pairs.push_back({{"from", pair.from}, {"to", pair.to}, {"bytes", pair.bytes}});
  }
  Json json = {{"unit", r.unit},
               {"already", r.already},
               {"from", r.from},
               {"to", r.to},
               {"family", r.family},
               {"source_parallelism", to_json(r.source_parallelism)},
               {"target_parallelism", to_json(r.target_parallelism)},
               {"phases", phases},
               {"ranks", r.cost.read.size()},
               {"ranks_per_node", per_node},
               {"source_files", r.source_files},
               {"target_files", r.target_files},
               {"tensors", r.tensors},
               {"parameters", r.parameters},
               {"target_bytes", r.target_bytes},
               {"rounds", r.cost.rounds},
               {"tiles", r.cost.tiles},
               {"tile_bytes", r.tile_bytes},
               {"memory", r.memory},
               {"buffers", r.cost.buffers},
               {"pairs", r.cost.pairs},
               {"heaviest_pairs", pairs},
               {"peak_rss", r.peak_rss},
               {"warnings", r.warnings},
               {"dropped", r.dropped},
               {"notes", r.notes}};
  for (const auto& [name, bytes] : quantities(r.cost)) {
    json[name] = {{"sum", sum_of(bytes)},
                  {"max_over_mean", imbalance(bytes, 1)},
                  {"max_over_mean_of_nodes", imbalance(bytes, per_node)},
                  {"by_rank", bytes},
                  {"by_node", by_group(bytes, per_node)}};
  }
  return json;
}

std::string text_of(const mpi::PlanReport& r, std::uint64_t per_node) {
  std::string text = lines_of("warning: ", r.warnings) + lines_of("dropped: ", r.dropped);
  text += r.family + " from " + r.from + " (" + layout_text(r.source_parallelism) + ", " +
          std::to_string(r.source_files) + " files) to " + r.to + " (" +
          layout_text(r.target_parallelism) + ", " + std::to_string(r.target_files) +
          " files): " + std::to_string(r.tensors) + " tensors, " + grouped(r.parameters) +
          " parameters, " + human_bytes(r.target_bytes) + "\n";
  const std::size_t ranks = r.cost.read.size(), nodes = (ranks + per_node - 1) / per_node;
  text += std::to_string(ranks) + " ranks on " + std::to_string(nodes) +
          " nodes: " + std::to_string(r.cost.tiles) + " tiles of " + human_bytes(r.tile_bytes) +
          " in " + std::to_string(r.cost.rounds) + " rounds; buffers of a rank at most " +
          human_bytes(r.cost.buffers) + " (bound " + human_bytes(r.memory) + ")\n\n";
  text += padded("", 10) + padded("in sum", 12) + padded("a rank", 12) + padded("max/mean", 10) +
          padded("a node", 12) + "max/mean\n";
  for (const auto& [name, bytes] : quantities(r.cost)) {
    const std::uint64_t sum = sum_of(bytes);
    text += padded(name, 10) + padded(human_bytes(sum), 12) + padded(human_bytes(sum / ranks), 12) +
            padded(fixed(imbalance(bytes, 1), 3), 10) + padded(human_bytes(sum / nodes), 12) +
            fixed(imbalance(bytes, per_node), 3) + "\n";
  }
  if (!r.cost.heaviest.empty()) {
    text += "\n" + grouped(r.cost.pairs) + " pairs of ranks exchange something, most of all\n";
  }
  for (const PlanCost::Pair& pair : r.cost.heaviest) {
    text += "  " + std::to_string(pair.from) + " -> " + std::to_string(pair.to) + "  " +
            human_bytes(pair.bytes) + "\n";
  }
  text += "\nplanned with";
  for (const auto& [phase, seconds] : r.phases)
    text += " " + phase + " " + fixed(seconds, 2) + " s,";
  return text + " " + human_bytes(r.peak_rss) + " of memory\n" + lines_of("note: ", r.notes) +
         (r.already ? "is converted already: " : "would write ") + printable(r.unit) + "\n";
}

int run(Options options, const mpi::Comm& comm) {
  settle(options.words, options.target);
  const std::uint64_t memory = memory_of(options.words);
  const auto ranks = static_cast<std::uint64_t>(options.ranks == 0 ? comm.size() : options.ranks);
  const std::uint64_t per_node = options.ranks_per_node == 0 ? ranks : options.ranks_per_node;
  const mpi::PlanReport report = mpi::plan_conversion(
      comm, {options.source, options.target, options.overwrite}, options.ranks, memory);
  if (comm.rank() != 0) return 0;
  Report(options.output, true).output(text_of(report, per_node), json_of(report, per_node));
  return 0;
}

}  // namespace

Command add_plan(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "plan", "Say what a conversion would move, and whether it would work, reading headers only");
  add_source_options(*command, options->source);
  add_replicas_option(*command, options->source);
  command->add_option("DST", options->target.path, "folder that would be written")->required();
  add_target_options(*command, options->target, options->words);
  command->add_option("--ranks", options->ranks, "plan for a job of so many ranks")
      ->check(CLI::Range(1, 1 << 16))
      ->group("Run");
  command
      ->add_option("--ranks-per-node", options->ranks_per_node,
                   "ranks of a node (default: all on one)")
      ->check(CLI::Range(1, 1 << 20))
      ->group("Run");
  command
      ->add_option(
          "--memory", options->words.memory,
          "bound of a rank's buffers (default: 2GiB, at most half of what the node has left)")
      ->group("Run");
  command->add_flag("--overwrite", options->overwrite, "DST may hold something")->group("Run");
  add_output_options(*command, options->output);
  command->footer(
      "Examples:\n"
      "  reshard plan ckpt/iter_0001000 out/hf --to hf\n"
      "  reshard plan hf out/megatron --to megatron --tp 8 --pp 16 --ranks 4096 "
      "--ranks-per-node 32");
  return {command, [options](const mpi::Comm& comm) { return run(*options, comm); }};
}

}  // namespace reshard::app
