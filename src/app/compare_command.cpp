#include <cmath>
#include <memory>

#include "app/commands.hpp"
#include "app/report.hpp"
#include "app/shared_options.hpp"
#include "app/text.hpp"
#include "core/printable.hpp"
#include "mpi/compare.hpp"
#include "mpi/compare_manifest.hpp"

namespace reshard::app {
namespace {

struct Options {
  formats::SourceOptions a, b;
  std::optional<double> tolerance;
  std::string manifest;
  OutputOptions output;
};

Json json_of(const mpi::CompareReport::Side& side) {
  return {{"unit", side.unit},         {"format", side.format},
          {"family", side.family},     {"parallelism", to_json(side.parallelism)},
          {"replicas", side.replicas}, {"warnings", side.warnings}};
}

Json json_of(const mpi::CompareReport& r) {
  Json values = Json::array();
  for (const mpi::TensorDifference& d : r.values) {
    values.push_back({{"role", d.role},
                      {"compared", d.compared},
                      {"differing", d.differing},
                      {"first", d.first},
                      {"a", d.a},
                      {"b", d.b},
                      {"largest", std::isinf(d.largest) ? Json("inf") : Json(d.largest)}});
  }
  return {{"equal", r.equal()},   {"a", json_of(r.a)},      {"b", json_of(r.b)},
          {"tensors", r.tensors}, {"elements", r.elements}, {"differences", values},
          {"only_a", r.only_a},   {"only_b", r.only_b},     {"shapes", r.shapes},
          {"dtypes", r.dtypes},   {"replicas", r.replicas}, {"hyperparameters", r.hyperparameters},
          {"padding", r.padding}};
}

std::string text_of(const mpi::CompareReport::Side& side, const char* name) {
  return std::string(name) + ": " + printable(side.unit) + " (" + side.family + ", " + side.format +
         ", " + layout_text(side.parallelism) + ")\n" + lines_of("  warning: ", side.warnings);
}

std::string text_of(const mpi::CompareReport& r) {
  std::string text = text_of(r.a, "A") + text_of(r.b, "B");
  text += lines_of("hyperparameter: ", r.hyperparameters);
  text += lines_of("only in A: ", r.only_a) + lines_of("only in B: ", r.only_b);
  text += lines_of("shape: ", r.shapes);
  text += lines_of(r.dtypes_count ? "dtype: " : "dtype (not counted, --tolerance): ", r.dtypes);
  for (const mpi::TensorDifference& d : r.values) {
    text += "differs: " + d.role + ": " + grouped(d.differing) + " of " + grouped(d.compared) +
            " elements, first at " + to_string(d.first) + ": " + d.a + " in A, " + d.b +
            " in B; largest difference " + shortest(d.largest) + "\n";
  }
  text += lines_of("replica: ", r.replicas);
  text += lines_of("padding, not compared: ", r.padding);
  text += grouped(r.tensors) + " tensors with " + grouped(r.elements) + " elements compared, " +
          grouped(r.a.replicas + r.b.replicas) + " replicas held against their originals: ";
  return text + (r.equal() ? "equal\n" : "different\n");
}

/// A against a manifest instead of a second checkpoint.
int run_manifest(const Options& options, const mpi::Comm& comm) {
  if (!options.b.path.empty() || options.tolerance) {
    throw Error(Kind::usage, "--manifest takes the place of B, and compares digests: bits");
  }
  const mpi::RolesReport r = mpi::compare_manifest(comm, options.a, options.manifest);
  std::string text =
      lines_of("differs: ", r.findings) + lines_of("padding, not compared: ", r.padding) + r.unit +
      " and the manifest in " + r.manifest + ": digests of " + grouped(r.tensors) +
      " tensors compared, " + grouped(r.replicas) + " replicas held against their originals";
  if (r.as_source > 0) text += ", " + grouped(r.as_source) + " with the conversion's source";
  text += r.findings.empty() ? ": equal\n" : ": different\n";
  const Json json = {{"equal", r.findings.empty()}, {"unit", r.unit},
                     {"manifest", r.manifest},      {"tensors", r.tensors},
                     {"as_source", r.as_source},    {"replicas", r.replicas},
                     {"padding", r.padding},        {"findings", r.findings}};
  Report(options.output, comm.rank() == 0).output(text, json);
  return r.findings.empty() ? 0 : static_cast<int>(Kind::verification);
}

int run(const Options& options, const mpi::Comm& comm) {
  if (!options.manifest.empty()) return run_manifest(options, comm);
  if (options.b.path.empty()) throw Error(Kind::usage, "wanted a second checkpoint or --manifest");
  const mpi::CompareReport report = mpi::compare(comm, options.a, options.b, options.tolerance);
  Report(options.output, comm.rank() == 0).output(text_of(report), json_of(report));
  return report.equal() ? 0 : static_cast<int>(Kind::verification);
}

}  // namespace

Command add_compare(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "compare", "Compare two checkpoints of any formats; exit code 5 when they differ");
  command->add_option("A", options->a.path, "a checkpoint")->required();
  command->add_option("B", options->b.path, "another");
  command->add_option("--manifest", options->manifest,
                      "instead of B: a folder with a manifest.json; digests are compared");
  command
      ->add_option("--tolerance", options->tolerance,
                   "largest difference that still counts as equal (default: bits must be equal)")
      ->check(CLI::NonNegativeNumber)
      ->group("Comparison");
  for (const auto& [side, flag] : {std::pair(&options->a, "-a"), std::pair(&options->b, "-b")}) {
    const std::string letter(flag);
    command->add_option("--from" + letter, side->from, "format (default: found out)")
        ->group("Sources");
    command->add_option("--family" + letter, side->family, "architecture (default: found out)")
        ->group("Sources");
    command
        ->add_option("--mds-qkv-layout" + letter, side->mds_qkv_layout,
                     "rows of query_key_value in Megatron-DeepSpeed: grouped (default), blocked")
        ->check(CLI::IsMember({"grouped", "blocked"}))
        ->group("Sources");
    command->add_option("--vocab-size" + letter, side->vocab_size, "true vocabulary")
        ->check(whole(1, std::uint64_t{1} << 40))
        ->group("Sources");
  }
  add_output_options(*command, options->output);
  command->footer(
      "Examples:\n"
      "  reshard compare ckpt/iter_0001000 out/hf\n"
      "  mpirun -n 8 reshard compare bf16/hf fp32/hf --tolerance 1e-2 --json\n"
      "  reshard compare out/tp8 --manifest out/hf");
  return {command, [options](const mpi::Comm& comm) { return run(*options, comm); }};
}

}  // namespace reshard::app
