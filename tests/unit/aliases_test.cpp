#include "app/aliases.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"

namespace reshard::app {
namespace {

using Words = std::vector<std::string>;

Words words_of(const std::string& program, const Words& words) {
  return translate(program, words).words;
}

struct Case {
  const char* program;
  Words given, wanted;
};

/// Each row of the table once, beside a target that follows it.
TEST(Aliases, EachOptionBecomesTodays) {
  const Case cases[] = {
      {"reshard",
       {"convert", "--load_path", "a", "b", "--to", "hf"},
       {"convert", "a", "b", "--to", "hf"}},
      {"reshard",
       {"convert", "--input_folder", "a", "b", "--to", "hf"},
       {"convert", "a", "b", "--to", "hf"}},
      {"reshard", {"inspect", "--folder", "a"}, {"inspect", "a"}},
      {"reshard",
       {"convert", "--save_path", "b", "a", "--to", "hf"},
       {"convert", "a", "--to", "hf", "b"}},
      {"reshard",
       {"convert", "--output_folder", "b", "a", "--to", "hf"},
       {"convert", "a", "--to", "hf", "b"}},
      {"reshard",
       {"convert", "--json_path", "c.json", "a", "b"},
       {"convert", "--config", "c.json", "a", "b"}},
      {"reshard",
       {"convert", "--merak_tp", "2", "--merak_pp", "4", "--to", "merak"},
       {"convert", "--tp", "2", "--pp", "4", "--to", "merak", "--merak-default-era", "1"}},
      {"reshard",
       {"convert", "--target_tp", "2", "--target_pp", "4", "--to", "megatron"},
       {"convert", "--tp", "2", "--pp", "4", "--to", "megatron"}},
      {"reshard",
       {"convert", "--partition_method", "custom", "--custom_partition", "0,7,15", "--to", "merak"},
       {"convert", "--partition-method", "custom", "--custom-partition", "0,7,15", "--to", "merak",
        "--merak-default-era", "1"}},
      {"reshard",
       {"convert", "--for_release", "--to", "megatron"},
       {"convert", "--for-release", "--to", "megatron"}},
      {"reshard",
       {"convert", "--convert_type", "merak", "--load_path=a"},
       {"convert", "a", "--to", "merak", "--merak-default-era", "1"}},
      {"reshard",
       {"convert", "--convert_type", "transformers_to_merak"},
       {"convert", "--to", "merak", "--merak-default-era", "1"}},
      {"reshard",
       {"convert", "--convert_type=transformers"},
       {"convert", "--to", "hf-bin", "--max-shard-size", "1000000TB"}}};
  for (const Case& c : cases) {
    EXPECT_EQ(words_of(c.program, c.given), c.wanted) << c.given[1];
  }
}

TEST(Aliases, EachLinkChoosesCommandAndTarget) {
  const Case cases[] = {
      {"/opt/libexec/reshard/deepspeed_to_transformers",
       {"--input_folder", "a", "--output_folder", "b"},
       {"convert", "a", "--to", "merak", "--merak-default-era", "1", "b"}},
      {"deepspeed_to_transformers",
       {"--convert_type", "transformers", "--dtype", "fp32"},
       {"convert", "--to", "hf-bin", "--dtype", "fp32", "--max-shard-size", "1000000TB"}},
      {"deepspeed_to_megatron",
       {"--input_folder", "a", "--output_folder", "b", "--target_tp", "2"},
       {"convert", "a", "--to", "megatron", "--tp", "2", "--megatron-names", "legacy", "b"}},
      {"deepspeed_to_megatron",
       {"--megatron-names", "mcore"},
       {"convert", "--to", "megatron", "--megatron-names", "mcore"}},
      {"convert_merak_gpt2_checkpoint.py",
       {"--convert_type", "merak", "--merak-era", "2"},
       {"convert", "--to", "merak", "--merak-era", "2"}},
      {"inspect_checkpoint", {"file.pt"}, {"inspect", "file.pt"}},
      {"inspect_deepspeed_checkpoint", {"--folder", "a", "--json"}, {"inspect", "a", "--json"}}};
  for (const Case& c : cases) EXPECT_EQ(words_of(c.program, c.given), c.wanted) << c.program;
}

TEST(Aliases, WhatSaysNothingOfTheTargetIsIgnoredAndTold) {
  const CommandLine line = translate("deepspeed_to_transformers",
                                     {"--target_tp", "2", "--target_pp", "4", "--merak_tp", "8"});
  EXPECT_EQ(line.words,
            (Words{"convert", "--to", "merak", "--tp", "8", "--merak-default-era", "1"}));
  ASSERT_EQ(line.notes.size(), 3U);
  EXPECT_EQ(line.notes[0], "--target_tp 2 is ignored: it says nothing of --to merak");
  EXPECT_EQ(line.notes[1], "--target_pp 4 is ignored: it says nothing of --to merak");
}

TEST(Aliases, DashesAreUnderscoresWhereTheyMeanNothingElse) {
  EXPECT_EQ(words_of("reshard", {"convert", "--load-path", "a", "b", "--merak-tp=2", "--to=merak"}),
            (Words{"convert", "a", "b", "--tp", "2", "--to=merak", "--merak-default-era", "1"}));
  const Words today = {"convert", "a", "b", "--to", "hf", "--custom-partition", "0,3"};
  EXPECT_EQ(words_of("reshard", today), today);  // refused by name later
  EXPECT_EQ(words_of("reshard", {"-h", "--", "-"}), (Words{"-h", "--", "-"}));
}

TEST(Aliases, HelpNamesEachOption) {
  const std::string text = older_options();
  for (const char* old : {"--load_path", "--save_path", "--merak_tp", "--for_release"}) {
    EXPECT_NE(text.find(old), std::string::npos) << old;
  }
}

TEST(Aliases, TodaysWordsStay) {
  const Words words = {"convert", "a", "b", "--to", "hf", "--tp", "2"};
  EXPECT_EQ(words_of("/usr/bin/reshard", words), words);
  EXPECT_TRUE(translate("reshard", words).notes.empty());
}

TEST(Aliases, WrongWordsAreRefused) {
  EXPECT_THROW(translate("reshard", {"convert", "--convert_type", "pytorch"}), Error);
  EXPECT_THROW(translate("reshard", {"convert", "a", "--save_path"}), Error);
  EXPECT_THROW(translate("convert_merak_gpt2_checkpoint", {"--load_path", "a"}), Error);
  EXPECT_THROW(translate("deepspeed_to_megatron", {"--output_folder", "a"}), Error);
  EXPECT_THROW(translate("reshard", {"convert", "--to=hf", "--save_path", "a"}), Error);
}

}  // namespace
}  // namespace reshard::app
