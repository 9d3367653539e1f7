#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.hpp"

namespace reshard {

/// A factor's indices inside a stored tensor: first index, how many, elements from one to the next.
struct FactorSpan {
  std::string factor;
  std::uint64_t first = 0, extent = 0, stride = 0;
};

/// A box over named factors inside a stored tensor, beginning at element `offset`.
struct Piece {
  std::string part;  ///< which canonical tensor of the braces; "" without braces
  std::uint64_t offset = 0;
  std::vector<FactorSpan> spans;
};

/// What a layout means for given sizes: the stored shape and where its parts lie.
struct Lowered {
  Shape shape;
  std::vector<Piece> pieces;
};

/// A block [first, last) of a factor, to which a rank or a name restricts a stored tensor.
struct FactorBlock {
  std::uint64_t first = 0, last = 0;
};

using Blocks = std::map<std::string, FactorBlock, std::less<>>;
/// Size of a factor; throws Error(input) for a name it does not know.
using FactorSizes = std::function<std::uint64_t(std::string_view)>;

/// A pattern over named factors (DESIGN.md section 1.1): one item a stored dimension, products in
/// parentheses slowest first, concatenations of canonical tensors in braces.
class Layout {
 public:
  /// Error(input) with the position of what cannot be parsed.
  explicit Layout(std::string_view text);

  /// The stored shape and its pieces, each factor restricted to its block where there is one.
  [[nodiscard]] Lowered lower(const FactorSizes& sizes, const Blocks& blocks = {}) const;
  /// Every factor named, in order of appearance, once.
  [[nodiscard]] std::vector<std::string> factors() const;
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  struct Item;
  struct Alternative {
    std::string part;
    std::vector<Item> items;
  };
  /// A factor (factor set), a product (one alternative without part) or a concatenation.
  struct Item {
    std::string factor;
    bool concatenation = false;
    std::vector<Alternative> alternatives;
  };
  class Parser;
  struct Lowering;

  std::string text_;
  std::vector<Item> items_;
};

}  // namespace reshard
