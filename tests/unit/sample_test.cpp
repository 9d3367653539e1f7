#include "formats/sample.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.hpp"
#include "formats/dialect/rows.hpp"

namespace reshard::formats {
namespace {

SampleOptions options_of(const char* family, Json hyperparameters = Json::object()) {
  SampleOptions options;
  options.family = family;
  options.hyperparameters = std::move(hyperparameters);
  return options;
}

TEST(Sample, WidthIsFourTimesHiddenWhereTheFamilySaysSo) {
  EXPECT_EQ(sample_source(options_of("gpt2")).record.at("ffn"), 4 * 48);
  EXPECT_EQ(sample_source(options_of("gpt2", {{"hidden", 64}})).record.at("ffn"), 4 * 64);
  EXPECT_EQ(sample_source(options_of("bloom")).record.at("ffn"), 4 * 48);
}

TEST(Sample, WidthIsTheUsersOrTheFamilysOwn) {
  const Source told = sample_source(options_of("gpt2", {{"ffn", 80}}));
  EXPECT_EQ(told.record.at("ffn"), 80);
  EXPECT_EQ(told.config.at("n_inner"), 80);
  EXPECT_EQ(sample_source(options_of("llama")).record.at("ffn"), 80);
  EXPECT_EQ(sample_source(options_of("mixtral")).record.at("expert_ffn"), 40);
}

TEST(Sample, ParametersAreMetWithinThreePercent) {
  for (const char* family : {"gpt2", "bloom", "llama"}) {
    for (const double wanted : {1e6, 3.1e7, 1.24e8, 1e9, 6.5e10}) {
      SampleOptions options = options_of(family);
      options.parameters = static_cast<std::uint64_t>(wanted);
      const Source source = sample_source(options);
      const auto seen = static_cast<double>(parameter_count(source.model));
      EXPECT_LT(std::abs(seen / wanted - 1), 0.03) << family << " of " << wanted << ": " << seen;
      if (std::string_view(family) != "gpt2") continue;
      const auto hidden = source.record.at("hidden").get<std::uint64_t>();
      EXPECT_EQ(source.record.at("ffn"), 4 * hidden) << wanted;
    }
  }
}

TEST(Sample, SizesThatAreGivenStay) {
  SampleOptions options = options_of("gpt2", {{"vocab", 50257}, {"layers", 12}});
  options.parameters = 124'000'000;
  const Source source = sample_source(options);
  EXPECT_EQ(source.record.at("vocab"), 50257);
  EXPECT_EQ(source.record.at("layers"), 12);
  const auto seen = static_cast<double>(parameter_count(source.model));
  EXPECT_LT(std::abs(seen / 1.24e8 - 1), 0.03) << seen;
}

TEST(Sample, WhatCannotBeIsRefused) {
  SampleOptions options = options_of("gpt2");
  options.parameters = 10;
  EXPECT_THROW(sample_source(options), Error);
  EXPECT_THROW(sample_source(options_of("gpt2", {{"experts", 4}})), Error);
  EXPECT_THROW(sample_source(options_of("bloom", {{"ffn", 80}})), Error);
}

}  // namespace
}  // namespace reshard::formats
