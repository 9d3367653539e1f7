#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "formats/dialect/dialect.hpp"
#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "support/part.hpp"
#include "support/scratch.hpp"

// A -> B -> A over random models and layouts, for every pair of formats: every file of A must come
// back byte for byte, and B must be the same at 1, 3 and all ranks. What A does not tell B
// (iteration, spelling of norms, multiple of the vocabulary, buffers, ...) is given again.
// --gtest_random_seed=N takes other layouts.

namespace reshard {
namespace {

constexpr unsigned first_seed = 20240607;

using Random = std::mt19937;
using Names = std::set<std::string>;

std::uint64_t any(Random& random, std::initializer_list<std::uint64_t> values) {
  return values.begin()[random() % values.size()];
}

bool chance(Random& random, unsigned one_of) {
  return random() % one_of == 0;
}

const Names all_families = {"llama",     "gpt2",    "qwen3", "mixtral", "mistral",
                            "qwen3_moe", "opensci", "phi3",  "qwen2",   "gpt_neox",
                            "bloom",     "olmo2",   "gemma2"};
const Names megatron_families = {"llama",     "gpt2",    "qwen3", "mixtral", "mistral",
                                 "qwen3_moe", "opensci", "phi3",  "qwen2",   "gpt_neox"};

/// A format, in one of its kinds, and what it can hold.
struct Form {
  std::string to, kind;  ///< kind: names of Megatron, lineage or era
  Names families;
  bool head = true;  ///< has a place for a head that is not tied
  [[nodiscard]] std::string name() const { return kind.empty() ? to : to + " " + kind; }
};

const std::vector<Form> forms = {
    {"hf", "", all_families},
    {"hf-bin", "", all_families},
    {"megatron", "legacy", {"llama", "gpt2", "gpt_neox", "phi3", "qwen2"}},
    {"megatron", "mcore", megatron_families},
    {"megatron-dist", "mcore", megatron_families},
    {"megatron-deepspeed", "bigscience", {"gpt2", "bloom"}, false},
    {"megatron-deepspeed", "deepspeed", {"gpt2", "llama", "phi3", "gpt_neox"}},
    {"merak", "1", {"gpt2"}},
    {"merak", "2", {"gpt2", "llama", "mistral", "qwen2", "qwen3"}}};

/// Sizes that many degrees divide, but not the vocabulary.
struct Model {
  formats::SampleOptions options;
  std::uint64_t layers = 0;
  bool experts = false;
};

bool holds(const Form& form, const std::string& family, bool tied) {
  return form.families.count(family) != 0 && (form.head || tied);
}

Model random_model(Random& random, const std::string& family, bool tied) {
  Model model;
  model.options.family = family;
  model.layers = any(random, {2, 4, 5, 8});
  model.experts = family == "mixtral" || family == "qwen3_moe";
  const bool gpt = family == "gpt2" || family == "gpt_neox" || family == "bloom";
  Json& h = model.options.hyperparameters;
  h["layers"] = model.layers;
  h["heads"] = any(random, {4, 8});
  if (!gpt) h["groups"] = 4;
  h["hidden"] = h["heads"].get<std::uint64_t>() * any(random, {4, 6, 10});
  const bool has_width = !gpt && family != "phi3";
  if (has_width && chance(random, 2)) h["head_dim"] = any(random, {2, 8});
  if (family != "bloom" && (family != "gpt2" || chance(random, 3))) {
    h["ffn"] = any(random, {28, 44, 68});
  }
  if (family == "qwen3_moe") h["expert_ffn"] = any(random, {16, 40});
  if (model.experts) h["experts"] = 4;
  h["vocab"] = any(random, {61, 97, 130});
  h["tied"] = tied;
  if ((family == "llama" || family == "opensci") && chance(random, 3)) {
    h["attention_bias"] = true;
    h["mlp_bias"] = true;
  }
  if (family == "opensci") h["qk_norm"] = "head";
  return model;
}

/// The size of each of `parts` parts of a whole, each at least 1, and unequal or not.
std::vector<std::uint64_t> cut(Random& random, std::uint64_t whole, std::uint64_t parts,
                               bool equal) {
  std::vector<std::uint64_t> counts(parts, equal ? whole / parts : 1);
  for (std::uint64_t left = equal ? 0 : whole - parts; left > 0; --left) ++counts[random() % parts];
  return counts;
}

void choose_megatron(Random& random, const Model& model, formats::TargetOptions& target) {
  const bool legacy = target.megatron_names == "legacy";
  const bool equal = model.layers % *target.pp == 0 && (legacy || !chance(random, 3));
  if (!equal && legacy) target.pp = 1;
  target.stage_layers = cut(random, model.layers, *target.pp, equal || legacy);
  if (equal && !legacy && *target.pp > 1 && model.layers % (2 * *target.pp) == 0 &&
      chance(random, 2)) {
    target.vpp = model.layers / *target.pp == 4 && chance(random, 2) ? 4 : 2;
  }
  if (model.experts) {
    target.ep = any(random, {1, 2, 4});
    target.etp = chance(random, 2) ? *target.tp : 1;
  }
  if (!legacy) target.transformer_impl = chance(random, 2) ? "local" : "transformer_engine";
}

/// Modules that Merak cuts a model into: those of a single stage, as our own file beside tells.
std::uint64_t merak_modules(const Model& model, formats::TargetOptions target) {
  target.pp = 1;
  target.custom_partition.clear();
  formats::Problems problems;
  const formats::Source source = formats::sample_source(model.options);
  const formats::Target whole = formats::dialect_named("merak").describe(source, target, problems);
  for (const formats::FileDescription& file : whole.files) {
    if (file.path == "reshard.json") return Json::parse(file.content).at("modules");
  }
  throw Error(Kind::internal, "Merak's target has no reshard.json");
}

void choose_merak(Random& random, const Model& model, formats::TargetOptions& target) {
  if (target.merak_era == "1" && chance(random, 4)) target.merak_era = "1-flat";
  if (chance(random, 2)) target.iteration.reset();
  target.vocab_parallel = chance(random, 2) ? "yes" : "no";
  target.merak_tied_keys = chance(random, 2) ? "yes" : "no";
  if (target.merak_era != "2") {
    const std::array buffers = {"masks", "traced", "none"};
    target.merak_buffers = buffers[random() % buffers.size()];
  }
  if (chance(random, 3)) {
    target.partition_method = "uniform_floor";
    return;
  }
  target.custom_partition = {0};
  for (const std::uint64_t n : cut(random, merak_modules(model, target), *target.pp, false)) {
    target.custom_partition.push_back(target.custom_partition.back() + n);
  }
}

/// The options of a form alone.
formats::TargetOptions plain(const Form& form) {
  formats::TargetOptions target;
  target.to = form.to;
  if (form.to == "megatron") target.megatron_names = form.kind;
  if (form.to == "megatron-deepspeed") target.lineage = form.kind;
  if (form.to == "merak") target.merak_era = form.kind;
  return target;
}

formats::TargetOptions random_layout(Random& random, const Model& model, const Form& form) {
  formats::TargetOptions target = plain(form);
  if (form.kind.empty()) {
    if (chance(random, 2)) target.max_shard_bytes = 10000 + random() % 40000;
    return target;
  }
  target.iteration = 7;
  target.tp = any(random, {1, 2, 4});
  target.pp = any(random, {1, 2, 4});
  if (*target.pp > model.layers) target.pp = 2;
  if (form.to != "merak" || chance(random, 2)) target.vocab_multiple = any(random, {1, 8, 128});
  if (chance(random, 3)) {
    target.vocab_fill = chance(random, 2) ? formats::VocabFill::last : formats::VocabFill::zero;
  }
  if (form.to.starts_with("megatron") && form.to != "megatron-deepspeed") {
    choose_megatron(random, model, target);
  }
  if (form.to == "megatron-dist") target.dist_files = any(random, {1, 2, 3});
  if (form.to == "merak") choose_merak(random, model, target);
  target.no_pipeline_files = form.kind == "deepspeed" && *target.pp == 1 && chance(random, 2);
  return target;
}

/// Gives a layout three blocks of q, k and v now and then, where it may have them and the other
/// side does not tell that it has none.
void choose_qkv(Random& random, const Model& model, const std::string& other,
                formats::TargetOptions& target) {
  const bool equal = !model.options.hyperparameters.contains("groups");
  if (target.lineage != "deepspeed" || !equal || other == "megatron-deepspeed") return;
  if (chance(random, 2)) target.mds_qkv_layout = "blocked";
}

std::string words(const formats::TargetOptions& t) {
  std::string text = t.to;
  const auto number = [&](const char* name, const std::optional<std::uint64_t>& value) {
    if (value) text += " " + (name + std::to_string(*value));
  };
  number("tp", t.tp);
  number("pp", t.pp);
  number("vpp", t.vpp);
  number("ep", t.ep);
  number("etp", t.etp);
  number("multiple", t.vocab_multiple);
  number("shard", t.max_shard_bytes);
  number("files", t.dist_files);
  number("iteration", t.iteration);
  for (const std::uint64_t n : t.stage_layers) text += " " + std::to_string(n);
  for (const std::uint64_t n : t.custom_partition) text += "," + std::to_string(n);
  for (const std::string& word :
       {t.transformer_impl, t.megatron_names, t.lineage, t.mds_qkv_layout, t.merak_era,
        t.vocab_parallel, t.partition_method, t.merak_buffers, t.merak_tied_keys}) {
    if (!word.empty()) text += " " + word;
  }
  if (t.vocab_fill) text += *t.vocab_fill == formats::VocabFill::last ? " last" : " zero";
  return text + (t.no_pipeline_files ? " whole" : "");
}

/// Collective. Makes the model up in a layout.
void sample(const mpi::Comm& comm, const Model& model, const formats::TargetOptions& layout,
            Dtype dtype, const std::string& path) {
  mpi::SampleOptions sample;
  sample.model = model.options;
  sample.target = layout;
  sample.target.path = path;
  sample.target.dtype = dtype;
  sample.tile_bytes = 4096;
  mpi::sample(comm, sample);
}

mpi::ConvertOptions conversion(Random& random, const std::string& from,
                               const formats::TargetOptions& target, const std::string& to) {
  mpi::ConvertOptions options;
  options.source.path = from;
  options.target = target;
  options.target.path = to;
  options.tile_bytes = any(random, {4096, 8192, 65536});
  options.memory = any(random, {chance(random, 4) ? 1U : 40U, 80, 400, 4000}) << 10;
  options.verify = !chance(random, 4);
  return options;
}

/// Collective. Converts on the first `ranks` alone, returns their rounds; a failure is that of all.
std::uint64_t convert(const mpi::Comm& comm, int ranks, const mpi::ConvertOptions& options) {
  const test::Part part(comm, ranks);
  std::uint64_t rounds = 0;
  const std::optional<Error> mine = mpi::attempt([&] {
    if (part.comm()) rounds = mpi::convert(*part.comm(), options).rounds;
  });
  const std::string failure = mpi::broadcast(comm, mine ? mine->what() : "", 0);
  if (!failure.empty()) throw Error(Kind::input, failure);
  return rounds;
}

/// Collective. A -> B at several numbers of ranks, which write the same, and -> A on all.
std::uint64_t there_and_back(const mpi::Comm& comm, Random& random, const test::Scratch& scratch,
                             const formats::TargetOptions& a, const formats::TargetOptions& b) {
  std::uint64_t rounds = 0;
  for (const int ranks : std::set<int>{1, std::min(3, comm.size()), comm.size()}) {
    const std::string there = scratch / ("b" + std::to_string(ranks));
    rounds = convert(comm, ranks, conversion(random, scratch / "a", b, there));
    if (comm.rank() != 0) continue;
    EXPECT_EQ(test::difference(test::model_tree(scratch / "b1"), test::model_tree(there)), "")
        << "B on " << ranks << " ranks";
  }
  const std::string last = scratch / ("b" + std::to_string(comm.size()));
  convert(comm, comm.size(), conversion(random, last, a, scratch / "c"));
  if (comm.rank() == 0) {
    EXPECT_EQ(test::difference(test::model_tree(scratch / "a"), test::model_tree(scratch / "c")),
              "");
  }
  return rounds;
}

/// The seed that a failure needs to come again.
unsigned seed_of(const mpi::Comm& comm) {
  const auto chosen = static_cast<unsigned>(GTEST_FLAG_GET(random_seed));
  if (comm.rank() == 0) std::printf("--gtest_random_seed=%u\n", chosen);
  return first_seed + 1000 * chosen;
}

/// Families, and whether their head is tied, that the first form holds and the second too or not.
std::vector<std::pair<std::string, bool>> kinds(const Form& from, const Form& to, bool both) {
  std::vector<std::pair<std::string, bool>> found;
  for (const std::string& family : from.families) {
    for (const bool tied : {true, false}) {
      if (holds(from, family, tied) && holds(to, family, tied) == both) {
        found.emplace_back(family, tied);
      }
    }
  }
  return found;
}

TEST(RoundTrip, FilesComeBackByteForByte) {
  const mpi::Comm comm(MPI_COMM_WORLD);
  const test::Scratch scratch(comm);
  unsigned seed = seed_of(comm);
  std::uint64_t rounds = 0, pairs = 0;
  for (const Form& from : forms) {
    for (const Form& to : forms) {
      Random random(++seed);  // of a pair, the same for each number of ranks
      const auto both = kinds(from, to, true);
      const auto& [family, tied] = both[random() % both.size()];
      const Model model = random_model(random, family, tied);
      formats::TargetOptions a = random_layout(random, model, from);
      const formats::TargetOptions b = random_layout(random, model, to);
      choose_qkv(random, model, to.to, a);
      const std::array dtypes = {Dtype::bf16, Dtype::f16, Dtype::f32};
      const Dtype dtype = dtypes[random() % dtypes.size()];
      if (comm.size() > 4 && random() % 4 != 0) continue;  // many ranks take long
      SCOPED_TRACE(family + " " + model.options.hyperparameters.dump() + ": " + words(a) + " -> " +
                   words(b));
      try {
        sample(comm, model, a, dtype, scratch / "a");
        rounds += there_and_back(comm, random, scratch, a, b);
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
      scratch.clear();
      ++pairs;
    }
  }
  EXPECT_GT(rounds, 3 * pairs);
  EXPECT_GT(pairs, 4);
}

TEST(RoundTrip, WhatAFormCannotHoldIsRefused) {
  const mpi::Comm comm(MPI_COMM_WORLD);
  const test::Scratch scratch(comm);
  Random random(seed_of(comm) + static_cast<unsigned>(comm.size()));
  constexpr std::array reasons = {"cannot hold hyperparameter",
                                  "has no place for",
                                  "has no tensor for",
                                  "not supported",
                                  " models",
                                  "has gpt2 alone",
                                  "layers are known for",
                                  "do not compute it"};
  std::size_t refused = 0;
  for (const Form& from : forms) {
    for (const Form& to : forms) {
      const auto first = kinds(from, to, false);
      if (first.empty()) continue;
      const auto& [family, tied] = first[random() % first.size()];
      SCOPED_TRACE(family + (tied ? ", tied: " : ": ") + from.name() + " -> " + to.name());
      try {
        sample(comm, random_model(random, family, tied), plain(from), Dtype::f32, scratch / "a");
        const auto failure = mpi::attempt([&] {
          mpi::convert(comm, conversion(random, scratch / "a", plain(to), scratch / "b"));
        });
        const std::string text = failure ? failure->what() : "accepted";
        EXPECT_TRUE(failure && (failure->kind() == Kind::input || failure->kind() == Kind::usage));
        EXPECT_TRUE(std::any_of(reasons.begin(), reasons.end(), [&](const char* reason) {
          return text.find(reason) != std::string::npos;
        })) << text;
        EXPECT_EQ(scratch.names(), "a ");
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
      scratch.clear();
      ++refused;
    }
  }
  EXPECT_GT(refused, 30);
}

}  // namespace
}  // namespace reshard
