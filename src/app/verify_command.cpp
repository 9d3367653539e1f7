#include <memory>
#include <random>

#include "app/commands.hpp"
#include "app/report.hpp"
#include "app/stop.hpp"
#include "app/text.hpp"
#include "mpi/convert.hpp"
#include "mpi/verify_manifest.hpp"

namespace reshard::app {
namespace {

struct Options {
  mpi::ProofOptions proof;
  std::optional<double> percent;
  std::optional<std::uint64_t> seed;
  OutputOptions output;
};

double percent_of(std::uint64_t part, std::uint64_t all) {
  return all == 0 ? 100 : 100 * static_cast<double>(part) / static_cast<double>(all);
}

Json json_of(const mpi::ProofReport& r, const Options& options) {
  Json json = {{"unit", r.unit},
               {"proven", r.findings.empty()},
               {"files", r.files},
               {"tensors", r.tensors},
               {"bytes", r.bytes},
               {"tensors_read", r.tensors_read},
               {"bytes_read", r.bytes_read},
               {"findings", r.findings},
               {"notes", r.notes}};
  if (options.proof.sample) json["seed"] = options.proof.seed;
  return json;
}

std::string text_of(const mpi::ProofReport& r, const Options& options) {
  std::string text = lines_of("note: ", r.notes) + lines_of("found: ", r.findings);
  text += r.unit + ": " + grouped(r.files) + " files, " + grouped(r.tensors_read) + " of " +
          grouped(r.tensors) + " tensors, " + human_bytes(r.bytes_read) + " of " +
          human_bytes(r.bytes) + " read: ";
  if (!r.findings.empty()) {
    return text + grouped(r.findings.size()) +
           (r.findings.size() == 1 ? " finding\n" : " findings\n");
  }
  if (!options.proof.sample) {
    return text + (r.notes.empty() ? "every byte is as the conversion wrote it\n"
                                   : "every byte of these files is as the conversion wrote it\n");
  }
  return text + "nothing found. One damaged byte at a random place would have been found with " +
         fixed(percent_of(r.bytes_read, r.bytes), 1) +
         " % probability; headers and all else that is no tensor was read whole (--seed " +
         std::to_string(options.proof.seed) + " reads the same again)\n";
}

int run(Options options, const mpi::Comm& comm) {
  Report report(options.output, comm.rank() == 0);
  if (options.percent) options.proof.sample = *options.percent / 100;
  options.proof.seed = options.seed ? *options.seed : std::random_device()();
  options.proof.seed = std::stoull(mpi::broadcast(comm, std::to_string(options.proof.seed), 0));
  options.proof.progress = [&](std::uint64_t done, std::uint64_t all) {
    report.progress(done, all);
  };
  catch_signals();
  options.proof.check_stop = check_stop;
  const mpi::ProofReport found = mpi::verify_manifest(comm, options.proof);
  report.output(text_of(found, options), json_of(found, options));
  return found.findings.empty() ? 0 : static_cast<int>(Kind::verification);
}

}  // namespace

Command add_verify(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  options->proof.io_threads = mpi::default_io_threads;
  CLI::App* command = app.add_subcommand(
      "verify",
      "Prove a converted checkpoint by its own manifest, without the source; exit code 5 "
      "when a byte is not as it was written");
  command->add_option("DIR", options->proof.path, "a converted checkpoint")->required();
  command
      ->add_option("--sample", options->percent,
                   "read only so many percent of the tensors, chosen at random")
      ->check(CLI::Range(0.0, 100.0));
  command->add_option("--seed", options->seed, "of the random choice (default: a new one)");
  command->add_option("--io-threads", options->proof.io_threads, "threads of a rank that read")
      ->check(CLI::Range(1, 64));
  add_output_options(*command, options->output);
  command->footer(
      "Examples:\n"
      "  mpirun -n 4 reshard verify out/hf\n"
      "  reshard verify megatron/iter_0001000 --sample 5");
  return {command, [options](const mpi::Comm& comm) { return run(*options, comm); }};
}

}  // namespace reshard::app
