#include "core/error.hpp"
#include "core/shape.hpp"
#include "formats/dialect/merak.hpp"

// What is to be written, from the user's words and the source.

namespace reshard::formats {
namespace {

void settle_era(const Source& source, const TargetOptions& options, MerakPlan& plan,
                std::vector<std::string>& notes) {
  std::string word = options.merak_era;
  if (word.empty() && source.found.dialect == "merak") {
    word = source.choices.at("era") == 2                  ? "2"
           : source.choices.value("flat", Json()) == true ? "1-flat"
                                                          : "1";
    notes.push_back("era " + word + " taken, the source's: --merak-era chooses");
  } else if (word.empty()) {
    word = plan.gpt2 ? options.merak_default_era : "2";
    notes.push_back("era " + word + (word == "2" ? " (Merak v2)" : " (Merak v1.1.0)") +
                    " taken: --merak-era chooses");
  }
  plan.era = word == "2" ? 2 : 1;
  plan.flat = word == "1-flat";
  if (plan.era == 1 && !plan.gpt2) {
    throw Error(Kind::input, "Merak's era 1 has gpt2 alone, the model is of family " +
                                 source.family.name +
                                 "; --merak-era 2 has gpt2, llama, qwen2 and qwen3");
  }
}

/// Whether era 1 cuts each block in two modules: attention weighs more than an even share of what
/// one of its 2 * layers + 4 shards holds, counted on a tensor-parallel rank.
bool halves_blocks(const MerakPlan& plan, std::uint64_t ffn) {
  const std::uint64_t h = plan.hidden, t = plan.tp;
  const std::uint64_t mlp_ranks = ffn == 4 * h ? t : 1;
  const std::uint64_t attention = 2 * h + (3 * h * h + 3 * h) / t + h * h / t + h;
  const std::uint64_t mlp = 2 * h + (h * ffn + ffn) / mlp_ranks + h * ffn / mlp_ranks + h;
  return attention > (plan.layers * (attention + mlp) + 2 * h) / (2 * plan.layers + 4);
}

/// Rows of the stored vocabulary; whether each tp rank has only its block of them.
bool settle_vocabulary(const Source& source, const TargetOptions& options, MerakPlan& plan) {
  bool cut = plan.era == 1;
  const Json theirs = source.choices.value("parallel_vocab", Json());
  if (source.found.dialect == "merak" && source.parallelism.tp > 1 && plan.tied) {
    cut = theirs == true;
  }
  if (!options.vocab_parallel.empty()) cut = options.vocab_parallel == "yes";
  cut = cut && plan.tied && plan.tp > 1;
  const auto vocab = source.record.at("vocab").get<std::uint64_t>();
  const std::uint64_t ranks = cut ? plan.tp : 1;
  plan.rows = vocab;
  if (options.vocab_multiple || vocab % ranks != 0) {
    const std::uint64_t step = checked_product(options.vocab_multiple.value_or(128), ranks);
    if (step == 0) throw Error(Kind::usage, "--vocab-multiple must be at least 1");
    plan.rows = checked_product(checked_sum(vocab, step - 1) / step, step);
  }
  return cut;
}

/// Keys besides the weights; plan.choices are there.
void settle_buffers(const Source& source, const TargetOptions& options, MerakPlan& plan) {
  // A run of era 1 loads its own keys and no others.
  const bool own = plan.era == 1 && source.found.dialect == "merak" && source.choices["era"] == 1;
  if (own && options.merak_tied_keys.empty()) {
    plan.choices["tie_modules"] = source.choices.at("tie_modules");
  }
  if (plan.gpt2) plan.traced_positions = source.record.at("positions").get<std::uint64_t>();
  plan.buffers = options.merak_buffers;
  if (plan.buffers.empty() && own && source.choices.at("buffers") != "none") {
    plan.buffers = source.choices.at("buffers").get<std::string>();
    const Json& positions = source.choices.at("traced_positions");
    if (!positions.is_null()) plan.traced_positions = positions.get<std::uint64_t>();
  }
  if (plan.buffers.empty()) plan.buffers = plan.era == 1 ? "masks" : "none";
  if (plan.era == 2 && plan.buffers != "none") {
    throw Error(Kind::usage, "--merak-buffers " + plan.buffers +
                                 ": Merak v2 makes its buffers itself, wanted none");
  }
}

}  // namespace

MerakPlan merak_plan(const Source& source, const TargetOptions& options,
                     std::vector<std::string>& notes) {
  MerakPlan plan;
  plan.gpt2 = source.family.name == "gpt2";
  settle_era(source, options, plan, notes);
  plan.tp = options.tp.value_or(1);
  plan.pp = options.pp.value_or(
      options.custom_partition.empty() ? 1 : options.custom_partition.size() - 1);
  plan.layers = source.record.at("layers").get<std::uint64_t>();
  plan.hidden = source.record.at("hidden").get<std::uint64_t>();
  plan.tied = source.record.at("tied") == true;
  const auto ffn = source.record.at("ffn").get<std::uint64_t>();
  if (plan.gpt2 && plan.tp > 1 && (ffn == plan.hidden || ffn == 3 * plan.hidden)) {
    throw Error(Kind::input,
                "Merak takes GPT-2's layers for parallel ones by their shapes, and "
                "with an inner size of " +
                    std::to_string(ffn) + " it mistakes those of the MLP: wanted --tp 1");
  }
  const bool cut = settle_vocabulary(source, options, plan);
  const bool half = plan.era == 1 && halves_blocks(plan, ffn);
  plan.choices = {{"era", plan.era},
                  {"modules", plan.era == 2 ? "layer_split"
                              : half        ? "half_blocks"
                                            : "blocks"},
                  {"separate_head", source.family.name.starts_with("qwen")},
                  {"linear_by", plan.gpt2 ? "shape" : "lists"},
                  {"parallel_vocab", cut},
                  {"tie_modules", options.merak_tied_keys == "yes"},
                  {"forced", false}};
  settle_buffers(source, options, plan);
  return plan;
}

}  // namespace reshard::formats
