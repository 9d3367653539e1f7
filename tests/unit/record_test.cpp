#include "families/record.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace reshard::families {
namespace {

using Strings = std::vector<std::string>;

/// What the reference tables' proof expects of a real config.json: tests/data/records.
struct Expected {
  std::string name;
  Json json;
};

std::vector<Expected> all_expected() {
  std::vector<Expected> all;
  for (const auto& entry : std::filesystem::directory_iterator(RESHARD_TEST_DATA "/records")) {
    std::ifstream file(entry.path());
    all.push_back({entry.path().stem(), Json::parse(file)});
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  EXPECT_GE(all.size(), 30U);
  return all;
}

template <class Work>
std::string error(Work&& work) {
  try {
    work();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::input);
    return e.what();
  }
  return "no error";
}

Json config_of(const std::string& name) {
  std::ifstream file(RESHARD_TEST_DATA "/records/" + name + ".json");
  return Json::parse(file).at("config");
}

/// Exactly equal: also 1 and 1.0 differ.
void expect_record(const Record& seen, const Json& wanted, const std::string& what) {
  EXPECT_EQ(seen.size(), wanted.size()) << what;
  for (const auto& [line, value] : wanted.items()) {
    ASSERT_TRUE(seen.contains(line)) << what << ": " << line;
    EXPECT_EQ(seen.at(line).dump(), value.dump()) << what << ": " << line;
  }
}

/// The config without a dotted key.
Json without(Json config, const std::string& key) {
  const std::size_t dot = key.find('.');
  if (dot == std::string::npos) {
    config.erase(key);
  } else {
    config.at(key.substr(0, dot)).erase(key.substr(dot + 1));
  }
  return config;
}

TEST(Record, IsReadFromConfigs) {
  for (const auto& [name, json] : all_expected()) {
    const Family family = family_of_config(json.at("config"));
    EXPECT_EQ(family.name, json.at("family")) << name;
    expect_record(read_config(family, json.at("config")), json.at("record"), name);
  }
}

TEST(Record, HasDefaultsForKeysThatAreLeftOutOrRefuses) {
  int refused = 0;
  int defaults = 0;
  for (const auto& [name, json] : all_expected()) {
    const Family family = family_of_config(json.at("config"));
    for (const auto& [key, expected] : json.at("without").items()) {
      const Json config = without(json.at("config"), key);
      if (expected.is_string()) {
        EXPECT_NE(error([&] { read_config(family, config); }), "no error") << name << ": " << key;
        ++refused;
        continue;
      }
      Json wanted = json.at("record");
      wanted.update(expected);
      expect_record(read_config(family, config), wanted, name + " without " + key);
      ++defaults;
    }
  }
  EXPECT_GT(refused, 150);
  EXPECT_GT(defaults, 500);
}

TEST(Record, IsWrittenAndReadBack) {
  for (const auto& [name, json] : all_expected()) {
    const Family family = family_of_config(json.at("config"));
    const Record record = json.at("record");
    const Json config = write_config(family, record);
    for (const auto& [key, value] : json.at("written").items()) {
      EXPECT_EQ(config.at(key).dump(), value.dump()) << name << ": " << key;
    }
    for (const std::string key : {"model_type", "architectures", "vocab_size", "torch_dtype",
                                  "tie_word_embeddings", "initializer_range", "use_cache"}) {
      EXPECT_TRUE(config.contains(key)) << name << ": " << key;
    }
    expect_record(read_config(family, config), json.at("record"), name);
  }
}

TEST(Record, NamesEveryCanonicalTensor) {
  for (const auto& [name, json] : all_expected()) {
    const Family family = family_of_config(json.at("config"));
    std::map<std::string, Shape> seen;
    for (const RoleTensor& each : canonical_tensors(family, json.at("record"))) {
      EXPECT_TRUE(seen.emplace(each.role, each.shape).second) << name << ": " << each.role;
      EXPECT_EQ(role_template(each.role), each.role_template);
      EXPECT_EQ(each.factors.size(), each.shape.size());
    }
    EXPECT_EQ(seen, (json.at("roles").get<std::map<std::string, Shape>>())) << name;
  }
}

TEST(Record, NamesEveryStoredTensor) {
  for (const auto& [name, json] : all_expected()) {
    const Family family = family_of_config(json.at("config"));
    for (const std::string& form : family.forms()) {
      const std::vector<Row> rows = family.rows_of(form);
      Strings seen;
      for (const Instance& each : instances(rows, json.at("record"))) seen.push_back(each.name);
      EXPECT_EQ(seen, json.at("names").at(form).get<Strings>()) << name << " " << form;
    }
  }
}

TEST(Record, RefusesUnknownKeysAllAtOnce) {
  const Family family = load_family("llama");
  Json config = config_of("huggingface-llama");
  config["colour"] = "red";
  config["quantization_config"] = {{"bits", 4}, {"group", nullptr}};
  EXPECT_EQ(error([&] { read_config(family, config); }),
            "model_type llama does not know colour = \"red\", quantization_config.bits = "
            "4; if they change nothing, give --ignore-config colour --ignore-config "
            "quantization_config.bits");
  Strings found;
  const Record record = read_config(family, config, {"colour", "quantization_config", "x"}, &found);
  EXPECT_EQ(found, (Strings{"colour", "quantization_config.bits"}));
  EXPECT_EQ(record, read_config(family, config_of("huggingface-llama")));
  Json mistral = config_of("huggingface-mistral");
  mistral["attention_bias"] = false;
  EXPECT_TRUE(error([&] {
                read_config(family, mistral);
              }).starts_with("model_type mistral does not know attention_bias = false;"));
}

TEST(Record, RefusesValuesThatItCannotHold) {
  const auto refused = [](const std::string& name, const std::string& key, const Json& value) {
    Json config = config_of(name);
    const Family family = family_of_config(config);
    config[key] = value;
    return error([&] { read_config(family, config); });
  };
  EXPECT_EQ(refused("huggingface-llama", "partial_rotary_factor", 0.5),
            "hyperparameter rotary_fraction (partial_rotary_factor = 0.5): 0.5 is not supported, "
            "only 1.0");
  EXPECT_TRUE(refused("huggingface-llama", "hidden_act", "tanh")
                  .starts_with("hyperparameter activation (hidden_act = \"tanh\"): \"tanh\" is not "
                               "supported, only \"silu\", \"swish\","));
  EXPECT_EQ(refused("huggingface-llama", "num_key_value_heads", 4),
            "hyperparameter heads_per_group (num_attention_heads = 6, num_key_value_heads = 4): "
            "expression \"heads / groups\": 6 / 4 is not whole");
  EXPECT_EQ(refused("huggingface-llama", "num_key_value_heads", 0),
            "hyperparameter heads_per_group (num_attention_heads = 6, num_key_value_heads = 0): "
            "expression \"heads / groups\": division by zero");
  EXPECT_EQ(refused("huggingface-llama", "hidden_size", nullptr),
            "hyperparameter hidden: none of the keys hidden_size is there");
  EXPECT_EQ(
      refused("huggingface-llama", "num_hidden_layers", 1e30),
      "hyperparameter layers (num_hidden_layers = 1e+30): layers is 1e+30, wanted a number from 0");
  EXPECT_EQ(
      refused("huggingface-gemma2", "layer_types", {"full_attention"}),
      "hyperparameter windowed (layer_types = [\"full_attention\"]): [false] is no list of one "
      "value for each of 5 layers");
  EXPECT_EQ(refused("huggingface-deepseek_v3", "topk_method", "greedy"),
            "topk_method is \"greedy\", only \"noaux_tc\" is supported");
  const Family llama = load_family("llama");
  EXPECT_EQ(error([&] { read_config(llama, Json::object()); }), "lacks \"model_type\"");
  EXPECT_EQ(error([&] {
              read_config(llama, {{"model_type", 1}});
            }),
            "model_type is 1, not a string");
  EXPECT_EQ(error([&] {
              read_config(llama, {{"model_type", "gpt2"}});
            }),
            "family llama has no model_type gpt2, only llama, mistral");
}

TEST(Record, ChoosesTheModelTypeThatFits) {
  const Family family = load_family("llama");
  Record record = read_config(family, config_of("huggingface-llama"));
  EXPECT_EQ(write_config(family, record).at("model_type"), "llama");
  EXPECT_EQ(write_config(family, record, "mistral").at("model_type"), "mistral");
  record["window"] = 16;
  record["windowed"] = Json(Json::array_t(5, true));
  EXPECT_EQ(write_config(family, record).at("sliding_window"), 16);
  EXPECT_EQ(error([&] { write_config(family, record, "llama"); }),
            "model_type llama of family llama cannot hold the record: it wants window == null");
}

TEST(Record, CarriesKeysThatItDoesNotRead) {
  const Family family = load_family("opensci");
  const Record record = read_config(family, config_of("opensci-opensci-small"));
  const Json config = write_config(
      family, record, "",
      {{"bos_token_id", 7}, {"initializer_range", 0.5}, {"hidden_size", 3}, {"colour", "red"}});
  EXPECT_EQ(config.at("bos_token_id"), 7);
  EXPECT_EQ(config.at("initializer_range"), 0.5);
  EXPECT_EQ(config.at("hidden_size"), 24);
  EXPECT_EQ(config.at("colour"), "red");
  EXPECT_EQ(config.at("use_cache"), true);
  EXPECT_TRUE(config.at("rope_scaling").is_null());
  EXPECT_EQ(config.at("auto_map").at("AutoConfig"), "configuration_opensci.OpensciConfig");
}

TEST(Record, MayHoldTrainingHyperparameters) {
  const Family family = load_family("gpt2");
  Record record = read_config(family, config_of("huggingface-gpt2"));
  EXPECT_FALSE(write_config(family, record).contains("attn_pdrop"));
  record["attention_dropout"] = 0.25;
  record["hidden_dropout"] = 0.0;
  const Json config = write_config(family, record);
  EXPECT_EQ(config.at("attn_pdrop"), 0.25);
  EXPECT_EQ(config.at("resid_pdrop"), 0.0);
  EXPECT_EQ(config.at("embd_pdrop"), 0.0);
}

TEST(Record, IsNotWrittenWhereTheFamilyCannotHoldIt) {
  const Record qwen = read_config(load_family("qwen3"), config_of("huggingface-qwen3"));
  EXPECT_EQ(error([&] { write_config(load_family("llama"), qwen); }),
            "family llama (model_type llama) cannot hold hyperparameter qk_norm = \"head\", its "
            "config.json would say \"none\"");
  const Origin origin = [](const std::string& name) { return " (from " + name + ")"; };
  EXPECT_EQ(error([&] { write_config(load_family("llama"), qwen, "", Json::object(), origin); }),
            "family llama (model_type llama) cannot hold hyperparameter qk_norm = \"head\" (from "
            "qk_norm), its config.json would say \"none\"");
  Record record = qwen;
  record["activation"] = "sine";
  EXPECT_TRUE(error([&] {
                write_config(load_family("qwen3"), record);
              }).starts_with("hyperparameter activation: \"sine\" cannot be written, only "));
  record.erase("activation");
  EXPECT_EQ(error([&] { write_config(load_family("qwen3"), record); }),
            "hyperparameter activation is unknown");
}

TEST(Record, ComparesOnlyWhatChangesTheFunction) {
  const Record record = read_config(load_family("llama"), config_of("huggingface-llama"));
  Record other = record;
  other["vocab"] = 1;
  other["dtype"] = "float16";
  other["positions"] = 1;
  other["expert_ffn"] = 77;
  other["rope_factor"] = 3.0;
  EXPECT_EQ(differing_lines(record, other), Strings{});
  other["tied"] = true;
  other["norm_epsilon"] = 0.5;
  EXPECT_EQ(differing_lines(record, other), (Strings{"norm_epsilon", "tied"}));
}

}  // namespace
}  // namespace reshard::families
