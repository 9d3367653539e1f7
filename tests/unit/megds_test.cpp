#include "formats/dialect/megds.hpp"

#include <gtest/gtest.h>

#include "families/arguments.hpp"

namespace reshard::formats {
namespace {

using Of = DeepSpeedFile::Kind;

TEST(DeepSpeedFiles, NamesTellKindAndRanksBeyondTwoDigitsToo) {
  const auto layer = deepspeed_file("layer_101-model_07-model_states.pt");
  ASSERT_TRUE(layer);
  EXPECT_EQ(layer->kind, Of::layer);
  EXPECT_EQ(layer->layer, 101u);
  EXPECT_EQ(layer->tp, 7u);
  EXPECT_EQ(deepspeed_file("layer_03-model_01_model_states.pt")->tp, 1u);  // of an older tool
  EXPECT_EQ(deepspeed_file("layer_03-model_states.pt")->layer, 3u);
  EXPECT_EQ(deepspeed_file("mp_rank_123_model_states.pt")->mp, 123u);
  for (const char* name : {"zero_pp_rank_12_mp_rank_03_optim_states.pt",
                           "bf16_zero_pp_rank_12_mp_rank_03_optim_states.pt",
                           "zero_pp_rank_12_mp_rank_03optim_states.pt"}) {
    const auto optimizer = deepspeed_file(name);
    ASSERT_TRUE(optimizer) << name;
    EXPECT_EQ(optimizer->kind, Of::optimizer);
    EXPECT_EQ(optimizer->dp, 12u) << "the first number is the data-parallel rank";
    EXPECT_EQ(optimizer->mp, 3u);
  }
}

TEST(DeepSpeedFiles, ExpertsPartitionsAndOthersAreNoLayers) {
  EXPECT_EQ(deepspeed_file("layer_0_expert_3_mp_rank_00_model_states.pt")->kind, Of::expert);
  EXPECT_EQ(deepspeed_file("expert_3_mp_rank_00_model_states.pt")->kind, Of::expert);
  EXPECT_EQ(deepspeed_file("zero_pp_rank_1_mp_rank_00_model_states.pt")->kind, Of::partition);
  for (const char* name :
       {"layer_03-model_01-model_states.pt.tmp", "layer_-model_01-model_states.pt",
        "layer_99999999999999999999", "mp_rank_00", "latest", ""}) {
    EXPECT_FALSE(deepspeed_file(name)) << name;
  }
  EXPECT_THROW(deepspeed_file("layer_03-model_99999999999999999999-model_states.pt"), Error);
}

TEST(DeepSpeedFiles, StagesAreEvenOrTheFirstOnesLarger) {
  const std::vector<LayerRange> even = {{0, 2}, {2, 2}}, uneven = {{0, 3}, {3, 2}};
  EXPECT_EQ(deepspeed_stages(4, 2), even);
  EXPECT_EQ(deepspeed_stages(5, 2), uneven);
}

Json member(Json args, bool by_name) {
  Json object = {{"!", "object"},
                 {"class", "megatron.enums.PositionEmbeddingType"},
                 {"args", Json::array({std::move(args)})}};
  if (by_name) object["by"] = "getattr";
  return object;
}

Json bigscience_args(const Json& position) {
  return {{"num_layers", 2},
          {"hidden_size", 8},
          {"num_attention_heads", 2},
          {"max_position_embeddings", 16},
          {"padded_vocab_size", 128},
          {"@checkpoint_info", {{"original_vocab_size", 101}}},
          {"embed_layernorm", true},
          {"position_embedding_type", position},
          {"bias_gelu_fusion", true},
          {"bf16", true},
          {"fp16", false}};
}

TEST(MegdsArguments, EnumsAreReadByNumberAndByName) {
  const families::ArgumentTable table = families::load_arguments("megatron_deepspeed");
  for (const Json& position : {member(3, false), member("alibi", true)}) {
    const auto read = families::read_arguments(table, bigscience_args(position), Json::object());
    EXPECT_EQ(read.record.at("position"), "alibi");
    EXPECT_EQ(read.record.at("vocab"), 101);
    EXPECT_EQ(read.choices.at("numbering"), "bigscience");
    EXPECT_EQ(read.families, std::vector<std::string>{"bloom"});
    EXPECT_TRUE(read.unknown.empty());
  }
  EXPECT_ANY_THROW(
      families::read_arguments(table, bigscience_args(member(9, false)), Json::object()));
}

TEST(MegdsArguments, EachLineageIsWrittenInItsOwnWords) {
  const families::ArgumentTable table = families::load_arguments("megatron_deepspeed");
  const Json args = bigscience_args(member(3, false));
  const families::Record record = families::read_arguments(table, args, Json::object()).record;
  const Json degrees = {{"tp", 2}, {"pp", 1}, {"dp", 1}, {"padded_vocab", 256}};
  Json choices = {{"numbering", "bigscience"}, {"glu", "up_first"}, {"zero_centred_norms", 0}};
  const Json written = families::write_arguments(table, record, degrees, choices, Json::object());
  EXPECT_EQ(written.at("position_embedding_type"), member(3, false));
  EXPECT_EQ(written.at("embed_layernorm"), true);
  EXPECT_FALSE(written.contains("num_key_value_heads"));
  choices = {{"numbering", "plain"}, {"glu", "gate_first"}, {"zero_centred_norms", 0}};
  EXPECT_ANY_THROW(families::write_arguments(table, record, degrees, choices, Json::object()));
}

}  // namespace
}  // namespace reshard::formats
