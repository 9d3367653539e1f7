#include "core/placement.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "support/random_layout.hpp"

namespace reshard {
namespace {

using test::between;
using test::Random;
using Index = std::vector<std::uint64_t>;
/// Stored element of each canonical index.
using Elements = std::map<Index, std::uint64_t>;

template <class Work>
void each_index(const Box& box, Work&& work) {
  for (std::uint64_t n = 0; n < box.elements(); ++n) {
    Index index(box.extent.size());
    std::uint64_t rest = n;
    for (std::size_t d = index.size(); d-- > 0; rest /= box.extent[d]) {
      index[d] = box.offset[d] + rest % box.extent[d];
    }
    work(index);
  }
}

Elements elements_of(const Placement& p) {
  Elements found;
  each_index(p.box, [&](const Index& index) {
    std::uint64_t at = p.offset;
    for (std::size_t d = 0; d < index.size(); ++d) {
      at += (index[d] - p.box.offset[d]) * p.stride[d];
    }
    found[index] = at;
  });
  return found;
}

/// A box whose dimensions nest in any order, with holes.
Placement random_placement(Random& random, std::size_t rank, std::uint64_t longest = 5) {
  Placement p;
  p.tensor = 7;
  p.box = {Dims(rank), Dims(rank)};
  p.stride = Dims(rank);
  std::vector<std::size_t> order(rank);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::shuffle(order.begin(), order.end(), random);
  std::uint64_t inner = 1;
  for (const std::size_t d : order) {
    p.box.offset[d] = between(random, 0, 9);
    p.box.extent[d] = between(random, 1, longest);
    p.stride[d] = inner + (random() % 3 == 0 ? between(random, 0, 4) : 0);
    inner = p.stride[d] * p.box.extent[d];
    if (p.box.extent[d] == 1 && random() % 2 == 0) p.stride[d] = random() % 50;  // means nothing
  }
  p.offset = between(random, 0, 20);
  return p;
}

Box random_part(Random& random, const Box& box) {
  Box part;
  for (std::size_t d = 0; d < box.extent.size(); ++d) {
    const std::uint64_t first = between(random, 0, box.extent[d] - 1);
    part.offset.push_back(box.offset[d] + first);
    part.extent.push_back(between(random, 1, box.extent[d] - first));
  }
  return part;
}

TEST(Placement, SpanAndNesting) {
  const Placement scalar{0, {}, 3, {}};
  EXPECT_EQ(span(scalar), 1U);
  EXPECT_TRUE(is_nested(scalar));
  const Placement empty{0, {{0, 0}, {2, 0}}, 0, {1, 1}};
  EXPECT_EQ(span(empty), 0U);
  EXPECT_TRUE(cut(empty, 0, 100).empty());
  EXPECT_FALSE(is_nested({0, {{0, 0}, {2, 2}}, 0, {1, 1}}));
  EXPECT_FALSE(is_nested({0, {{0, 0}, {3, 2}}, 0, {2, 3}}));  // 0 2 4 and 3 5 7: woven
  EXPECT_FALSE(is_nested({0, {{0}, {2}}, 0, {0}}));
  EXPECT_TRUE(is_nested({0, {{0, 0}, {3, 2}}, 0, {2, 6}}));
  EXPECT_TRUE(is_nested({0, {{0, 0}, {3, 1}}, 0, {2, 0}}));
  Random random(2);
  for (int i = 0; i < 2000; ++i) {
    const Placement p = random_placement(random, between(random, 0, 6), 3);
    ASSERT_TRUE(is_nested(p));
    std::uint64_t last = 0;
    for (const auto& [index, at] : elements_of(p)) last = std::max(last, at);
    ASSERT_EQ(p.offset + span(p), last + 1);
  }
}

TEST(Placement, CutGivesExactlyTheElementsOfTheRange) {
  Random random(3);
  for (int i = 0; i < 12'000; ++i) {
    const std::size_t rank = between(random, 0, i % 10 == 0 ? 6 : 4);
    const Placement p = random_placement(random, rank, rank > 4 ? 3 : 5);
    const std::uint64_t end = p.offset + span(p) + 5;
    const std::uint64_t first = random() % 5 == 0 ? 0 : between(random, 0, end);
    const std::uint64_t last = random() % 5 == 0 ? end : between(random, first, end);
    const std::vector<Placement> parts = cut(p, first, last);
    const std::size_t a_side = rank == 0 ? 1 : 2 * rank - 1;
    ASSERT_LE(parts.size(), first == 0 || last == end ? a_side : 2 * a_side);
    const Elements whole = elements_of(p);
    Elements seen;
    for (const Placement& part : parts) {
      ASSERT_EQ(part.tensor, p.tensor);
      ASSERT_EQ(part.stride, p.stride);
      for (const auto& [index, at] : elements_of(part)) {
        ASSERT_TRUE(seen.emplace(index, at).second) << "an element in two parts";
      }
    }
    Elements wanted;
    for (const auto& [index, at] : whole) {
      if (at >= first && at < last) wanted.emplace(index, at);
    }
    ASSERT_EQ(seen, wanted);
  }
}

TEST(Placement, RestrictAndPositionKeepElementsInPlace) {
  Random random(4);
  for (int i = 0; i < 10'000; ++i) {
    const Placement p = random_placement(random, between(random, 0, 4));
    Box box = random_part(random, p.box);
    const Elements whole = elements_of(p);
    Index first(box.offset.begin(), box.offset.end());
    ASSERT_EQ(position(p, box), whole.at(first));
    for (std::size_t d = 0; d < box.extent.size(); ++d) box.extent[d] += random() % 3;
    Elements wanted;
    for (const auto& [index, at] : whole) {
      bool inside = true;
      for (std::size_t d = 0; d < index.size(); ++d) {
        inside = inside && index[d] >= box.offset[d] && index[d] < box.offset[d] + box.extent[d];
      }
      if (inside) wanted.emplace(index, at);
    }
    ASSERT_EQ(elements_of(restrict(p, box)), wanted);
    if (box.offset.size() == 0) continue;
    box.offset[0] = p.box.offset[0] + p.box.extent[0] + random() % 2;
    ASSERT_EQ(restrict(p, box).box.elements(), 0U);
    ASSERT_EQ(span(restrict(p, box)), 0U);
  }
}

/// A placement in a stored tensor whose dimensions are products.
struct Labelled {
  Shape shape;
  Placement placement;
};

Labelled random_labelled(Random& random) {
  const std::size_t rank = between(random, 1, 3);
  Labelled made;
  std::vector<std::vector<std::uint64_t>> splits;  // each dimension as a product of factors
  for (std::size_t d = 0; d < rank; ++d) {
    splits.emplace_back();
    std::uint64_t size = 1;
    for (std::uint64_t k = between(random, 1, 2); k > 0; --k) {
      splits.back().push_back(between(random, 1, 4));
      size *= splits.back().back();
    }
    made.shape.push_back(size);
  }
  const std::vector<std::uint64_t> labels = row_major(made.shape);
  Placement& p = made.placement;
  for (std::size_t d = 0; d < rank; ++d) {
    std::uint64_t stride = labels[d];
    for (const std::uint64_t size : splits[d]) {  // fastest first: the box is in another order
      const std::uint64_t first = between(random, 0, size - 1);
      p.box.offset.push_back(between(random, 0, 5));
      p.box.extent.push_back(between(random, 1, size - first));
      p.offset += first * stride;
      p.stride.push_back(stride);
      stride *= size;
    }
  }
  return made;
}

/// Memory in any order with holes.
TEST(Placement, InMemoryFollowsTheStridesOfAView) {
  Random random(5);
  for (int i = 0; i < 10'000; ++i) {
    const auto [shape, p] = random_labelled(random);
    const std::size_t rank = shape.size();
    const std::vector<std::uint64_t> labels = row_major(shape);
    std::vector<std::uint64_t> strides(rank, 0);
    std::vector<std::size_t> order(rank);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::shuffle(order.begin(), order.end(), random);
    std::uint64_t inner = 1;
    for (const std::size_t d : order) {
      strides[d] = inner + random() % 3;
      inner = strides[d] * shape[d];
    }
    Elements wanted;
    for (const auto& [index, label] : elements_of(p)) {
      std::uint64_t at = 0;
      for (std::size_t d = 0; d < rank; ++d) at += label / labels[d] % shape[d] * strides[d];
      wanted[index] = at;
    }
    ASSERT_EQ(elements_of(in_memory(p, shape, strides)), wanted) << to_string(shape);
  }
}

TEST(Placement, WithinGivesTheElementsOfABoxAtTheirPlaceInIt) {
  Random random(6);
  for (int i = 0; i < 10'000; ++i) {
    const auto [shape, p] = random_labelled(random);
    const std::vector<std::uint64_t> labels = row_major(shape);
    Box box;
    Shape extent;
    for (const std::uint64_t n : shape) {
      box.offset.push_back(between(random, 0, n - 1));
      extent.push_back(between(random, 1, n - box.offset[box.extent.size()]));
      box.extent.push_back(extent.back());
    }
    Elements wanted, seen;
    for (const auto& [index, label] : elements_of(p)) {
      std::uint64_t at = 0;
      bool inside = true;
      for (std::size_t d = 0; d < shape.size(); ++d) {
        const std::uint64_t place = label / labels[d] % shape[d] - box.offset[d];
        inside = inside && place < box.extent[d];
        at = at * box.extent[d] + place;
      }
      if (inside) wanted[index] = at;
    }
    for (const Placement& part : within(p, shape, box)) {
      EXPECT_EQ(part.tensor, p.tensor);
      for (const auto& [index, at] : elements_of(part)) {
        ASSERT_TRUE(seen.emplace(index, at).second) << "twice";
      }
    }
    ASSERT_EQ(seen, wanted) << to_string(shape) << " " << to_string(extent);
  }
  const Placement flat{0, {{0}, {6}}, 0, {1}};  // runs over both dimensions of [2, 3]
  EXPECT_THROW(within(flat, {2, 3}, {{0, 0}, {2, 3}}), Error);
}

TEST(Placement, InMemoryRefusesADimensionThatLeavesItsOwn) {
  const Placement flat{0, {{0}, {6}}, 0, {1}};  // runs over both dimensions of [2, 3]
  EXPECT_THROW(static_cast<void>(in_memory(flat, {2, 3}, {1, 2})), Error);
  EXPECT_EQ(in_memory(flat, {6}, {4}).stride, Dims{4});
}

std::string coverage_error(const std::vector<Placement>& placements, std::uint64_t size) {
  try {
    check_coverage(placements, size);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::internal);
    return error.what();
  }
  return "";
}

TEST(Placement, CoverageEqualsCountingElements) {
  Random random(6);
  int overlaps = 0, outside = 0, fine = 0;
  for (int i = 0; i < 12'000; ++i) {
    std::vector<Placement> placements;
    if (i % 2 == 0) {  // parts of one: disjoint unless moved
      const Placement whole = random_placement(random, between(random, 1, 3));
      const std::uint64_t border = between(random, whole.offset, whole.offset + span(whole));
      placements = cut(whole, 0, border);
      for (Placement& p : cut(whole, border, ~std::uint64_t{0})) placements.push_back(p);
      if (random() % 4 == 0)
        placements.back().offset -= std::min<std::uint64_t>(1, placements.back().offset);
    } else {
      for (std::uint64_t n = between(random, 1, 3); n > 0; --n) {
        placements.push_back(random_placement(random, between(random, 0, 2), 4));
        placements.back().offset = between(random, 0, 60);
      }
    }
    std::map<std::uint64_t, int> count;
    for (const Placement& p : placements) {
      for (const auto& [index, at] : elements_of(p)) ++count[at];
    }
    const std::uint64_t end = count.rbegin()->first + 1;
    const bool twice =
        std::any_of(count.begin(), count.end(), [](auto& c) { return c.second > 1; });
    const std::uint64_t size = random() % 5 == 0 ? end - 1 : end + random() % 3;
    const std::string error = coverage_error(placements, size);
    ASSERT_EQ(error.empty(), !twice && size >= end) << error;
    if (error.empty()) {
      ASSERT_EQ(check_coverage(placements, size), count.size());
    }
    (size < end ? outside : twice ? overlaps : fine) += 1;
  }
  EXPECT_GT(overlaps, 500);
  EXPECT_GT(outside, 500);
  EXPECT_GT(fine, 500);
  EXPECT_NE(coverage_error({{0, {{0}, {2}}, 0, {1}}, {0, {{0}, {2}}, 1, {1}}}, 9).find("element 1"),
            std::string::npos);
  EXPECT_EQ(check_coverage({}, 0), 0U);
}

TEST(Placement, CoversEqualsCountingElements) {
  Random random(7);
  int refused = 0, whole = 0, holes = 0;
  for (int i = 0; i < 12'000; ++i) {
    Shape shape;
    for (std::uint64_t d = between(random, 0, 3); d > 0; --d)
      shape.push_back(between(random, 1, 5));
    Box all;
    for (const std::uint64_t n : shape) {
      all.offset.push_back(0);
      all.extent.push_back(n);
    }
    std::vector<Box> boxes = {all};
    for (int splits = static_cast<int>(random() % 4); splits > 0 && !shape.empty(); --splits) {
      const std::size_t b = random() % boxes.size(), d = random() % shape.size();
      if (boxes[b].extent[d] < 2) continue;
      const std::uint64_t at = between(random, 1, boxes[b].extent[d] - 1);
      Box behind = boxes[b];
      behind.offset[d] += at;
      behind.extent[d] -= at;
      boxes[b].extent[d] = at;
      boxes.push_back(behind);
    }
    if (random() % 3 == 0) boxes.push_back(boxes[random() % boxes.size()]);  // a replica
    if (random() % 4 == 0) boxes.push_back(random_part(random, all));
    if (random() % 4 == 0) boxes.erase(boxes.begin() + static_cast<long>(random() % boxes.size()));
    std::shuffle(boxes.begin(), boxes.end(), random);
    const std::set<Box> different(boxes.begin(), boxes.end());
    std::map<Index, int> count;
    for (const Box& box : different) each_index(box, [&](const Index& index) { ++count[index]; });
    const bool woven =
        std::any_of(count.begin(), count.end(), [](auto& c) { return c.second > 1; });
    if (woven) {
      ASSERT_THROW(static_cast<void>(covers(boxes, shape)), Error);
    } else {
      ASSERT_EQ(covers(boxes, shape), count.size() == all.elements());
    }
    (woven ? refused : count.size() == all.elements() ? whole : holes) += 1;
  }
  EXPECT_GT(refused, 500);
  EXPECT_GT(whole, 500);
  EXPECT_GT(holes, 500);
  EXPECT_TRUE(covers({}, {0, 3}));
  EXPECT_FALSE(covers({}, {}));
}

}  // namespace
}  // namespace reshard
