#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/layout.hpp"

namespace reshard::test {

using Random = std::mt19937_64;

/// A number in [first, last].
inline std::uint64_t between(Random& random, std::uint64_t first, std::uint64_t last) {
  return first + random() % (last - first + 1);
}

/// A layout as a tree of our own, to be printed for the parser and enumerated by hand.
struct Node {
  std::string factor;  ///< set: a factor
  bool concatenation = false;
  std::vector<std::pair<std::string, std::vector<Node>>> alternatives;  ///< a product has one
};

/// One stored element: whose it is and the index of each factor.
struct Element {
  std::string part;
  std::map<std::string, std::uint64_t> index;
  friend bool operator==(const Element&, const Element&) = default;
};

inline std::string text_of(const std::vector<Node>& items) {
  std::string text;
  for (const Node& node : items) {
    if (!text.empty()) text += ' ';
    if (!node.factor.empty()) {
      text += node.factor;
    } else if (!node.concatenation) {
      text += '(' + text_of(node.alternatives.front().second) + ')';
    } else {
      std::string inner;
      for (const auto& [part, rest] : node.alternatives) {
        inner += (inner.empty() ? "" : "|") + part + (rest.empty() ? "" : ": " + text_of(rest));
      }
      text += '{' + inner + '}';
    }
  }
  return text;
}

/// Every element of a row of items, slowest first, one by one: no strides, no boxes.
inline std::vector<Element> enumerate(const std::vector<Node>& items,
                                      const std::map<std::string, std::uint64_t>& sizes,
                                      const Blocks& blocks) {
  std::vector<Element> all = {{}};
  for (const Node& node : items) {
    std::vector<Element> mine;
    if (!node.factor.empty()) {
      const auto block = blocks.find(node.factor);
      const std::uint64_t first = block == blocks.end() ? 0 : block->second.first;
      const std::uint64_t last = block == blocks.end() ? sizes.at(node.factor) : block->second.last;
      for (std::uint64_t i = first; i < last; ++i) mine.push_back({"", {{node.factor, i}}});
    }
    for (const auto& [part, rest] : node.alternatives) {
      for (Element element : enumerate(rest, sizes, blocks)) {
        element.part = part + element.part;
        mine.push_back(std::move(element));
      }
    }
    std::vector<Element> next;
    for (const Element& outer : all) {
      for (const Element& inner : mine) {
        Element both = outer;
        both.part += inner.part;
        both.index.insert(inner.index.begin(), inner.index.end());
        next.push_back(std::move(both));
      }
    }
    all = std::move(next);
  }
  return all;
}

/// Random items over some factors, each of which occurs once along every path.
inline std::vector<Node> random_items(Random& random, std::vector<std::string> factors, int depth) {
  std::vector<Node> items;
  std::shuffle(factors.begin(), factors.end(), random);
  for (std::size_t at = 0; at < factors.size();) {
    const std::uint64_t kind = depth > 3 ? 0 : between(random, 0, 3);
    if (kind <= 1) {
      items.push_back({factors[at++], false, {}});
      continue;
    }
    const std::size_t count = between(random, 1, factors.size() - at);
    const auto begin = factors.begin() + static_cast<std::ptrdiff_t>(at);
    const std::vector<std::string> mine(begin, begin + static_cast<std::ptrdiff_t>(count));
    at += count;
    Node node;
    node.concatenation = kind == 3;
    const std::uint64_t parts = node.concatenation ? between(random, 1, 3) : 1;
    for (std::uint64_t p = 0; p < parts; ++p) {
      std::vector<std::string> some = mine;
      if (node.concatenation) {  // parts may lack factors that others have
        std::shuffle(some.begin(), some.end(), random);
        some.resize(between(random, 0, some.size()));
      }
      std::string name = node.concatenation ? std::string(1, static_cast<char>('p' + p)) : "";
      node.alternatives.emplace_back(std::move(name), random_items(random, some, depth + 1));
    }
    items.push_back(std::move(node));
  }
  return items;
}

}  // namespace reshard::test
