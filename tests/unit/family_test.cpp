#include "families/family.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "families/dialect_table.hpp"
#include "families/record.hpp"

namespace reshard::families {
namespace {

using Strings = std::vector<std::string>;

template <class Work>
std::string error(Work&& work, Kind kind = Kind::input) {
  try {
    work();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind);
    return e.what();
  }
  return "no error";
}

/// A table that holds, to be spoiled one member at a time.
Json small_table() {
  return Json::parse(R"({
    "family": "small",
    "model_types": {"small": {"architecture": "SmallForCausalLM"}},
    "hyperparameters": {"qk_norm": {"fixed": "head"}},
    "rows": [
      {"name": "embed.weight", "role": "embedding.weight", "layout": "vocab hidden"},
      {"name": "h.{l}.up.{e}", "role": "layers.{l}.experts.up.weight", "layout": "expert_ffn hidden",
       "when": "moe[l]"}
    ]
  })");
}

TEST(Family, ListsFamiliesInTheOrderOfTheRules) {
  EXPECT_EQ(family_names(),
            (Strings{"deepseek_v3", "gpt_oss", "qwen3_moe", "mixtral", "qwen3", "qwen2", "llama",
                     "opensci", "gpt2", "gpt_neox", "bloom", "gemma2", "olmo2", "phi3"}));
  for (const std::string& name : family_names()) EXPECT_EQ(load_family(name).name, name);
}

TEST(Family, IsFoundByModelType) {
  EXPECT_EQ(family_of_model_type("mistral").name, "llama");
  EXPECT_EQ(family_of_config({{"model_type", "gpt2"}}).name, "gpt2");
  EXPECT_EQ(error([] { family_of_config(Json::object()); }), "config.json: lacks \"model_type\"");
  EXPECT_EQ(error([] {
              family_of_config({{"model_type", 3}});
            }),
            "config.json: model_type is 3, not a string");
  EXPECT_TRUE(error([] {
                family_of_model_type("mamba");
              }).starts_with("no family has model_type mamba; there are deepseek_v3, gpt_oss,"));
  EXPECT_TRUE(error([] { load_family("mistral"); }, Kind::usage)
                  .starts_with("no family is called mistral, there are deepseek_v3,"));
}

TEST(Family, KnowsItsForms) {
  const Family moe = load_family("qwen3_moe");
  EXPECT_EQ(moe.forms(), (Strings{"original", "runtime"}));
  EXPECT_EQ(load_family("llama").forms(), Strings{""});
  const std::vector<Row> runtime = moe.rows_of("runtime");
  EXPECT_EQ(runtime.size() + 3, moe.rows.size());
  for (const Row& row : runtime) EXPECT_NE(row.form, "original");
}

TEST(Family, SharesItsLinesWithItsModelTypes) {
  const Family llama = load_family("llama");
  EXPECT_EQ(llama.model_type("mistral").architecture, "MistralForCausalLM");
  EXPECT_EQ(llama.model_type("llama").lines.size(), llama.model_type("mistral").lines.size());
  EXPECT_EQ(error([&] { static_cast<void>(llama.model_type("gpt2")); }),
            "family llama has no model_type gpt2, only llama, mistral");
}

TEST(Family, TakesTheTableOfAUser) {
  const Family family = parse_family(small_table(), "small.json");
  EXPECT_EQ(family.rows.size(), 2U);
  const Record record = {{"layers", 3}, {"experts", 2}, {"moe", {false, true, true}}};
  Strings names;
  for (const Instance& each : instances(family.rows, record)) names.push_back(each.name);
  EXPECT_EQ(names, (Strings{"embed.weight", "h.1.up.0", "h.1.up.1", "h.2.up.0", "h.2.up.1"}));
}

