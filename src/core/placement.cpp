#include "core/placement.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "core/error.hpp"

namespace reshard {
namespace {

StrideOrder order_of(const Placement& p) {
  return {p.box.extent, p.stride};
}

/// A nested placement's elements as contiguous runs.
struct Runs {
  StrideOrder order;
  std::size_t outer;  ///< dimensions of `order` that are not part of a run
  std::uint64_t length = 1, count = 1;

  explicit Runs(const Placement& p) : order(order_of(p)), outer(order.size) {
    while (outer > 0 && p.stride[order.dims[outer - 1]] == length) {
      length *= p.box.extent[order.dims[--outer]];
    }
    for (std::size_t i = 0; i < outer; ++i) count *= p.box.extent[order.dims[i]];
  }

  void append(const Placement& p,
              std::vector<std::pair<std::uint64_t, std::uint64_t>>& runs) const {
    std::array<std::uint64_t, max_rank> index{};
    for (std::uint64_t n = 0; n < count; ++n) {
      std::uint64_t at = p.offset;
      for (std::size_t i = 0; i < outer; ++i) at += index[i] * p.stride[order.dims[i]];
      runs.emplace_back(at, at + length);
      for (std::size_t i = outer; i-- > 0;) {
        if (++index[i] < p.box.extent[order.dims[i]]) break;
        index[i] = 0;
      }
    }
  }
};

void cut_from(const Placement& p, const StrideOrder& order, std::size_t level,
              std::uint64_t inner_span, std::uint64_t first, std::uint64_t last,
              std::vector<Placement>& found) {
  if (p.offset >= last || p.offset + inner_span <= first) return;
  if (p.offset >= first && p.offset + inner_span <= last) {
    found.push_back(p);
    return;
  }
  // Not a single element here, so there is a dimension to cut; its indices wholly inside stay one
  // box, the at most two on the borders are cut further.
  const std::size_t d = order.dims[level];
  const std::uint64_t stride = p.stride[d], extent = p.box.extent[d];
  const std::uint64_t below = inner_span - (extent - 1) * stride;
  const auto part = [&](std::uint64_t from, std::uint64_t to) {
    Placement q = p;
    q.box.offset[d] += from;
    q.box.extent[d] = to - from;
    q.offset += from * stride;
    return q;
  };
  const auto index_at = [&](std::uint64_t element) {  // first index that begins at or after it
    return element <= p.offset ? 0 : std::min((element - p.offset + stride - 1) / stride, extent);
  };
  const std::uint64_t inside_first = index_at(first);
  const std::uint64_t begins_before_last = index_at(last);
  std::uint64_t inside_last = begins_before_last;
  if (inside_last > inside_first && p.offset + (inside_last - 1) * stride + below > last) {
    --inside_last;
  }
  if (inside_first > 0) {
    cut_from(part(inside_first - 1, inside_first), order, level + 1, below, first, last, found);
  }
  if (inside_last > inside_first) found.push_back(part(inside_first, inside_last));
  if (begins_before_last > std::max(inside_last, inside_first)) {
    cut_from(part(begins_before_last - 1, begins_before_last), order, level + 1, below, first, last,
             found);
  }
}

/// A placement's dimensions as steps along those of the stored tensor.
struct Labelled {
  std::vector<std::uint64_t> first;  ///< index of the first element
  std::array<std::size_t, max_rank>
      dimension{};  ///< of the tensor, for each with an extent above 1
  Dims step;        ///< along it, in indices

