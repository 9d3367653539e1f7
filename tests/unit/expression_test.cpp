#include "families/expression.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.hpp"
#include "families/pattern.hpp"

namespace reshard::families {
namespace {

const Json& record() {
  static const Json values = Json::parse(R"({
    "layers": 4, "hidden": 48, "heads": 6, "groups": 2, "head_dim": 80, "rotary_fraction": 0.25,
    "moe": [false, true, false, true], "window": null, "norm": "rms", "tied": true,
    "dense_layers": [], "base": 10000.0, "below": -7, "unsigned": 18446744073709551615,
    "smallest": -9223372036854775808, "largest": 9223372036854775807,
    "args": {"swiglu": true, "freq": [1, 0], "step": 2, "nothing": null}
  })");
  return values;
}

Json value(const std::string& text) {
  return Expression(text).evaluate(Names(record()));
}

std::string error(const std::string& text) {
  try {
    return "no error but " + value(text).dump();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Kind::input);
    return e.what();
  }
}

TEST(Expression, CalculatesAsPythonDoes) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"heads / groups", "3"},
      {"hidden / 2.0", "24.0"},
      {"head_dim * rotary_fraction // 1", "20"},
      {"4 * hidden", "192"},
      {"1 + 2 * 3 - 4", "3"},
      {"(1 + 2) * 3", "9"},
      {"7 // 2", "3"},
      {"below // 2", "-4"},
      {"below % 3", "2"},
      {"below % 2.5", "0.5"},
      {"below // 2.0", "-4"},
      {"7 % (0 - 3)", "-2"},
      {"1 * moe[1]", "1"},
      {"tied + tied", "2"},
      {"base // 1", "10000"},
      {"1e-05", "1e-05"},
      {"smallest % (0 - 1)", "0"},
      {"smallest % 10", "2"},
      {"'text'", "\"text\""},
      {"\"text\"", "\"text\""},
      {"null", "null"},
      {"moe", "[false,true,false,true]"},
      {"10 - 3 - 2", "5"},
  };
  for (const auto& [text, wanted] : cases) EXPECT_EQ(value(text).dump(), wanted) << text;
}

TEST(Expression, DecidesAsPythonDoes) {
  for (const std::string text : {"heads == 6",
                                 "heads == 6.0",
                                 "heads != 5",
                                 "norm == 'rms'",
                                 "window == null",
                                 "not window",
                                 "tied == 1",
                                 "moe[1]",
                                 "not moe[0]",
                                 "true in moe",
                                 "null not in moe",
                                 "0 not in dense_layers",
                                 "not dense_layers",
                                 "groups < heads and heads <= 6 or undefined",
                                 "heads > groups",
                                 "heads >= 6",
                                 "args['swiglu']",
                                 "args['absent'] == null",
                                 "not args['absent']",
                                 "args['step'] in integers",
                                 "not (args['freq'] in integers)",
                                 "tied not in integers",
                                 "1.0 not in integers",
                                 "args['freq'][1] == 0",
                                 "false or tied",
                                 "not false and true",
                                 "moe == args['moe'] or true",
                                 "heads // groups == 3",
                                 "(((true)))",
                                 "args['freq'] != args['step']",
                                 "layers - 1 in args['freq'] or true",
                                 "norm"}) {
    EXPECT_TRUE(Expression(text).holds(Names(record()))) << text;
  }
  EXPECT_FALSE(Expression("args['nothing']").holds(Names(record())));
  EXPECT_FALSE(Expression("window != null and window > 0").holds(Names(record())));
  EXPECT_FALSE(Expression("0.0").holds(Names()));
  EXPECT_FALSE(Expression("''").holds(Names()));
}

TEST(Expression, LooksInTheInnermostScopeFirst) {
  const Json outer_object = {{"l", 1}, {"heads", 8}};
  const Json three = 3;
  const Names outer(outer_object);
  const Names inner("l", three, &outer);
  EXPECT_EQ(Expression("l + heads").evaluate(inner), 11);
  EXPECT_EQ(Expression("l + heads").evaluate(outer), 9);
  const Json over = {{"heads", 1}};
  EXPECT_EQ(Expression("l + heads").evaluate(Names(over, &inner)), 4);
  EXPECT_EQ(Names().find("l"), nullptr);
}

TEST(Expression, TellsWhatItReads) {
  const Expression expression("args['a'] and moe[l] and args['b'][0] == l and rows['c']");
  EXPECT_EQ(expression.names(), (std::vector<std::string>{"args", "moe", "l", "rows"}));
  EXPECT_EQ(expression.members_of("args"), (std::vector<std::string>{"a", "b"}));
}