TEST(Family, RefusesTablesThatCannotBe) {
  const auto refused = [](const std::string& pointer, const Json& value) {
    Json table = small_table();
    table[Json::json_pointer(pointer)] = value;
    return error([&] { parse_family(table, "small.json"); });
  };
  EXPECT_TRUE(
      refused("/colour", 1).starts_with("small.json: unknown member \"colour\", there are"));
  EXPECT_EQ(refused("/family", 1), "small.json: \"family\" is 1, not a string");
  EXPECT_EQ(refused("/written", 3), "small.json: \"written\" is 3, not an object");
  EXPECT_EQ(refused("/rows", Json::array()), "small.json: \"rows\" is no list of rows");
  EXPECT_EQ(refused("/model_types", Json::object()), "small.json: \"model_types\" is empty");
  EXPECT_TRUE(refused("/model_types/small", Json::object())
                  .starts_with("small.json: model_type small: lacks \"architecture\""));
  EXPECT_EQ(refused("/hyperparameters/colour", Json::object()),
            "small.json: no hyperparameter is called colour");
  EXPECT_TRUE(refused("/hyperparameters/ffn", {{"kees", "x"}})
                  .starts_with("small.json: ffn: unknown member \"kees\""));
  EXPECT_EQ(refused("/hyperparameters/ffn", {{"keys", "x"}}),
            "small.json: ffn: \"keys\" is \"x\", not a list of strings");
  EXPECT_EQ(refused("/hyperparameters/ffn", {{"fixed", 1}, {"formula", "1"}}),
            "small.json: ffn: more than one definition in {\"fixed\":1,\"formula\":\"1\"}");
  EXPECT_EQ(
      refused("/hyperparameters/hidden", {{"formula", "ffn"}}),
      "small.json: model_type small: hidden: expression \"ffn\": nothing above is called ffn");
  EXPECT_EQ(refused("/rows/0/role", "embeding.weight"),
            "small.json: embed.weight: no role is called embeding.weight");
  EXPECT_EQ(refused("/rows/0/layout", "vocab hiden"),
            "small.json: embed.weight: layout \"vocab hiden\": no factor is called hiden");
  EXPECT_EQ(refused("/rows/0/parts", Json::object()),
            "small.json: embed.weight: either \"role\" or \"parts\" is wanted");
  EXPECT_EQ(refused("/rows/0/when", "colour"),
            "small.json: embed.weight: expression \"colour\": nothing above is called colour");
  EXPECT_EQ(refused("/rows/0/when", "1 +"),
            "small.json: embed.weight: expression \"1 +\": a value is missing at the end");
  EXPECT_EQ(refused("/rows/0/role", "layers.{l}.mlp.up.weight"),
            "small.json: embed.weight: {l} stands in only one of name and role "
            "layers.{l}.mlp.up.weight");
  EXPECT_EQ(refused("/rows/0/optional", 1),
            "small.json: embed.weight: \"optional\" is 1, not true or false");
  EXPECT_EQ(refused("/written", {{"colour", 1}}),
            "small.json: \"written\": colour is neither an unused nor a required key");
  EXPECT_EQ(refused("/training", {{"colour", "hidden_dropout"}}),
            "small.json: \"training\": colour is neither an unused nor a required key");
  EXPECT_EQ(refused("/training", {{"attention_dropout", 1}}),
            "small.json: \"attention_dropout\" is 1, not a string");
  EXPECT_EQ(error([] { parse_family(3, "small.json"); }), "small.json: an object is wanted, not 3");
}

TEST(Roles, KnowFactorsAndTemplates) {
  EXPECT_EQ(roles().factors_of("layers.{l}.mlp.up.weight"), (Strings{"ffn", "hidden"}));
  EXPECT_EQ(roles().products.at("heads").second, "heads_per_group");
  EXPECT_EQ(error([] { roles().factors_of("x"); }), "no role is called x");
  EXPECT_EQ(role_template("layers.12.mlp.up.weight"), "layers.{l}.mlp.up.weight");
  EXPECT_EQ(role_template("embedding.weight"), "embedding.weight");
  EXPECT_EQ(role_template("layers.x.y"), "layers.x.y");
  EXPECT_EQ(role_template("layers.3"), "layers.3");
}

