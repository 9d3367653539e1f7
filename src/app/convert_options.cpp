#include "app/convert_options.hpp"

namespace reshard::app {

void add_conversion_options(CLI::App& command, ConversionWords& conversion) {
  mpi::ConvertOptions& convert = conversion.convert;
  add_source_options(command, convert.source);
  add_replicas_option(command, convert.source);
  command.add_option("DST", convert.target.path, "folder to write")->required();
  add_target_options(command, convert.target, conversion.words);
  command
      .add_option(
          "--memory", conversion.words.memory,
          "bound of a rank's buffers (default: 2GiB, at most half of what the node has left)")
      ->group("Run");
  command
      .add_option("--io-threads", convert.io_threads,
                  "threads of a rank that read, and that write, at once (default: 2)")
      ->check(CLI::Range(1, 64))
      ->group("Run");
  command.add_flag("--no-verify", conversion.no_verify, "do not read the result back")
      ->group("Run");
  command.add_flag("--overwrite", convert.overwrite, "replace what DST holds")->group("Run");
  command
      .add_flag("--resume", convert.resume,
                "go on with what a stopped run of the same conversion left")
      ->group("Run");
  command
      .add_option("--journal-interval", conversion.words.journal,
                  "bytes that a rank writes between two records of what --resume can keep "
                  "(default: 256MiB)")
      ->group("Run");
}

void settle(ConversionWords& conversion) {
  settle(conversion.words, conversion.convert.target);
  conversion.convert.verify = !conversion.no_verify;
  conversion.convert.memory = memory_of(conversion.words);
  if (!conversion.words.journal.empty()) {
    conversion.convert.journal_bytes = bytes_of("--journal-interval", conversion.words.journal);
  }
}

}  // namespace reshard::app
