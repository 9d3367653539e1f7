#include "formats/dialect/rows.hpp"

#include <gtest/gtest.h>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

/// A vocabulary of 5 rows and 2 columns, stored in rows padded to 12, split by tp.
class Vocabulary : public ::testing::Test {
 protected:
  Vocabulary() { model.add({"embedding.weight", "weight", {"vocab", "hidden"}, {5, 2}}); }

  StoredTensor stored(std::uint64_t first, std::uint64_t last, bool repeat_last = false) {
    families::Row row;
    row.name = "word_embeddings.weight";
    row.parts = {{"", "embedding.weight"}};
    row.layout = "vocab hidden";
    row.split = "vocab";
    row.pad = {{"vocab", "padded_vocab"}};
    std::vector<families::Row> all;
    all.push_back(std::move(row));
    const Rows rows(std::move(all), {{"vocab", 5}, {"hidden", 2}, {"padded_vocab", 12}}, model,
                    repeat_last);
    return rows.stored(0, "model.word_embeddings.weight", {}, {{"vocab", {first, last}}});
  }

  CanonicalModel model;
};

Placement rows_at(std::uint32_t tensor, std::uint64_t row, std::uint64_t count, std::uint64_t at) {
  return {tensor, {{row, 0}, {count, 2}}, at, {2, 1}};
}

TEST_F(Vocabulary, PaddingRowsAreARoleOfTheirOwn) {
  EXPECT_EQ(padding_role("embedding.weight"), "embedding.padding.weight");
  add_padding(model, 5, 9);
  ASSERT_EQ(model.tensors().size(), 2U);
  EXPECT_EQ(model[1].role, "embedding.padding.weight");
  EXPECT_EQ(model[1].shape, (Shape{4, 2}));
  EXPECT_TRUE(uncovered_roles(model, {true, false}).empty());
  EXPECT_EQ(uncovered_roles(model, {false, false}), std::vector<std::string>{"embedding.weight"});
}

TEST_F(Vocabulary, NoPaddingWithoutPaddedRows) {
  add_padding(model, 5, 5);
  EXPECT_EQ(model.tensors().size(), 1U);
}

TEST_F(Vocabulary, RanksHoldTheirRowsThenPaddingThenFill) {
  add_padding(model, 5, 9);
  const StoredTensor first = stored(0, 4), second = stored(4, 8), third = stored(8, 12);
  EXPECT_EQ(first.shape, (Shape{4, 2}));
  EXPECT_EQ(first.placements, std::vector<Placement>{rows_at(0, 0, 4, 0)});
  EXPECT_EQ(second.placements, (std::vector{rows_at(0, 4, 1, 0), rows_at(1, 0, 3, 2)}));
  EXPECT_EQ(third.placements, std::vector<Placement>{rows_at(1, 3, 1, 0)});
  EXPECT_EQ(third.repeats, 0U);
}

TEST_F(Vocabulary, FillRepeatsTheLastRow) {
  const StoredTensor bare = stored(4, 8, true);
  EXPECT_EQ(bare.placements, (std::vector{rows_at(0, 4, 1, 0), rows_at(0, 4, 1, 2),
                                          rows_at(0, 4, 1, 4), rows_at(0, 4, 1, 6)}));
  EXPECT_EQ(bare.repeats, 3U);
  add_padding(model, 5, 9);
  const StoredTensor padded = stored(8, 12, true);
  EXPECT_EQ(padded.placements, (std::vector{rows_at(1, 3, 1, 0), rows_at(1, 3, 1, 2),
                                            rows_at(1, 3, 1, 4), rows_at(1, 3, 1, 6)}));
  EXPECT_EQ(padded.repeats, 3U);
}

TEST_F(Vocabulary, UnknownFactorIsNamed) {
  families::Row row;
  row.name = "w";
  row.parts = {{"", "embedding.weight"}};
  row.layout = "vocab nothing";
  std::vector<families::Row> all;
  all.push_back(std::move(row));
  const Rows rows(std::move(all), {{"vocab", 5}}, model);
  try {
    static_cast<void>(rows.stored(0, "model.w", {}, {}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "model.w: w: no size for the factor nothing of its layout");
  }
}

}  // namespace
}  // namespace reshard::formats