TEST(Roles, RefuseSizesThatAreNone) {
  const Family family = parse_family(small_table(), "small.json");
  const Record record = {{"layers", 1}, {"experts", 0}, {"moe", {true}}, {"vocab", 4}};
  EXPECT_EQ(error([&] { canonical_tensors(family, record); }),
            "embedding.weight: hidden is unknown, a positive whole number is wanted");
  const Record many = {{"layers", 1000000000000}};
  EXPECT_EQ(error([&] { canonical_tensors(family, many); }),
            "layers is 1000000000000, a number up to 100000 is wanted");
}

TEST(Instances, AreQuickForManyExperts) {
  const Family family = load_family("deepseek_v3");
  Json config = {{"model_type", "deepseek_v3"},
                 {"num_hidden_layers", 61},
                 {"hidden_size", 7168},
                 {"vocab_size", 129280},
                 {"max_position_embeddings", 4096},
                 {"num_attention_heads", 128},
                 {"num_key_value_heads", 128},
                 {"intermediate_size", 18432}};
  const Record record = read_config(family, config);
  const std::vector<Row> rows = family.rows_of(family.forms().front());
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<Instance> all = instances(rows, record);
  const std::vector<RoleTensor> tensors = canonical_tensors(family, record);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_GT(all.size(), 58U * 256U * 3U);
  EXPECT_LT(seconds.count(), 10.0);  // some 0.05 s in a release build
  EXPECT_EQ(tensors.front().role, "embedding.weight");
  EXPECT_EQ(tensors[1].role, "layers.0.attention_norm.weight");
  EXPECT_EQ(tensors[tensors.size() - 2].role, "final_norm.weight");
  EXPECT_EQ(tensors.back().role, "head.weight");
  EXPECT_EQ(tensors.back().shape, (Shape{129280, 7168}));
  for (std::size_t i = 2; i + 2 < tensors.size(); ++i) {
    EXPECT_LE(std::stoi(tensors[i - 1].role.substr(7)), std::stoi(tensors[i].role.substr(7)));
  }
}

TEST(Dialect, HoldsItsTable) {
  const DialectTable table = load_dialect("megatron_mcore");
  EXPECT_EQ(table.name, "megatron_mcore");
  EXPECT_EQ(table.unit, "stage");
  EXPECT_EQ(table.choices.front().first, "spec");
  EXPECT_EQ(table.add->roles, "*norm.weight");
  EXPECT_EQ(table.rows.front().split, "vocab");
  EXPECT_EQ(table.rows.front().pad.front().second, "padded_vocab");
  EXPECT_EQ(table.place_of("layers.3.mlp.up.weight", Names()), "own");
  EXPECT_EQ(table.place_of("head.weight", Names()), "last");
  EXPECT_EQ(error([&] { static_cast<void>(table.place_of("x", Names())); }),
            "dialect megatron_mcore has no place for x");
  EXPECT_EQ(table.complete_choices({{"spec", "te"}}).dump(),
            R"({"spec":"te","experts_as":"sequential","zero_centred_norms":0,)"
            R"("rotary_interleaved":false})");
  EXPECT_EQ(error([&] {
              static_cast<void>(table.complete_choices({{"spec", "x"}}));
            }),
            "dialect megatron_mcore: spec is \"x\", there are [\"local\",\"te\"]");
  EXPECT_EQ(error([&] {
              static_cast<void>(table.complete_choices({{"x", 1}}));
            }),
            "dialect megatron_mcore has no choice x");
  const DialectTable legacy = load_dialect("megatron_legacy");
  EXPECT_EQ(legacy.nested.front(), "language_model");
  EXPECT_EQ(legacy.spellings.front().second, Strings{"language_model.transformer"});
  EXPECT_TRUE(error([] { load_dialect("x"); }, Kind::internal).starts_with("no table dialects/x"));
}

}  // namespace
}  // namespace reshard::families
