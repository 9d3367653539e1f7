#include "families/arguments.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace reshard::families {
namespace {

using Strings = std::vector<std::string>;

Json load(const std::string& path) {
  std::ifstream file(RESHARD_TEST_DATA "/" + path);
  return Json::parse(file);
}

/// `args` of files that Megatron wrote, and what the reference tables' proof makes of them.
std::vector<std::pair<std::string, Json>> all_expected() {
  std::vector<std::pair<std::string, Json>> all;
  for (const auto& entry : std::filesystem::directory_iterator(RESHARD_TEST_DATA "/arguments")) {
    all.emplace_back(entry.path().stem(), load("arguments/" + entry.path().filename().string()));
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  EXPECT_GE(all.size(), 20U);
  return all;
}

const ArgumentTable& table() {
  static const ArgumentTable loaded = load_arguments("megatron");
  return loaded;
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

/// Exactly equal: also 1 and 1.0 differ.
void expect_members(const Json& seen, const Json& wanted, const std::string& what) {
  EXPECT_EQ(seen.size(), wanted.size()) << what;
  for (const auto& [name, value] : wanted.items()) {
    ASSERT_TRUE(seen.contains(name)) << what << ": " << name;
    EXPECT_EQ(seen.at(name).dump(), value.dump()) << what << ": " << name;
  }
}

Json llama_args() {
  return load("arguments/megatron-llama-gqa-torch-tp1-pp1.json").at("args");
}

MegatronArguments changed(const std::string& argument, const Json& value) {
  Json args = llama_args();
  args[argument] = value;
  return read_arguments(table(), args, Json::object());
}

TEST(Arguments, AreRead) {
  for (const auto& [name, json] : all_expected()) {
    const MegatronArguments read = read_arguments(table(), json.at("args"), json.at("beside"));
    expect_members(read.record, json.at("record"), name);
    expect_members(read.choices, json.at("choices"), name);
    expect_members(read.degrees, json.at("degrees"), name);
    EXPECT_EQ(read.families, json.at("families").get<Strings>()) << name;
    EXPECT_EQ(read.unknown, Strings{}) << name;
  }
}

TEST(Arguments, ChangedOneByOneChangeTheRecordOrAreRefused) {
  int refused = 0;
  int noticed = 0;
  for (const auto& [name, json] : all_expected()) {
    for (const auto& [number, change] : json.at("changes").items()) {
      Json args = json.at("args");
      args[change.at(0).get<std::string>()] = change.at(1);
      const std::string what = name + ": " + change.at(0).dump() + " = " + change.at(1).dump();
      const Json& beside = json.at("beside");
      const auto read = [&] { return read_arguments(table(), args, beside); };
      if (change.at(2).is_string()) {
        EXPECT_NE(error(read), "no error") << what;
        ++refused;
        continue;
      }
      Json record = json.at("record");
      Json choices = json.at("choices");
      Json degrees = json.at("degrees");
      for (const auto& [line, value] : change.at(2).items()) {
        if (line.starts_with("choice ")) {
          choices[line.substr(7)] = value;
        } else if (line.starts_with("degree ")) {
          degrees[line.substr(7)] = value;
        } else {
          record[line] = value;
        }
        ++noticed;
      }
      const MegatronArguments seen = read();
      expect_members(seen.record, record, what);
      expect_members(seen.choices, choices, what);
      expect_members(seen.degrees, degrees, what);
    }
  }
  EXPECT_GT(refused, 500);
  EXPECT_GT(noticed, 500);
}

TEST(Arguments, AreWrittenFromRecordChoicesAndDegrees) {
  for (const auto& [name, json] : all_expected()) {
    const Json written = write_arguments(table(), json.at("truth"), json.at("degrees"),
                                         json.at("choices"), Json::object());
    expect_members(written, json.at("written"), name);
    const MegatronArguments again = read_arguments(table(), written, Json::object());
    EXPECT_EQ(differing_lines(json.at("truth"), again.record), Strings{}) << name;
    expect_members(again.choices, json.at("choices"), name);
    expect_members(again.degrees, json.at("degrees"), name);
  }
}

TEST(Arguments, HoldTheFamiliesThatTheyCanHold) {
  const Json degrees = {{"tp", 2}, {"vocab_multiple", 1}, {"padded_vocab", 211}};
  int held = 0;
  Strings not_held;
  for (const std::string& name :
       Strings{"bloom", "deepseek_v3", "gemma2", "gpt2", "gpt_neox", "gpt_oss", "llama",
               "llama-attn-bias", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen3",
               "qwen3_moe"}) {
    const Json json = load("records/huggingface-" + name + ".json");
    const auto write = [&] {
      return write_arguments(table(), json.at("record"), degrees,
                             {{"spec", "te"}, {"experts_as", "grouped"}}, Json::object());
    };
    const Json& wanted = json.at("arguments");
    if (!wanted.contains("lines") || !wanted.at("lines").empty()) {
      const std::string why = error(write);
      EXPECT_NE(why, "no error") << name;
      if (wanted.contains("lines")) {
        EXPECT_TRUE(why.starts_with("megatron arguments cannot hold hyperparameter " +
                                    wanted.at("lines").at(0).get<std::string>() + " = "))
            << why;
      }
      not_held.push_back(name);
      continue;
    }
    const Json args = write();
    for (const auto& [argument, value] : wanted.at("args").items()) {
      if (argument == "params_dtype") continue;
      EXPECT_EQ(args.at(argument).dump(), value.dump()) << name << ": " << argument;
    }
    ++held;
  }
  EXPECT_EQ(not_held, (Strings{"bloom", "gemma2", "gpt_neox", "olmo2"}));
  EXPECT_EQ(held, 11);
}

TEST(Arguments, BecomeRecordsOfTheFamiliesThatTheyMayMean) {
  for (const auto& [name, json] : all_expected()) {
    const MegatronArguments read = read_arguments(table(), json.at("args"), json.at("beside"));
    for (const auto& [type, wanted] : json.at("complete").items()) {
      const Family family = family_of_model_type(type);
      const auto complete = [&, &model_type = type] {
        return complete_record(table(), read, family, model_type);
      };
      const std::string what = name + " as " + type;
      if (wanted.is_null()) {
        EXPECT_NE(error(complete), "no error") << what;
        continue;
      }
      // A record without experts is one of qwen3_moe too, but no rule means it.
      CompleteRecord made = complete();
      EXPECT_EQ(made.model_type, type);
      for (const auto& [key, argument] : family.training) {
        EXPECT_EQ(made.config.value(argument, Json()), json.at("args").value(argument, Json()));
      }
      for (const auto& [key, argument] : family.training) made.config.erase(argument);
      expect_members(made.config, wanted, what);
      EXPECT_EQ(differing_lines(read.record, made.model), Strings{}) << what;
    }
    const CompleteRecord made =
        complete_record(table(), read, family_of_model_type(read.families.front()));
    EXPECT_EQ(made.model_type, read.families.front());
  }
}

TEST(Arguments, NameTheFamiliesThatCanHoldThem) {
  const MegatronArguments read =
      read_arguments(table(), load("arguments/megatron-qwen3-torch-tp2-pp1.json").at("args"), {});
  EXPECT_EQ(error([&] { complete_record(table(), read, load_family("llama"), "llama"); }),
            "family llama (model_type llama) cannot hold hyperparameter qk_norm = \"head\" "
            "(qk_layernorm = true, multi_latent_attention = false), its config.json would say "
            "\"none\"; --family may be qwen3, opensci");
}

TEST(Arguments, TellWhichFamilyIsNearestIfNoneFits) {
  const auto nearest = [](const std::string& argument, const Json& value) {
    const MegatronArguments read = changed(argument, value);
    EXPECT_EQ(read.families, Strings{});
    return nearest_family(table(), read);
  };
  EXPECT_EQ(nearest("rotary_percent", 0.5),
            "no family computes the function that args describe; llama is nearest, but wants "
            "rotary_fraction == 1.0 where args say rotary_fraction = 0.5 (rotary_percent = 0.5)");
  EXPECT_EQ(nearest("normalization", "LayerNorm"),
            "no family computes the function that args describe; llama is nearest, but wants "
            "norm == 'rms' where args say norm = \"layer\" (normalization = \"LayerNorm\")");
  const std::string relu = nearest("swiglu", false);
  EXPECT_NE(relu.find("llama is nearest, but wants gated where args say gated = false (swiglu = "
                      "false, quick_geglu = false), and activation == 'silu' where args say "
                      "activation = \"gelu\" ("),
            std::string::npos)
      << relu;
}

TEST(Arguments, OfAWrongTypeAreRefusedByName) {
  const std::vector<Json> odd = {"text",
                                 Json::array(),
                                 Json::array({nullptr}),
                                 Json::array({"x", -7}),
                                 Json::object(),
                                 {{"!", "float"}, {"value", "nan"}},
                                 {{"!", "int"}, {"value", "123456789012345678901234567890"}},
                                 {{"!", "object"}, {"class", "C"}, {"args", Json::array()}},
                                 {{"!", "object"}, {"class", 3}},
                                 {{"!", "global"}, {"name", 3}},
                                 -1,
                                 0,
                                 1,
                                 1.5,
                                 1e308,
                                 true,
                                 std::numeric_limits<std::uint64_t>::max(),
                                 std::numeric_limits<std::int64_t>::min(),
                                 nullptr};
  int refused = 0;
  for (const std::string name : {"llama-gqa-torch-tp2-pp2", "mixtral-moe-torch-tp1-pp1-ep2"}) {
    const Json json = load("arguments/megatron-" + name + ".json");
    for (const std::string& argument : table().known) {
      for (const Json& value : odd) {
        Json args = json.at("args");
        args[argument] = value;
        try {
          const MegatronArguments read = read_arguments(table(), args, json.at("beside"));
          for (const char* degree : {"tp", "pp", "vpp", "ep", "etp", "padded_vocab", "world"}) {
            EXPECT_TRUE(read.degrees.at(degree).is_number_integer()) << argument;
          }
        } catch (const Error& e) {
          EXPECT_EQ(e.kind(), Kind::input) << argument << " = " << value << ": " << e.what();
          const bool names = std::string(e.what()).find(argument) != std::string::npos;
          EXPECT_TRUE(names || value.is_number() || value.is_boolean() || value.is_null())
              << argument << " = " << value << ": " << e.what();
          ++refused;
        } catch (const std::exception& e) {
          ADD_FAILURE() << argument << " = " << value << ": " << e.what();
        }
      }
    }
  }
  EXPECT_GT(refused, 2000);
  EXPECT_EQ(error([] { changed("hidden_size", "x"); }),
            "args: hidden_size is \"x\", a whole number from 0 to 2^48 is wanted");
  EXPECT_EQ(error([] { changed("swiglu", 1); }), "args: swiglu is 1, true or false is wanted");
  EXPECT_EQ(error([] { changed("norm_epsilon", Json::array()); }),
            "args: norm_epsilon is [], a finite number is wanted");
  EXPECT_EQ(error([] {
              changed("norm_epsilon", {{"!", "float"}, {"value", "nan"}});
            }),
            "args: norm_epsilon is \"nan\", a finite number is wanted");
}

TEST(Arguments, ThatChangeTheFunctionAreRefusedUnlessNeutral) {
  for (const char* name :
       {"softmax_scale", "attention_scale", "scale_embeddings", "embedding_multiplier",
        "logit_scale", "attn_logit_softcapping", "head_wise_attn_gate", "rotary_base_per_layer"}) {
    EXPECT_TRUE(error([&] {
                  changed(name, name == std::string("scale_embeddings") ? Json(true) : Json(0.5));
                }).starts_with("args: " + std::string(name) + " is "))
        << name;
    EXPECT_EQ(changed(name, nullptr).families.front(), "llama");
  }
  EXPECT_EQ(changed("scale_embeddings", false).unknown, Strings{});
}

TEST(Arguments, FillOneFlagForAllBiases) {
  Json args = load("arguments/megatron-qwen3-torch-tp2-pp1.json").at("args");
  args["add_qkv_bias"] = true;
  const MegatronArguments read = read_arguments(table(), args, Json::object());
  EXPECT_EQ(read.families, Strings{"opensci"});
  const CompleteRecord made = complete_record(table(), read, load_family("opensci"));
  EXPECT_EQ(made.config.at("output_bias"), true);
  EXPECT_EQ(made.model.at("output_bias"), false);
  EXPECT_EQ(made.model.at("attention_bias"), true);
}

TEST(Arguments, TellTheTrainingState) {
  const Json args = {{"num_layers", 1},          {"hidden_size", 8},
                     {"num_attention_heads", 2}, {"seq_length", 16},
                     {"padded_vocab_size", 8},   {"add_position_embedding", true},
                     {"iteration", 0},           {"seed", 5},
                     {"train_iters", nullptr},   {"consumed_train_samples", 64}};
  const MegatronArguments read = read_arguments(
      table(), args, {{"iteration", 3}, {"checkpoint_version", 3.0}, {"model", "no state"}});
  EXPECT_EQ(read.training.at("iteration"), 3);
  EXPECT_EQ(read.training.at("checkpoint_version"), 3.0);
  EXPECT_EQ(read.training.at("consumed_train_samples"), 64);
  EXPECT_EQ(read.training.at("seed"), 5);
  EXPECT_FALSE(read.training.contains("train_iters"));
  EXPECT_FALSE(read.training.contains("model"));
  EXPECT_EQ(read.degrees.at("tp"), 1);
  EXPECT_EQ(read.degrees.at("world"), 1);
}

TEST(Arguments, TellWhichAreUnknown) {
  Json args = llama_args();
  args["colour"] = "red";
  args["a_tuple"] = {{"!", "tuple"}, {"items", {1, {{"!", "global"}, {"name", "torch.int8"}}}}};
  EXPECT_EQ(read_arguments(table(), args, {}).unknown,
            (Strings{"a_tuple = [1,\"int8\"]", "colour = \"red\""}));
}

TEST(Arguments, RefuseWhatTheRecordCannotHold) {
  EXPECT_EQ(error([] { changed("qk_l2_norm", true); }),
            "args: qk_l2_norm is true, only [false] is supported");
  EXPECT_EQ(error([] {
              changed("spec", {"a", "b"});
            }),
            "args: spec is [\"a\",\"b\"], only null is supported");
  EXPECT_EQ(error([] { changed("encoder_num_layers", 7); }),
            "args: layers (num_layers = 4, encoder_num_layers = 7): num_layers, encoder_num_layers "
            "disagree: 4 and 7");
  EXPECT_EQ(error([] { changed("normalization", "other"); }),
            "args: norm (normalization = \"other\"): \"other\" is not supported, only "
            "\"LayerNorm\", \"RMSNorm\"");
  EXPECT_EQ(error([] { changed("position_embedding_type", "relative"); }),
            "args: position (use_rotary_position_embeddings = false, position_embedding_type = "
            "\"relative\", add_position_embedding = true): this combination is not supported");
  EXPECT_EQ(error([] { changed("multi_latent_attention", true); }),
            "args: qk_norm (qk_layernorm = false, multi_latent_attention = true): this combination "
            "is not supported");
  EXPECT_EQ(error([] { changed("fp16", true); }),
            "args: dtype (bf16 = true, fp16 = true, params_dtype = \"bfloat16\"): this combination "
            "is not supported");
  EXPECT_EQ(error([] { changed("hidden_size", nullptr); }),
            "args: hidden: args have none of hidden_size");
  EXPECT_EQ(error([] {
              changed("moe_router_score_function", {{"!", "object"}});
            }),
            "args: moe_router_score_function is {\"!\":\"object\"}, a text is wanted");
  EXPECT_EQ(error([] { read_arguments(table(), Json::array(), {}); }), "args is [], not an object");
}

TEST(Arguments, ReadTuplesAndDtypes) {
  const MegatronArguments read = changed("window_size", {{"!", "tuple"}, {"items", {127, 0}}});
  EXPECT_EQ(read.record.at("window"), 128);
  EXPECT_EQ(read.record.at("windowed"), Json(Json::array_t(4, true)));
  EXPECT_EQ(read.record.at("dtype"), "bfloat16");
}

TEST(Arguments, AreNotWrittenWithoutWhatTheyNeed) {
  const Record record = load("records/huggingface-llama.json").at("record");
  EXPECT_EQ(error([&] {
              write_arguments(table(), record, {{"tp", 2}}, {}, Json::object());
            }),
            "degree padded_vocab is not given");
  const Json degrees = {{"tp", 2}, {"pp", 3}, {"padded_vocab", 256}};
  const Json args = write_arguments(table(), record, degrees, Json::object(),
                                    {{"seq_length", 7}, {"tokenizer_type", nullptr}, {"x", 1}});
  EXPECT_EQ(args.at("seq_length"), 7);
  EXPECT_EQ(args.at("world_size"), 6);
  EXPECT_EQ(args.at("expert_tensor_parallel_size"), 2);
  EXPECT_EQ(args.at("make_vocab_size_divisible_by"), 128);
  EXPECT_EQ(args.at("params_dtype").dump(), R"({"!":"global","name":"torch.bfloat16"})");
  EXPECT_FALSE(args.contains("x"));
  EXPECT_EQ(error([&] {
              write_arguments(table(), record, degrees, {{"experts_as", "other"}}, Json::object());
            }),
            "megatron arguments cannot hold choice experts_as = \"other\", they would say "
            "\"grouped\"");
}

TEST(Arguments, TellWhatTheCommandLineMustRepeat) {
  const auto flags = [](const std::string& name) {
    const Record record = load("records/huggingface-" + name + ".json").at("record");
    const Json args =
        write_arguments(table(), record, {{"padded_vocab", 256}}, Json::object(), Json::object());
    return command_line(table(), args);
  };
  EXPECT_EQ(flags("llama").flags, (Strings{"--transformer-impl local", "--norm-epsilon 1e-06"}));
  EXPECT_EQ(flags("gpt2").flags, Strings{"--transformer-impl local"});
  EXPECT_EQ(flags("qwen3").flags,
            (Strings{"--transformer-impl local", "--norm-epsilon 1e-06", "--qk-layernorm"}));
  Record exact = load("records/huggingface-gpt2.json").at("record");
  exact["activation"] = "gelu";
  EXPECT_EQ(command_line(table(), write_arguments(table(), exact, {{"padded_vocab", 256}},
                                                  {{"zero_centred_norms", 1}, {"spec", "te"}},
                                                  Json::object()))
                .flags,
            (Strings{"--no-bias-gelu-fusion", "--apply-layernorm-1p"}));
  EXPECT_EQ(flags("llama").fields, Strings{});
  const auto [oss, fields] = flags("gpt_oss");
  for (const std::string wanted :
       {"--activation-func-clamp-value 7.0", "--glu-linear-offset 1.0", "--quick-geglu",
        "--softmax-type learnable", "--window-size 127,0", "--window-attn-skip-freq '[1,0,1,0]'"}) {
    EXPECT_NE(std::find(oss.begin(), oss.end(), wanted), oss.end()) << wanted;
  }
  for (const std::string& flag : oss) EXPECT_TRUE(flag.starts_with("--")) << flag;
  EXPECT_NE(std::find(fields.begin(), fields.end(), "yarn_rotary_scaling_factor=32.0"),
            fields.end());
}

TEST(Arguments, TellTheLayoutOnTheCommandLine) {
  const Record record = load("records/huggingface-mixtral.json").at("record");
  const auto flags = [&](Json degrees) {
    degrees["padded_vocab"] = 256;
    const Json args = write_arguments(table(), record, degrees, {{"spec", "te"}}, Json::object());
    return command_line(table(), args).flags;
  };
  EXPECT_EQ(flags({{"tp", 1}}), Strings{});
  EXPECT_EQ(
      flags({{"tp", 2}, {"pp", 2}, {"first_stage_layers", 1}, {"last_stage_layers", 4}}),
      (Strings{"--tensor-model-parallel-size 2", "--pipeline-model-parallel-size 2",
               "--decoder-first-pipeline-num-layers 1", "--decoder-last-pipeline-num-layers 4"}));
  EXPECT_EQ(flags({{"tp", 4}, {"ep", 2}, {"etp", 1}, {"vocab_multiple", 64}}),
            (Strings{"--tensor-model-parallel-size 4", "--expert-model-parallel-size 2",
                     "--expert-tensor-parallel-size 1", "--make-vocab-size-divisible-by 64"}));
  EXPECT_EQ(flags({{"pp", 2}, {"vpp", 2}}), (Strings{"--pipeline-model-parallel-size 2",
                                                     "--num-virtual-stages-per-pipeline-rank 2"}));
  EXPECT_EQ(flags({{"pp", 2}, {"vpp", 2}, {"stage_layout", "Et|t|t|ttL"}}),
            (Strings{"--pipeline-model-parallel-size 2",
                     "--pipeline-model-parallel-layout 'Et|t|t|ttL'"}));
}

TEST(Arguments, HoldWholeFactorsOfLinearRotaryScaling) {
  Record record = load("records/huggingface-llama.json").at("record");
  record["rope_scaling"] = "linear";
  record["rope_factor"] = 2.0;
  const auto write = [&] {
    return write_arguments(table(), record, {{"padded_vocab", 256}}, {{"spec", "te"}},
                           Json::object());
  };
  EXPECT_EQ(write().at("rotary_seq_len_interpolation_factor").dump(), "2");
  EXPECT_EQ(command_line(table(), write()).flags.back(), "--rotary-seq-len-interpolation-factor 2");
  record["rope_factor"] = 2.5;
  EXPECT_TRUE(
      error(write).starts_with("megatron arguments cannot hold hyperparameter rope_factor "
                               "= 2.5, they would say 2 ("));
}

}  // namespace
}  // namespace reshard::families
