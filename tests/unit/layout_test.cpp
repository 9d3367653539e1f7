#include "core/layout.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/json.hpp"
#include "support/random_layout.hpp"

namespace reshard {
namespace {

using Sizes = std::map<std::string, std::uint64_t>;
using test::Element;
using test::Node;

FactorSizes function_of(const Sizes& sizes) {
  return [&sizes](std::string_view name) {
    const auto at = sizes.find(std::string(name));
    if (at == sizes.end()) throw Error(Kind::input, "no factor " + std::string(name));
    return at->second;
  };
}

/// The elements that pieces speak of, in storage order; a failure when one is told twice or never.
std::vector<Element> elements_of(const Lowered& lowered) {
  std::vector<std::optional<Element>> found(elements(lowered.shape));
  for (const Piece& piece : lowered.pieces) {
    std::uint64_t count = 1;
    for (const FactorSpan& span : piece.spans) count *= span.extent;
    for (std::uint64_t n = 0; n < count; ++n) {
      Element element{piece.part, {}};
      std::uint64_t at = piece.offset, rest = n;
      for (const FactorSpan& span : piece.spans) {
        const std::uint64_t i = rest % span.extent;
        rest /= span.extent;
        at += i * span.stride;
        element.index[span.factor] = span.first + i;
      }
      EXPECT_LT(at, found.size());
      if (at >= found.size()) return {};
      EXPECT_FALSE(found[at]) << "element " << at << " twice";
      found[at] = std::move(element);
    }
  }
  std::vector<Element> all;
  for (const auto& element : found) {
    EXPECT_TRUE(element) << "an element that no piece holds";
    all.push_back(element.value_or(Element{}));
  }
  return all;
}

std::string error_of(std::string_view text) {
  try {
    const Layout layout(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input);
    return error.what();
  }
  return "parsed";
}

TEST(Layout, RejectsWithThePosition) {
  const std::vector<std::pair<std::string, std::string>> rejected = {
      {"", "character 0: empty"},
      {"  ", "character 2: empty"},
      {"a )", "character 2: unexpected ')'"},
      {"a }", "character 2: unexpected '}'"},
      {"a | b", "character 2: unexpected '|'"},
      {"a : b", "character 2: expected a name"},
      {"a, b", "character 1: expected a name"},
      {"a-b", "character 1: expected a name"},
      {"2a", "expected a name"},
      {"()", "character 1: empty product"},
      {"(a", "character 2: expected ')'"},
      {"(a}", "character 2: expected ')'"},
      {"(a | b)", "character 3: expected ')'"},
      {"{}", "character 1: expected a name"},
      {"{a", "character 2: expected '}'"},
      {"{a |}", "character 4: expected a name"},
      {"{| a}", "character 1: expected a name"},
      {"{a: b c", "character 7: expected '}'"},
      {"{a b}", "character 3: expected '}'"},
      {"{a: b)", "character 5: expected '}'"},
      {"{a: b | }", "character 8: expected a name"},
      {"{1: b}", "expected a name"},
      {"{(a)}", "character 1: expected a name"},
      {"a\x01", "character 1: expected a name"},
      {"\xc3\xa4", "character 0: expected a name"},
      {std::string(40, '(') + "a" + std::string(40, ')'), "nested too deep"},
  };
  for (const auto& [text, wanted] : rejected) {
    EXPECT_NE(error_of(text).find(wanted), std::string::npos) << text << ": " << error_of(text);
  }
  EXPECT_NE(error_of("a )").find("layout 'a )'"), std::string::npos);
}

TEST(Layout, AcceptsWhatTheNotationHas) {
  for (const char* text : {"a", " a ", "a_1 _b", "(a)", "((a) b)", "{q}", "{q|k|v}", "{q: }",
                           "( a  b )c", "({q:a b|k:b} c)d", "{q: {x | y} a}"}) {
    EXPECT_EQ(error_of(text), "parsed") << text;
  }
  EXPECT_EQ(Layout("(a {q: b a | k: c}) b").factors(), (std::vector<std::string>{"a", "b", "c"}));
}

TEST(Layout, ErrorsOfSizes) {
  const Sizes sizes = {{"a", std::uint64_t{1} << 40}};
  EXPECT_THROW(static_cast<void>(Layout("a b").lower(function_of(sizes))), Error);
  EXPECT_THROW(static_cast<void>(Layout("a (a a)").lower(function_of(sizes))), Error);
  EXPECT_THROW(static_cast<void>(Layout("({p: a a | q} a)").lower(function_of(sizes))), Error);
}

TEST(Layout, EqualsElementByElementEvaluation) {
  test::Random random(1);
  const std::vector<std::string> names = {"a", "b", "c", "d", "e", "f"};
  int cases = 0, empty = 0;
  std::size_t most = 0;
  while (cases < 12'000) {
    std::vector<std::string> factors(names.begin(),
                                     names.begin() + static_cast<int>(random() % 6) + 1);
    const std::vector<Node> items = test::random_items(random, factors, 0);
    Sizes sizes;
    Blocks blocks;
    std::uint64_t bound = 1;
    for (const std::string& factor : factors) {
      const std::uint64_t size = test::between(random, 1, factors.size() > 4 ? 3 : 5);
      sizes[factor] = size;
      bound *= size;
      if (random() % 3 != 0) continue;
      const std::uint64_t first = test::between(random, 0, size - 1);
      const bool none = random() % 40 == 0;
      blocks[factor] = {first, none ? first : test::between(random, first + 1, size)};
    }
    if (bound > 800) continue;
    const std::string text = test::text_of(items);
    const std::vector<Element> wanted = test::enumerate(items, sizes, blocks);
    const Lowered lowered = Layout(text).lower(function_of(sizes), blocks);
    ASSERT_EQ(lowered.shape.size(), items.size()) << text;
    for (std::size_t d = 0; d < items.size(); ++d) {
      ASSERT_EQ(lowered.shape[d], test::enumerate({items[d]}, sizes, blocks).size()) << text;
    }
    ASSERT_EQ(elements_of(lowered), wanted) << text;
    most = std::max(most, items.size());
    empty += wanted.empty();
    ++cases;
  }
  EXPECT_EQ(most, 6U);
  EXPECT_GT(empty, 10);
}

TEST(Layout, EqualsTheReference) {
  std::ifstream file(RESHARD_TEST_DATA "/layouts/oracle.json");
  const Json cases = Json::parse(file);
  EXPECT_GE(cases.size(), 300U);
  for (const Json& one : cases) {
    const auto text = one.at("layout").get<std::string>();
    const auto sizes = one.at("sizes").get<Sizes>();
    Blocks blocks;
    for (const auto& [factor, block] : one.at("blocks").items()) {
      blocks[factor] = {block[0].get<std::uint64_t>(), block[1].get<std::uint64_t>()};
    }
    const auto factors = one.at("factors").get<std::vector<std::string>>();
    const auto parts = one.at("parts").get<std::vector<std::string>>();
    std::vector<Element> wanted;
    for (const Json& element : one.at("elements")) {
      auto code = element.get<std::uint64_t>();
      Element decoded;
      for (auto factor = factors.rbegin(); factor != factors.rend(); ++factor) {
        const std::uint64_t base = sizes.at(*factor) + 1;
        if (code % base != 0) decoded.index[*factor] = code % base - 1;
        code /= base;
      }
      decoded.part = parts.at(code);
      wanted.push_back(std::move(decoded));
    }
    const Layout layout(text);
    const Lowered lowered = layout.lower(function_of(sizes), blocks);
    EXPECT_EQ(layout.factors(), factors) << text;
    EXPECT_EQ(lowered.shape, one.at("shape").get<Shape>()) << text;
    EXPECT_EQ(elements_of(lowered), wanted) << text;
  }
}

}  // namespace
}  // namespace reshard