TEST(Expression, RefusesWhatCannotBeEvaluated) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"heads / 4", "expression \"heads / 4\": 6 / 4 is not whole"},
      {"heads / 0", "division by zero"},
      {"heads // 0.0", "division by zero"},
      {"heads % (groups - 2)", "division by zero"},
      {"absent + 1", "nothing is called absent"},
      {"norm + 1", "cannot calculate with string and number"},
      {"window > 1", "cannot order null and number"},
      {"moe[4]", "element 4 of a list of 4"},
      {"moe[0 - 1]", "element -1 of a list of 4"},
      {"moe['a']", "no element \"a\" of array"},
      {"moe[true]", "no element true of array"},
      {"window[0]", "no element 0 of null"},
      {"norm[0]", "no element 0 of string"},
      {"1 in norm", "`in` needs a list, not string"},
      {"unsigned + 1", "cannot calculate with number and number"},
      {"largest + 1", "a number beyond 64 bits"},
      {"smallest - 1", "a number beyond 64 bits"},
      {"largest * 2", "a number beyond 64 bits"},
      {"smallest / (0 - 1)", "a number beyond 64 bits"},
      {"smallest // (0 - 1)", "a number beyond 64 bits"},
      {"base * 1e300 // 1", "a number beyond 64 bits"},
  };
  for (const auto& [text, wanted] : cases) {
    EXPECT_NE(error(text).find(wanted), std::string::npos) << text << ": " << error(text);
  }
}

TEST(Expression, RefusesWhatIsNoExpression) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "expression \"\": a value is missing at the end"},
      {"1 +", "a value is missing at the end"},
      {"1 2", "unexpected at \"2\""},
      {"-1", "unexpected at \"-1\""},
      {"(1", ") is missing at the end"},
      {"moe[1", "] is missing at the end"},
      {"'a", "a quote is missing"},
      {"'a\\n'", "a backslash in a string"},
      {"1 < 2 < 3", "a second comparison"},
      {"1 == 2 != 3", "a second comparison"},
      {"1.2.3", "no number"},
      {"1x", "no number"},
      {"99999999999999999999", "no number"},
      {"1e999", "no number"},
      {"and", "unexpected at \"and\""},
      {"integers", "unexpected at \"integers\""},
      {"not", "a value is missing"},
      {"f(1)", "unexpected at \"(1)\""},
      {"a.b", "unexpected at \".b\""},
      {"[1]", "unexpected at \"[1]\""},
      {"1 if tied else 2", "unexpected at \"if tied else"},
      {std::string("1\0", 2), "unexpected"},
  };
  for (const auto& [text, wanted] : cases) {
    EXPECT_NE(error(text).find(wanted), std::string::npos) << text << ": " << error(text);
  }
}

TEST(Expression, RefusesWhatIsTooDeep) {
  EXPECT_EQ(value(std::string(50, '(') + "1" + std::string(50, ')')), 1);
  std::string sum = "1";
  for (int i = 0; i < 90; ++i) sum += " + 1";
  EXPECT_EQ(value(sum), 91);
  for (int i = 0; i < 20; ++i) sum += " + 1";
  EXPECT_NE(error(sum).find("more than 100 levels deep"), std::string::npos);
  std::string all = "true";
  for (int i = 0; i < 1000; ++i) all += " and true";
  EXPECT_EQ(value(all), true);
  for (const std::string each : {"(", "not ", "moe[", "1 + (", "[", "1 in ("}) {
    std::string text;
    for (int i = 0; i < 100000; ++i) text += each;
    EXPECT_NE(error(text).find(each == "[" ? "unexpected" : "more than 100 levels deep"),
              std::string::npos)
        << each;
  }
}

TEST(Pattern, MatchesRunsAndIndices) {
  EXPECT_TRUE(matches("a.b", "a.b"));
  EXPECT_FALSE(matches("a.b", "axb"));
  EXPECT_FALSE(matches("a", "ab"));
  EXPECT_FALSE(matches("ab", "a"));
  EXPECT_TRUE(matches("*", ""));
  EXPECT_TRUE(matches("*._extra_state", "decoder.layers.0.mlp._extra_state"));
  EXPECT_TRUE(matches("num_layers_at_*_in_bf16", "num_layers_at_start_in_bf16"));
  EXPECT_TRUE(matches("layers.*.mlp*", "layers.3.mlp.up.weight"));
  EXPECT_FALSE(matches("layers.*.mlp*", "layers.3.attention.q.weight"));
  EXPECT_TRUE(matches("model.layers.{l}.inv_freq", "model.layers.12.inv_freq"));
  EXPECT_FALSE(matches("model.layers.{l}.inv_freq", "model.layers..inv_freq"));
  EXPECT_FALSE(matches("model.layers.{l}.inv_freq", "model.layers.x.inv_freq"));
  EXPECT_TRUE(matches("{}", "{}"));
}

}  // namespace
}  // namespace reshard::families
