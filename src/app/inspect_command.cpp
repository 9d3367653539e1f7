#include <memory>

#include "app/commands.hpp"
#include "app/inspect_text.hpp"
#include "app/report.hpp"
#include "app/shared_options.hpp"

namespace reshard::app {
namespace {

struct Options {
  formats::SourceOptions source;
  std::string tensor;
  bool statistics = false;
  OutputOptions output;
};

int run(const Options& options, const mpi::Comm& comm) {
  const mpi::InspectReport report = mpi::inspect(comm, options.source, options.statistics);
  if (comm.rank() != 0) return 0;
  Report out(options.output, true);
  if (!report.source) {
    if (!options.tensor.empty() || options.statistics) {
      throw Error(Kind::usage, "--tensor and --stats need a checkpoint: " + report.failure);
    }
    out.output(files_text(report), files_json(report));
  } else if (!options.tensor.empty()) {
    const Json placements = placements_json(*report.source, options.tensor);
    out.output(placements_text(placements), placements);
  } else {
    out.output(checkpoint_text(report), checkpoint_json(report));
  }
  return 0;
}

}  // namespace

Command add_inspect(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect", "Show what a checkpoint holds: model, layout, tensors");
  add_source_options(*command, options->source);
  command
      ->add_option("--tensor", options->tensor,
                   "only where this tensor lies: its role, or its name in the files")
      ->group("Content");
  command
      ->add_flag("--stats", options->statistics,
                 "read all tensors: least, largest and mean value, NaN, infinities")
      ->group("Content");
  add_output_options(*command, options->output);
  command->footer(
      "Examples:\n"
      "  reshard inspect ckpt/iter_0001000\n"
      "  reshard inspect hf --tensor layers.0.attention.q.weight");
  return {command, [options](const mpi::Comm& comm) { return run(*options, comm); }};
}

}  // namespace reshard::app
