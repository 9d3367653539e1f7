#include <memory>

#include "app/aliases.hpp"
#include "app/commands.hpp"
#include "app/report.hpp"
#include "app/shared_options.hpp"
#include "app/stop.hpp"
#include "mpi/convert.hpp"

namespace reshard::app {
namespace {

struct Options {
  mpi::ConvertOptions convert;
  OptionWords words;
  bool no_verify = false;
  OutputOptions output;
};

int run(Options options, const mpi::Comm& comm) {
  settle(options.words, options.convert.target);
  options.convert.verify = !options.no_verify;
  options.convert.memory = memory_of(options.words);
  if (!options.words.journal.empty()) {
    options.convert.journal_bytes = bytes_of("--journal-interval", options.words.journal);
  }
  Report report(options.output, comm.rank() == 0);
  options.convert.progress = [&](std::uint64_t done, std::uint64_t all) {
    report.progress(done, all);
  };
  catch_signals();
  options.convert.check_stop = check_stop;
  options.convert.stalled = [&](const std::string& text) { report.stalled(text); };
  report.converted(mpi::convert(comm, options.convert));
  return 0;
}

}  // namespace

Command add_convert(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("convert", "Convert or reshard a checkpoint");
  add_source_options(*command, options->convert.source);
  add_replicas_option(*command, options->convert.source);
  command->add_option("DST", options->convert.target.path, "folder to write")->required();
  add_target_options(*command, options->convert.target, options->words);
  command->add_option("--memory", options->words.memory, "bound of a rank's buffers: 2GiB")
      ->group("Run");
  command
      ->add_option("--io-threads", options->convert.io_threads,
                   "threads of a rank that read, and that write, at once (default: 2)")
      ->check(CLI::Range(1, 64))
      ->group("Run");
  command->add_flag("--no-verify", options->no_verify, "do not read the result back")->group("Run");
  command->add_flag("--overwrite", options->convert.overwrite, "replace what DST holds")
      ->group("Run");
  command
      ->add_flag("--resume", options->convert.resume,
                 "go on with what a stopped run of the same conversion left")
      ->group("Run");
  command
      ->add_option("--journal-interval", options->words.journal,
                   "bytes that a rank writes between two records of what --resume can keep "
                   "(default: 256MiB)")
      ->group("Run");
  add_output_options(*command, options->output);
  command->footer(
      "Examples:\n"
      "  mpirun -n 4 reshard convert ckpt/iter_0001000 out/hf --to hf\n"
      "  srun -n 64 reshard convert hf out/megatron --to megatron --tp 8 --pp 4\n\n" +
      older_options());
  return {command, [options](const mpi::Comm& comm) { return run(*options, comm); }};
}

}  // namespace reshard::app
