#include <algorithm>
#include <memory>
#include <utility>

#include "app/commands.hpp"
#include "app/report.hpp"
#include "app/shared_options.hpp"
#include "mpi/sample.hpp"

namespace reshard::app {
namespace {

struct Options {
  mpi::SampleOptions sample;
  OptionWords words;
  std::optional<double> parameters;
  std::vector<std::string> set;
  OutputOptions output;
};

/// NAME=VALUE, the value in JSON.
void set_hyperparameter(const std::string& word, Json& hyperparameters) {
  const std::size_t equals = word.find('=');
  const Json value = equals == word.npos ? Json(Json::value_t::discarded)
                                         : Json::parse(word.substr(equals + 1), nullptr, false);
  if (value.is_discarded()) {
    throw Error(Kind::usage, "--set " + word + ": wanted NAME=VALUE, the value in JSON");
  }
  hyperparameters[word.substr(0, equals)] = value;
}

int run(Options options, const mpi::Comm& comm) {
  settle(options.words, options.sample.target);
  formats::SampleOptions& model = options.sample.model;
  if (!options.sample.target.dtype) options.sample.target.dtype = Dtype::bf16;
  if (options.parameters) {
    if (!(*options.parameters >= 1 && *options.parameters <= 1e15)) {
      throw Error(Kind::usage, "--parameters: wanted 1 to 1e15");
    }
    model.parameters = static_cast<std::uint64_t>(*options.parameters);
  }
  for (const std::string& word : options.set) set_hyperparameter(word, model.hyperparameters);
  model.iteration = options.sample.target.iteration.value_or(0);
  Report report(options.output, comm.rank() == 0);
  options.sample.progress = [&](std::uint64_t done, std::uint64_t all) {
    report.progress(done, all);
  };
  const mpi::SampleReport made = mpi::sample(comm, options.sample);
  std::string text = made.family + ": " + std::to_string(made.parameters) + " parameters in " +
                     std::to_string(made.tensors) + " tensors, " + human_bytes(made.bytes) +
                     " in " + std::to_string(made.files) + " files" +
                     (options.sample.sparse ? ", holes for the numbers\n" : "\n");
  for (const std::string& note : made.notes) text += "note: " + note + "\n";
  report.output(text + made.unit + "\n", {{"unit", made.unit},
                                          {"family", made.family},
                                          {"parameters", made.parameters},
                                          {"tensors", made.tensors},
                                          {"files", made.files},
                                          {"bytes", made.bytes},
                                          {"notes", made.notes}});
  return 0;
}

void add_sizes(CLI::App& command, Options& options) {
  const std::pair<const char*, const char*> sizes[] = {{"layers", "layers"},
                                                       {"hidden", "width of the residual stream"},
                                                       {"heads", "attention heads"},
                                                       {"groups", "key and value heads"},
                                                       {"head_dim", "width of a head"},
                                                       {"ffn", "width of a feed-forward layer"},
                                                       {"vocab", "true vocabulary"},
                                                       {"positions", "longest context"},
                                                       {"experts", "experts of a layer"},
                                                       {"experts_per_token", "experts at work"},
                                                       {"expert_ffn", "width of an expert"}};
  for (const auto& [name, help] : sizes) {
    std::string flag = "--" + std::string(name);
    std::replace(flag.begin(), flag.end(), '_', '-');
    command
        .add_option_function<std::uint64_t>(
            flag,
            [&options, key = std::string(name)](const std::uint64_t& value) {
              options.sample.model.hyperparameters[key] = value;
            },
            help)
        ->check(whole(1, std::uint64_t{1} << 40))
        ->group("Model");
  }
}

}  // namespace

Command add_sample(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("sample", "Write a synthetic checkpoint of any size");
  command->add_option("DIR", options->sample.target.path, "folder to write")->required();
  command
      ->add_option("--family", options->sample.model.family, "architecture: a name, or FILE.json")
      ->required()
      ->group("Model");
  command
      ->add_option("--parameters", options->parameters,
                   "wanted number, like 1e9; sizes not given follow from it (default: tiny)")
      ->group("Model");
  add_sizes(*command, *options);
  command->add_option("--set", options->set, "any hyperparameter: attention_bias=true")
      ->group("Model");
  add_target_options(*command, options->sample.target, options->words);
  command->add_flag("--sparse", options->sample.sparse, "real headers, holes for the numbers")
      ->group("Run");
  command->add_flag("--overwrite", options->sample.overwrite, "replace what DIR holds")
      ->group("Run");
  add_output_options(*command, options->output);
  command->footer(
      "Examples:\n"
      "  reshard sample tiny --family llama --to hf\n"
      "  mpirun -n 4 reshard sample big --family llama --to megatron --tp 2 --pp 2 --parameters "
      "1e9");
  return {command, [options](const mpi::Comm& comm) { return run(*options, comm); }};
}

}  // namespace reshard::app
