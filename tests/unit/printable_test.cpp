#include "core/printable.hpp"

#include <gtest/gtest.h>

#include <random>

#include "core/error.hpp"
#include "core/json.hpp"

namespace reshard {
namespace {

using namespace std::string_literals;

TEST(Printable, LeavesWhatPeopleWrite) {
  for (const std::string text :
       {"", "layers.7.mlp", "modèle/新しい/ρ.safetensors", "a\\nb", "€ 😀"}) {
    EXPECT_EQ(printable(text), text);
  }
}

TEST(Printable, SpellsOutWhatATerminalObeys) {
  EXPECT_EQ(printable("a\nb\tc\rd"), "a\\nb\\tc\\rd");
  EXPECT_EQ(printable("\x1b[2J\x07\x7f\0"s), "\\x1b[2J\\x07\\x7f\\x00");
  EXPECT_EQ(printable("\xc2\x9b"
                      "2J"),
            "\\u{9b}2J");  // CSI of 8 bits
  EXPECT_EQ(printable("\xe2\x80\xae"
                      "gpj.exe"),
            "\\u{202e}gpj.exe");  // right to left
  EXPECT_EQ(printable("\xe2\x80\xa8\xe2\x81\xa6\xd8\x9c"), "\\u{2028}\\u{2066}\\u{61c}");
}

TEST(Printable, SpellsOutWhatIsNotUtf8) {
  EXPECT_EQ(printable("a\xff\xc3"), "a\\xff\\xc3");
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a surrogate
  EXPECT_EQ(printable("\xc0\x9b"), "\\xc0\\x9b");           // ESC in two bytes
}

TEST(Printable, ShortensInTheMiddleBetweenCharacters) {
  const std::string shown = printable("begin" + std::string(1000, 'x') + "end", 50);
  EXPECT_LE(shown.size(), 50u);
  EXPECT_TRUE(shown.starts_with("beginx") && shown.ends_with("xend")) << shown;
  std::string accents;
  for (int i = 0; i < 1000; ++i) accents += "é";
  for (std::size_t most = 20; most < 30; ++most) {
    EXPECT_LE(printable(accents, most).size(), most);
    EXPECT_NO_THROW(static_cast<void>(Json(printable(accents, most)).dump()));
  }
  EXPECT_LE(printable(std::string(100 << 20, '\n'), 100).size(), 100u);
}

TEST(Printable, TwiceIsOnce) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 300, '\0');
    for (char& c : text) c = static_cast<char>(random());
    const std::string shown = printable(text, 100);
    EXPECT_EQ(printable(shown, 100), shown);
    EXPECT_LE(shown.size(), 100u);
    EXPECT_NO_THROW(static_cast<void>(Json(shown).dump()));
    for (const char c : shown) EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  }
}

TEST(Error, HasOneLineUnlessItIsAList) {
  const Error error(Kind::input, "a\nreshard: done\x1b[2J");
  EXPECT_STREQ(error.what(), "a\\nreshard: done\\x1b[2J");
  EXPECT_STREQ(error.in("file\n").what(), "file\\n: a\\nreshard: done\\x1b[2J");
  const Error list = Error::of_lines(Kind::input, {"2 problems:", "  a\nb", "  c"});
  EXPECT_STREQ(list.what(), "2 problems:\n  a\\nb\n  c");
  EXPECT_STREQ(list.in("x").with("\ny").what(), "x: 2 problems:\n  a\\nb\n  c\\ny");
  EXPECT_STREQ(Error::again(list.kind(), list.what()).what(), list.what());
}

}  // namespace
}  // namespace reshard
