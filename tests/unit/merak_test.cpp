#include "formats/dialect/merak.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

using Bounds = std::vector<std::uint64_t>;

Bounds bounds(std::uint64_t modules, std::uint64_t pp, int era, std::string_view method) {
  return merak_bounds(modules, pp, era, method, {}, "modules");
}

std::string refusal(std::uint64_t modules, std::uint64_t pp, int era, std::string_view method,
                    const Bounds& custom = {}) {
  try {
    merak_bounds(modules, pp, era, method, custom, "0: wte; 1: wpe");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::usage);
    return error.what();
  }
  return "accepted";
}

TEST(MerakBounds, AreThoseOfEraOne) {
  EXPECT_EQ(bounds(15, 4, 1, "uniform"), Bounds({0, 4, 8, 12, 15}));
  EXPECT_EQ(bounds(15, 4, 1, ""), Bounds({0, 4, 8, 12, 15}));
  EXPECT_EQ(bounds(15, 4, 1, "uniform_floor"), Bounds({0, 3, 6, 9, 15}));
  EXPECT_EQ(bounds(27, 4, 1, "uniform"), Bounds({0, 7, 14, 21, 27}));
  EXPECT_EQ(bounds(27, 4, 1, "uniform_floor"), Bounds({0, 6, 12, 18, 27}));
  EXPECT_EQ(bounds(7, 2, 1, "uniform"), Bounds({0, 4, 7}));
  EXPECT_EQ(bounds(7, 4, 1, "uniform"), Bounds({0, 2, 4, 6, 7}));
  EXPECT_EQ(bounds(7, 5, 1, "uniform_floor"), Bounds({0, 1, 2, 3, 4, 7}));
}

TEST(MerakBounds, AreThoseOfEraTwo) {
  EXPECT_EQ(bounds(15, 4, 2, "uniform_floor"), Bounds({0, 3, 7, 11, 15}));
  EXPECT_EQ(bounds(27, 4, 2, ""), Bounds({0, 6, 13, 20, 27}));
  EXPECT_EQ(bounds(8, 3, 2, "uniform_floor"), Bounds({0, 2, 5, 8}));
  EXPECT_EQ(bounds(14, 2, 2, "uniform"), Bounds({0, 7, 14}));
}

TEST(MerakBounds, RefuseWhatLeavesAStageEmpty) {
  EXPECT_NE(refusal(7, 5, 1, "uniform").find("leave stage 4 empty"), std::string::npos);
  EXPECT_NE(refusal(7, 8, 1, "uniform").find("8 stages"), std::string::npos);
  EXPECT_NE(refusal(15, 4, 2, "uniform").find("uniform_floor"), std::string::npos);
}

TEST(MerakBounds, CustomOnesRiseFromNothingToAllModules) {
  EXPECT_EQ(merak_bounds(15, 4, 1, "custom", {0, 3, 7, 11, 15}, ""), Bounds({0, 3, 7, 11, 15}));
  for (const Bounds& wrong :
       {Bounds({0, 3, 7, 15}), Bounds({1, 3, 7, 11, 15}), Bounds({0, 3, 7, 11, 14}),
        Bounds({0, 3, 3, 11, 15}), Bounds({0, 7, 3, 11, 15})}) {
    const std::string text = refusal(15, 4, 1, "custom", wrong);
    EXPECT_NE(text.find("15 modules (0: wte; 1: wpe)"), std::string::npos) << text;
  }
  EXPECT_NE(refusal(15, 4, 1, "custom").find("needs --custom-partition"), std::string::npos);
  EXPECT_NE(refusal(15, 1, 1, "uniform", {0, 15}).find("custom only"), std::string::npos);
}

TEST(MerakName, IsEraModuleAndTheRest) {
  const auto one = merak_name("module.12.transformer.h.3.ln_1.weight");
  ASSERT_TRUE(one);
  EXPECT_EQ(one->era, 1);
  EXPECT_EQ(one->module, 12);
  EXPECT_EQ(one->rest, "transformer.h.3.ln_1.weight");
  const auto two = merak_name("0.model.embed_tokens.weight");
  ASSERT_TRUE(two);
  EXPECT_EQ(two->era, 2);
  EXPECT_EQ(two->module, 0);
  const auto tied = merak_name("module.tied_modules.torch_Size([106, 24]).weight");
  ASSERT_TRUE(tied);
  EXPECT_FALSE(tied->module);
  EXPECT_FALSE(merak_name("transformer.wte.weight"));
  EXPECT_FALSE(merak_name("x"));
}

}  // namespace
}  // namespace reshard::formats
