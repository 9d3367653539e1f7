#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "support/scratch.hpp"

// A -> B -> A over random models and layouts: every file of A must come back byte for byte. What A
// does not tell B (iteration, spelling of norms, multiple of the vocabulary) is given again.

namespace reshard {
namespace {

constexpr unsigned seed = 20240607;
constexpr int layouts_each = 24;  // at 1, 2, 3, 4 and 7 ranks: 120 in all

using Random = std::mt19937;

std::uint64_t any(Random& random, std::initializer_list<std::uint64_t> values) {
  return values.begin()[random() % values.size()];
}

/// Sizes that many degrees divide, but not the vocabulary.
struct Model {
  formats::SampleOptions options;
  std::uint64_t layers = 0;
  bool experts = false, legacy = false;
};

Model random_model(Random& random) {
  static const std::vector<std::string> families = {"llama",   "gpt2",      "qwen3",   "mixtral",
                                                    "mistral", "qwen3_moe", "opensci", "phi3",
                                                    "qwen2",   "gpt_neox"};
  Model model;
  const std::string& family = families[random() % families.size()];
  model.options.family = family;
  model.layers = any(random, {2, 4, 5, 8});
  model.experts = family == "mixtral" || family == "qwen3_moe";
  model.legacy = family == "llama" || family == "gpt2" || family == "gpt_neox";
  const bool has_groups = family != "gpt2" && family != "gpt_neox";
  Json& h = model.options.hyperparameters;
  h["layers"] = model.layers;
  h["heads"] = any(random, {4, 8});
  if (has_groups) h["groups"] = 4;
  h["hidden"] = h["heads"].get<std::uint64_t>() * any(random, {4, 6, 10});
  if (has_groups && family != "phi3" && random() % 2 == 0) h["head_dim"] = any(random, {2, 8});
  h["ffn"] = any(random, {24, 40, 64});
  if (family == "qwen3_moe") h["expert_ffn"] = any(random, {16, 40});
  if (model.experts) h["experts"] = 4;
  h["vocab"] = any(random, {61, 97, 130});
  if (random() % 3 == 0) h["tied"] = true;
  if ((family == "llama" || family == "opensci") && random() % 3 == 0) {
    h["attention_bias"] = true;
    h["mlp_bias"] = true;
  }
  if (family == "opensci" && random() % 2 == 0) h["qk_norm"] = "head";
  return model;
}

/// Layers of `stages` stages, unequal where that can be.
std::vector<std::uint64_t> uneven(Random& random, std::uint64_t layers, std::uint64_t stages) {
  std::vector<std::uint64_t> counts(stages, 1);
  for (std::uint64_t left = layers - stages; left > 0; --left) ++counts[random() % stages];
  return counts;
}

formats::TargetOptions random_layout(Random& random, const Model& model, const std::string& to) {
  formats::TargetOptions target;
  target.to = to;
  if (to != "megatron") {
    if (random() % 2 == 0) target.max_shard_bytes = 10000 + random() % 40000;
    return target;
  }
  target.iteration = 7;
  target.tp = any(random, {1, 2, 4});
  target.pp = any(random, {1, 2, 4});
  if (*target.pp > model.layers) target.pp = 2;
  if (model.layers % *target.pp != 0 || random() % 3 == 0) {
    target.stage_layers = uneven(random, model.layers, *target.pp);
  } else if (*target.pp > 1 && model.layers % (2 * *target.pp) == 0 && random() % 2 == 0) {
    target.vpp = model.layers / *target.pp == 4 && random() % 2 == 0 ? 4 : 2;
  }
  if (model.experts) {
    target.ep = any(random, {1, 2, 4});
    target.etp = random() % 2 == 0 ? *target.tp : 1;
  }
  target.vocab_multiple = any(random, {1, 8, 128});
  target.transformer_impl = random() % 2 == 0 ? "local" : "transformer_engine";
  const bool even = target.stage_layers.empty() && !target.vpp;
  if (model.legacy && even && random() % 3 == 0) target.megatron_names = "legacy";
  return target;
}

std::string words(const formats::TargetOptions& t) {
  std::string text = t.to;
  if (t.tp) text += " tp" + std::to_string(*t.tp) + " pp" + std::to_string(*t.pp);
  if (t.vpp) text += " vpp" + std::to_string(*t.vpp);
  if (t.ep) text += " ep" + std::to_string(*t.ep) + " etp" + std::to_string(*t.etp);
  for (const std::uint64_t n : t.stage_layers) text += " " + std::to_string(n);
  return text + " " + t.transformer_impl + " " + t.megatron_names;
}

mpi::ConvertReport convert(const mpi::Comm& comm, Random& random, const std::string& from,
                           formats::TargetOptions target, const std::string& to) {
  mpi::ConvertOptions options;
  options.source.path = from;
  options.target = std::move(target);
  options.target.path = to;
  options.tile_bytes = any(random, {4096, 8192, 65536});
  options.memory = any(random, {1, 80, 400, 4000}) << 10;
  options.verify = random() % 4 != 0;
  return mpi::convert(comm, options);
}

TEST(RoundTrip, FilesComeBackByteForByte) {
  const mpi::Comm comm(MPI_COMM_WORLD);
  const test::Scratch scratch(comm);
  const std::vector<std::string> dialects = {"hf", "hf-bin", "megatron"};
  Random random(seed + static_cast<unsigned>(comm.size()));
  if (comm.rank() == 0) std::printf("seed %u, %d layouts\n", seed, layouts_each);
  std::uint64_t rounds = 0;
  for (int i = 0; i < layouts_each; ++i) {
    const Model model = random_model(random);
    const auto pair = static_cast<std::size_t>(i) % 9;
    const formats::TargetOptions a = random_layout(random, model, dialects[pair / 3]);
    const formats::TargetOptions b = random_layout(random, model, dialects[pair % 3]);
    SCOPED_TRACE(std::to_string(i) + ": " + model.options.family + " " +
                 model.options.hyperparameters.dump() + ": " + words(a) + " -> " + words(b));
    try {
      mpi::SampleOptions sample;
      sample.model = model.options;
      sample.target = a;
      sample.target.path = scratch / "a";
      sample.target.dtype = static_cast<Dtype>(any(
          random, {static_cast<std::uint64_t>(Dtype::bf16), static_cast<std::uint64_t>(Dtype::f16),
                   static_cast<std::uint64_t>(Dtype::f32)}));
      sample.tile_bytes = 4096;
      mpi::sample(comm, sample);
      rounds += convert(comm, random, scratch / "a", b, scratch / "b").rounds;
      convert(comm, random, scratch / "b", a, scratch / "c");
      if (comm.rank() == 0) {
        EXPECT_EQ(test::difference(test::tree(scratch / "a"), test::tree(scratch / "c")), "");
      }
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
    scratch.clear();
  }
  EXPECT_GT(rounds, layouts_each * 3U);
}

}  // namespace
}  // namespace reshard
