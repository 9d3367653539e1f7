#include "core/model.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace reshard {
namespace {

using Spans = std::vector<FactorSpan>;

auto find(Spans& spans, std::string_view factor) {
  return std::find_if(spans.begin(), spans.end(),
                      [&](const FactorSpan& span) { return span.factor == factor; });
}

bool has(const CanonicalTensor& tensor, std::string_view factor) {
  return std::find(tensor.factors.begin(), tensor.factors.end(), factor) != tensor.factors.end();
}

/// A whole factor told in two finer ones becomes one span for each index of the slow one; where
/// memory is contiguous across them that is one span.
std::vector<std::pair<std::uint64_t, Spans>> join_finer(std::uint64_t offset, Spans spans,
                                                        const FactorProduct& product,
                                                        std::uint64_t fast_size) {
  const FactorSpan slow = *find(spans, product.slow), fast = *find(spans, product.fast);
  std::erase_if(spans, [&](const FactorSpan& span) {
    return span.factor == product.slow || span.factor == product.fast;
  });
  std::vector<std::pair<std::uint64_t, Spans>> found;
  if (fast.first == 0 && fast.extent == fast_size && slow.stride == fast.stride * fast_size) {
    spans.push_back({product.whole, slow.first * fast_size, slow.extent * fast_size, fast.stride});
    found.emplace_back(offset, spans);
    return found;
  }
  for (std::uint64_t i = 0; i < slow.extent; ++i) {
    Spans one = spans;
    one.push_back(
        {product.whole, (slow.first + i) * fast_size + fast.first, fast.extent, fast.stride});
    found.emplace_back(offset + i * slow.stride, std::move(one));
  }
  return found;
}

/// A factor told as a whole where the tensor has its two finer ones.
void split_coarser(Spans& spans, const FactorProduct& product, std::uint64_t fast_size) {
  const auto at = find(spans, product.whole);
  const FactorSpan whole = *at;
  spans.erase(at);
  if (whole.first % fast_size != 0 || whole.extent % fast_size != 0) {
    throw Error(Kind::input, product.whole + " " + std::to_string(whole.first) + " to " +
                                 std::to_string(whole.first + whole.extent) + " cuts through " +
                                 product.fast);
  }
  spans.push_back(
      {product.slow, whole.first / fast_size, whole.extent / fast_size, whole.stride * fast_size});
  spans.push_back({product.fast, 0, fast_size, whole.stride});
}

/// The spans in the order of the tensor's factors, clipped to its shape.
Placement in_order(std::uint64_t offset, Spans spans, std::uint32_t index,
                   const CanonicalTensor& tensor) {
  Placement placement;
  placement.tensor = index;
  placement.offset = offset;
  for (std::size_t d = 0; d < tensor.factors.size(); ++d) {
    const auto span = find(spans, tensor.factors[d]);
    if (span == spans.end()) {
      throw Error(Kind::input,
                  tensor.role + " has the factor " + tensor.factors[d] + ", the layout has not");
    }
    const std::uint64_t first = std::min(span->first, tensor.shape[d]);
    placement.box.offset.push_back(first);
    placement.box.extent.push_back(std::min(span->extent, tensor.shape[d] - first));
    placement.stride.push_back(span->stride);
    spans.erase(span);
  }
  for (const FactorSpan& span : spans) {
    if (span.extent != 1) {
      throw Error(Kind::input,
                  "the layout has the factor " + span.factor + ", " + tensor.role + " has not");
    }
  }
  return placement;
}

}  // namespace

bool is_padding(std::string_view role) {
  return role.find(".padding.") != std::string_view::npos;
}

std::uint32_t CanonicalModel::add(CanonicalTensor tensor) {
  const auto index = static_cast<std::uint32_t>(tensors_.size());
  if (!by_role_.emplace(tensor.role, index).second) {
    throw Error(Kind::internal, "role " + tensor.role + " occurs twice");
  }
  tensors_.push_back(std::move(tensor));
  return index;
}

std::uint32_t CanonicalModel::find(std::string_view role) const {
  const auto at = by_role_.find(role);
  return at == by_role_.end() ? none : at->second;
}

std::vector<Placement> place(const Piece& piece, std::uint32_t index, const CanonicalTensor& tensor,
                             const Blocks& fixed, const std::vector<FactorProduct>& products,
                             const FactorSizes& sizes) {
  Spans spans = piece.spans;
  for (const auto& [factor, block] : fixed) {
    spans.push_back({factor, block.first, block.last - block.first, 0});
  }
  std::vector<std::pair<std::uint64_t, Spans>> alternatives = {{piece.offset, spans}};
  for (const FactorProduct& product : products) {
    std::vector<std::pair<std::uint64_t, Spans>> next;
    for (auto& [offset, current] : alternatives) {
      const bool finer = find(current, product.slow) != current.end() &&
                         find(current, product.fast) != current.end();
      const bool coarser = find(current, product.whole) != current.end();
      if (has(tensor, product.whole) && !coarser && finer) {
        for (auto& joined : join_finer(offset, current, product, sizes(product.fast))) {
          next.push_back(std::move(joined));
        }
        continue;
      }
      if (coarser && !has(tensor, product.whole) && has(tensor, product.slow) &&
          has(tensor, product.fast)) {
        split_coarser(current, product, sizes(product.fast));
      }
      next.emplace_back(offset, std::move(current));
    }
    alternatives = std::move(next);
  }
  std::vector<Placement> placements;
  for (auto& [offset, current] : alternatives) {
    Placement placement = in_order(offset, std::move(current), index, tensor);
    if (placement.box.elements() != 0) placements.push_back(placement);
  }
  return placements;
}

}  // namespace reshard
