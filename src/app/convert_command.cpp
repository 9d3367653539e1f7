#include <filesystem>
#include <memory>
#include <numeric>

#include "app/aliases.hpp"
#include "app/commands.hpp"
#include "app/convert_options.hpp"
#include "app/report.hpp"
#include "app/stop.hpp"
#include "formats/file.hpp"
#include "mpi/convert.hpp"
#include "submit/records.hpp"

namespace reshard::app {
namespace {

struct Options {
  ConversionWords conversion;
  OutputOptions output;
  std::string report, index;
};

/// What a job keeps of a conversion: a file of its own for each run.
void write_report(const Options& options, const Json& json) {
  if (options.report.empty()) return;
  formats::write_text(options.report,
                      json.dump(2, ' ', true, Json::error_handler_t::replace) + "\n");
}

/// The line of a conversion that is done, for those who go on with what it made.
void write_index(const Options& options, const mpi::ConvertReport& report) {
  if (options.index.empty()) return;
  submit::IndexEntry entry;
  const auto whole = [](const std::string& path) {
    return std::filesystem::absolute(path).lexically_normal().string();
  };
  entry.source = whole(options.conversion.convert.source.path);
  entry.target = whole(report.unit);
  entry.iteration = options.conversion.convert.source.iteration;
  if (report.verified || report.already) entry.digest = submit::digest_of_unit(report.unit);
  for (const auto& phase : report.phases) entry.seconds += phase.seconds;
  entry.bytes = report.target_bytes;
  submit::append_index(options.index, entry);
}

int run(Options options, const mpi::Comm& comm) {
  mpi::ConvertOptions& convert = options.conversion.convert;
  Report report(options.output, comm.rank() == 0);
  try {
    settle(options.conversion);
    convert.progress = [&](std::uint64_t done, std::uint64_t all) { report.progress(done, all); };
    catch_signals();
    convert.check_stop = check_stop;
    convert.stalled = [&](const std::string& text) { report.stalled(text); };
    const mpi::ConvertReport done = mpi::convert(comm, convert);
    mpi::agree(comm, "report", [&] {
      if (comm.rank() != 0) return;
      write_report(options, report_json(done));
      write_index(options, done);
    });
    report.converted(done);
  } catch (const Error& error) {
    if (comm.rank() == 0) {
      const auto fault = mpi::attempt([&] { write_report(options, failure_json(error)); });
      if (fault) report_note(fault->what());
    }
    throw;
  }
  return 0;
}

}  // namespace

Command add_convert(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("convert", "Convert or reshard a checkpoint");
  add_conversion_options(*command, options->conversion);
  add_output_options(*command, options->output);
  command
      ->add_option("--report", options->report,
                   "write what --json prints into this file, also of a failure")
      ->group("Output");
  command
      ->add_option("--index", options->index,
                   "add a line of JSON to this file when all is done: source, target, iteration, "
                   "digest, seconds, bytes")
      ->group("Output");
  command->footer(
      "Examples:\n"
      "  mpirun -n 4 reshard convert ckpt/iter_0001000 out/hf --to hf\n"
      "  srun -n 64 reshard convert hf out/megatron --to megatron --tp 8 --pp 4\n\n" +
      older_options());
  return {command, [options](const mpi::Comm& comm) { return run(*options, comm); }};
}

}  // namespace reshard::app