  /// Error(input) when a dimension runs over more than one of the tensor's.
  Labelled(const Placement& placement, const Shape& shape) : first(shape.size()) {
    const std::vector<std::uint64_t> labels = row_major(shape);
    std::uint64_t rest = placement.offset;
    for (std::size_t k = 0; k < shape.size(); ++k) {
      first[k] = rest / labels[k];
      rest %= labels[k];
    }
    std::vector<std::uint64_t> last = first;
    for (std::size_t d = 0; d < placement.stride.size(); ++d) {
      const std::uint64_t stride = placement.stride[d], extent = placement.box.extent[d];
      step.push_back(0);
      if (extent <= 1) continue;
      std::size_t k = 0;
      while (k < shape.size() && (shape[k] <= 1 || labels[k] > stride)) ++k;
      if (k == shape.size()) {
        throw Error(Kind::internal,
                    "a placement's stride fits no dimension of " + to_string(shape));
      }
      dimension[d] = k;
      step[d] = stride / labels[k];
      last[k] += (extent - 1) * step[d];
      if (stride % labels[k] != 0 || last[k] >= shape[k]) {
        throw Error(Kind::input,
                    "a part of it runs over more than one dimension of " + to_string(shape));
      }
    }
  }
};

}  // namespace

std::uint64_t position(const Placement& placement, const Box& box) {
  std::uint64_t at = placement.offset;
  for (std::size_t d = 0; d < box.offset.size(); ++d) {
    at += (box.offset[d] - placement.box.offset[d]) * placement.stride[d];
  }
  return at;
}

Placement restrict(const Placement& placement, const Box& box) {
  Placement part = placement;
  const std::optional<Box> both = intersect(placement.box, box);
  if (!both) {
    part.box.extent = Dims(box.extent.size());
    return part;
  }
  part.box = *both;
  part.offset = position(placement, *both);
  return part;
}

std::uint64_t span(const Placement& placement) {
  std::uint64_t last = 0;
  for (std::size_t d = 0; d < placement.stride.size(); ++d) {
    if (placement.box.extent[d] == 0) return 0;
    last += (placement.box.extent[d] - 1) * placement.stride[d];
  }
  return last + 1;
}

bool is_nested(const Placement& placement) {
  const StrideOrder order = order_of(placement);
  std::uint64_t inner = 1;
  for (std::size_t i = order.size; i-- > 0;) {
    const std::size_t d = order.dims[i];
    if (placement.stride[d] < inner) return false;
    inner += (placement.box.extent[d] - 1) * placement.stride[d];
  }
  return true;
}

std::vector<Placement> cut(const Placement& placement, std::uint64_t first, std::uint64_t last) {
  std::vector<Placement> found;
  const std::uint64_t whole = span(placement);
  if (whole != 0) cut_from(placement, order_of(placement), 0, whole, first, last, found);
  return found;
}

Placement in_memory(const Placement& placement, const Shape& shape,
                    const std::vector<std::uint64_t>& strides) {
  const Labelled label = with_context("its memory is strided: save it contiguous",
                                      [&] { return Labelled(placement, shape); });
  Placement memory = placement;
  memory.offset = 0;
  for (std::size_t k = 0; k < shape.size(); ++k) memory.offset += label.first[k] * strides[k];
  for (std::size_t d = 0; d < placement.stride.size(); ++d) {
    if (placement.box.extent[d] > 1) memory.stride[d] = label.step[d] * strides[label.dimension[d]];
  }
  return memory;
}

std::vector<Placement> within(const Placement& placement, const Shape& shape, const Box& box) {
  if (placement.box.elements() == 0) return {};
  const Labelled label(placement, shape);
  const std::vector<std::uint64_t> inner = row_major({box.extent.begin(), box.extent.end()});
  std::vector<Placement> found = {placement};
  found.front().offset = 0;
  for (std::size_t k = 0; k < shape.size() && !found.empty(); ++k) {
    // What lies along this dimension alone, as a placement in a tensor of one dimension.
    Placement line = placement;
    line.offset = label.first[k];
    for (std::size_t d = 0; d < line.stride.size(); ++d) {
      const bool along = line.box.extent[d] > 1 && label.dimension[d] == k;
      if (along) line.stride[d] = label.step[d];
      if (!along) line.box.extent[d] = 1;
    }
    std::vector<Placement> next;
    for (const Placement& part : cut(line, box.offset[k], box.offset[k] + box.extent[k])) {
      for (Placement p : found) {
        for (std::size_t d = 0; d < p.stride.size(); ++d) {
          if (placement.box.extent[d] <= 1 || label.dimension[d] != k) continue;
          p.box.offset[d] = part.box.offset[d];
          p.box.extent[d] = part.box.extent[d];
          p.stride[d] = label.step[d] * inner[k];
        }
        p.offset += (part.offset - box.offset[k]) * inner[k];
        next.push_back(p);
      }
    }
    found = std::move(next);
  }
  return found;
}

std::uint64_t check_coverage(const std::vector<Placement>& placements, std::uint64_t size) {
  constexpr std::uint64_t most_runs = 4'000'000;
  std::uint64_t covered = 0, run_count = 0;
  for (const Placement& p : placements) {
    if (p.box.elements() == 0) continue;
    if (p.offset + span(p) > size || !is_nested(p)) {
      throw Error(Kind::internal, "a placement reaches element " +
                                      std::to_string(p.offset + span(p)) + " of " +
                                      std::to_string(size));
    }
    covered += p.box.elements();
    run_count += Runs(p).count;
  }
  if (covered > size) throw Error(Kind::internal, "placements cover more than the tensor holds");
  if (run_count > most_runs) return covered;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> runs;  // first and one behind the last
  runs.reserve(run_count);
  for (const Placement& p : placements) {
    if (p.box.elements() != 0) Runs(p).append(p, runs);
  }
  std::sort(runs.begin(), runs.end());
  for (std::size_t i = 1; i < runs.size(); ++i) {
    if (runs[i].first < runs[i - 1].second) {
      throw Error(Kind::internal, "two placements hold element " + std::to_string(runs[i].first));
    }
  }
  return covered;
}

bool covers(std::vector<Box> boxes, const Shape& shape) {
  std::sort(boxes.begin(), boxes.end());
  boxes.erase(std::unique(boxes.begin(), boxes.end()), boxes.end());
  std::uint64_t covered = 0;
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    covered += boxes[i].elements();
    for (std::size_t j = i + 1; j < boxes.size(); ++j) {
      // Sorted by offset: along the first dimension nothing later can meet this box any more.
      if (boxes[i].offset.size() > 0 &&
          boxes[j].offset[0] >= boxes[i].offset[0] + boxes[i].extent[0]) {
        break;
      }
      if (intersect(boxes[i], boxes[j])) {
        throw Error(Kind::input, "two stored tensors hold parts of it that overlap but differ");
      }
    }
  }
  return covered == elements(shape);
}

}  // namespace reshard
