#include "core/layout.hpp"

#include <algorithm>
#include <cctype>

#include "core/error.hpp"

namespace reshard {

/// Recursive descent over the text; nesting is bounded, for tables may be a user's.
class Layout::Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::vector<Item> all() {
    std::vector<Item> found = items(0);
    if (at_ != text_.size()) fail("unexpected '" + std::string(1, text_[at_]) + "'");
    if (found.empty()) fail("empty");
    return found;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Kind::input, "layout '" + std::string(text_) + "' at character " +
                                 std::to_string(at_) + ": " + what);
  }
  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  [[nodiscard]] char next() {
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  void expect(char c) {
    if (next() != c) fail(std::string("expected '") + c + "'");
    ++at_;
  }
  std::string name() {
    skip_space();
    const std::size_t begin = at_;
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '_')) {
      ++at_;
    }
    if (begin == at_ || std::isdigit(static_cast<unsigned char>(text_[begin]))) {
      fail("expected a name");
    }
    return std::string(text_.substr(begin, at_ - begin));
  }
  std::vector<Item> items(int depth) {
    if (depth > 8) fail("nested too deep");
    std::vector<Item> found;
    for (char c = next(); c != '\0' && c != ')' && c != '}' && c != '|'; c = next()) {
      found.push_back(item(depth));
    }
    return found;
  }
  Item item(int depth) {
    Item result;
    if (next() == '(') {
      ++at_;
      result.alternatives.push_back({"", items(depth + 1)});
      if (result.alternatives.front().items.empty()) fail("empty product");
      expect(')');
    } else if (next() == '{') {
      ++at_;
      result.concatenation = true;
      for (bool more = true; more;) {
        Alternative alternative{name(), {}};
        if (next() == ':') {
          ++at_;
          alternative.items = items(depth + 1);
        }
        result.alternatives.push_back(std::move(alternative));
        more = next() == '|';
        if (more) ++at_;
      }
      expect('}');
    } else {
      result.factor = name();
    }
    return result;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

/// Evaluates items from the fastest to the slowest; each product multiplies the strides of what
/// stands to its left.
struct Layout::Lowering {
  const FactorSizes& sizes;
  const Blocks& blocks;

  std::pair<std::uint64_t, std::vector<Piece>> one(const Item& item) const {
    if (!item.factor.empty()) {
      const auto block = blocks.find(item.factor);
      const std::uint64_t first = block == blocks.end() ? 0 : block->second.first;
      const std::uint64_t last = block == blocks.end() ? sizes(item.factor) : block->second.last;
      return {last - first, {Piece{"", 0, {{item.factor, first, last - first, 1}}}}};
    }
    if (!item.concatenation) return product(item.alternatives.front().items);
    std::uint64_t total = 0;
    std::vector<Piece> found;
    for (const Alternative& alternative : item.alternatives) {
      auto [size, pieces] = product(alternative.items);
      for (Piece& piece : pieces) {
        piece.part = alternative.part + piece.part;
        piece.offset += total;
        found.push_back(std::move(piece));
      }
      total = checked_sum(total, size);
    }
    return {total, std::move(found)};
  }

  std::pair<std::uint64_t, std::vector<Piece>> product(const std::vector<Item>& items) const {
    std::uint64_t total = 1;
    std::vector<Piece> found = {Piece{}};
    for (auto item = items.rbegin(); item != items.rend(); ++item) {
      const auto [size, outer_pieces] = one(*item);
      std::vector<Piece> combined;
      for (const Piece& outer : outer_pieces) {
        for (const Piece& inner : found) {
          Piece piece{outer.part + inner.part,
                      checked_sum(checked_product(outer.offset, total), inner.offset), outer.spans};
          for (FactorSpan& span : piece.spans) span.stride = checked_product(span.stride, total);
          piece.spans.insert(piece.spans.end(), inner.spans.begin(), inner.spans.end());
          combined.push_back(std::move(piece));
        }
      }
      found = std::move(combined);
      total = checked_product(total, size);
    }
    return {total, std::move(found)};
  }
};

Layout::Layout(std::string_view text) : text_(text), items_(Parser(text).all()) {}

Lowered Layout::lower(const FactorSizes& sizes, const Blocks& blocks) const {
  const Lowering lowering{sizes, blocks};
  Lowered lowered;
  for (const Item& item : items_) lowered.shape.push_back(lowering.one(item).first);
  lowered.pieces = lowering.product(items_).second;
  return lowered;
}

std::vector<std::string> Layout::factors() const {
  std::vector<std::string> found;
  const auto walk = [&](const auto& self, const std::vector<Item>& items) -> void {
    for (const Item& item : items) {
      if (!item.factor.empty() &&
          std::find(found.begin(), found.end(), item.factor) == found.end()) {
        found.push_back(item.factor);
      }
      for (const Alternative& alternative : item.alternatives) self(self, alternative.items);
    }
  };
  walk(walk, items_);
  return found;
}

}  // namespace reshard
