#include "core/checked_json.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>

#include "core/error.hpp"

namespace reshard {
namespace {

std::string refusal(const std::string& text, const JsonLimits& limits = {}) {
  try {
    static_cast<void>(json_of_text(text, limits));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input);
    return error.what();
  }
  return "";
}

Json through_cbor(const Json& value, const JsonLimits& limits = {}) {
  const std::vector<std::uint8_t> bytes = Json::to_cbor(value);
  return json_of_cbor(std::as_bytes(std::span(bytes)), limits);
}

TEST(CheckedJson, ReadsWhatTheLibraryReads) {
  for (const char* text : {"{}", "[]", "null", "true", " [1, -2, 3.5, \"x\", [], {\"a\": {}}] ",
                           R"({"b": 1, "a": {"b": [{}, null]}, "": "é\n"})", "18446744073709551615",
                           "-9223372036854775808", "1e300"}) {
    EXPECT_EQ(json_of_text(text), Json::parse(text)) << text;
    EXPECT_EQ(json_of_text(text).dump(), Json::parse(text).dump()) << text;
    EXPECT_EQ(through_cbor(Json::parse(text)), Json::parse(text)) << text;
  }
}

TEST(CheckedJson, RefusesWhatIsNone) {
  using namespace std::string_literals;
  for (const std::string& text : {""s, "{"s, "{}{}"s, "[1,]"s, "NaN"s, "1e999"s, "\"\xff\""s,
                                  "\"\\ud800\""s, "{}\0"s, "'a'"s}) {
    EXPECT_NE(refusal(text).find("not JSON"), std::string::npos) << text;
  }
  const std::byte cut[] = {std::byte{0x83}, std::byte{1}};
  EXPECT_THROW(static_cast<void>(json_of_cbor(cut)), Error);
}

TEST(CheckedJson, RefusesAKeyTwiceAtAnyDepth) {
  EXPECT_EQ(refusal(R"({"a":1,"b":2,"a":1})"), "duplicate key a");
  EXPECT_EQ(refusal(R"([{"x":{"k":[],"k":{}}}])"), "duplicate key k");
  EXPECT_EQ(refusal(R"({"a":{"a":{"a":1}},"b":{"a":1}})"), "");
  const std::uint8_t twice[] = {0xa2, 0x61, 'a', 1, 0x61, 'a', 2};
  EXPECT_THROW(static_cast<void>(json_of_cbor(std::as_bytes(std::span(twice)))), Error);
}

TEST(CheckedJson, HasLimits) {
  const JsonLimits limits{3, 1 << 20};
  EXPECT_EQ(refusal("[[[1]]]", limits), "");
  EXPECT_NE(refusal("[[[[1]]]]", limits).find("deep"), std::string::npos);
  EXPECT_NE(refusal(std::string(1'000'000, '[')).find("deep"), std::string::npos);
  const std::vector<std::byte> deep(1'000'000, std::byte{0x81});
  EXPECT_THROW(static_cast<void>(json_of_cbor(deep)), Error);
  std::string many = "[";
  for (int i = 0; i < 100'000; ++i) many += "1,";
  EXPECT_NE(refusal(many + "1]", limits).find("too much JSON"), std::string::npos);
  EXPECT_NE(refusal("\"" + std::string(2 << 20, 'x') + "\"", limits).find("too much"),
            std::string::npos);
}

TEST(CheckedJson, ManyKeysTakeNoMoreThanTheirSize) {
  std::string text = "{\"k\":0";
  for (int i = 0; i < 200'000; ++i) text += ",\"" + std::to_string(i) + "\":1";
  const std::clock_t begin = std::clock();
  EXPECT_EQ(json_of_text(text + "}").size(), 200'001u);
  EXPECT_LT(std::clock() - begin, 20 * CLOCKS_PER_SEC);  // a search for each key takes minutes
}

}  // namespace
}  // namespace reshard
