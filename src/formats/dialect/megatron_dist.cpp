#include "formats/dialect/megatron_dist.hpp"

#include <algorithm>
#include <set>

#include "core/error.hpp"
#include "families/expression.hpp"

namespace reshard::formats {
namespace {

/// A text with an index put in for a mark, if it is there.
std::string put(std::string text, std::string_view mark, std::optional<std::uint64_t> index) {
  const std::size_t at = text.find(mark);
  if (index && at != std::string::npos) text.replace(at, mark.size(), std::to_string(*index));
  return text;
}

/// A run [first, last) of a dimension, and the rank (of those that split it) that holds it.
struct Range {
  std::uint64_t first = 0, last = 0, rank = 0;
};

/// The blocks of a factor along the dimension of a row's tensor that holds it.
struct Blocked {
  std::size_t dimension = 0;
  std::vector<Range> ranges;  ///< empty: the layout lacks the factor
};

/// Cuts a factor into `count` equal blocks. Alternatives of braces that lie before the factor,
/// {gate | up}, give a block each; those within it, {q | k | v} of a group, stay together.
Blocked blocks_of(const Rows& rows, std::size_t number, const Lowered& lowered,
                  const std::string& factor, std::uint64_t count) {
  if (rows.size(rows.rows()[number], factor) == 1) return {};
  const std::vector<std::uint64_t> labels = row_major(lowered.shape);
  Blocked made;
  std::set<std::uint64_t> begins;
  std::uint64_t period = 0;  // along the dimension, from one index of the factor to the next
  for (const Piece& piece : lowered.pieces) {
    for (const FactorSpan& span : piece.spans) {
      if (span.factor != factor) continue;
      while (labels[made.dimension] > span.stride) ++made.dimension;
      const std::uint64_t label = labels[made.dimension];
      period = span.stride / label;
      begins.insert(piece.offset / label % lowered.shape[made.dimension] / period * period);
    }
  }
  for (const std::uint64_t begin : begins) {
    for (std::uint64_t r = 0; r < count; ++r) {
      const FactorBlock block = rows.block(rows.rows()[number], factor, r, count);
      made.ranges.push_back({begin + block.first * period, begin + block.last * period, r});
    }
  }
  return made;
}

/// Makes the tensors of the rows of a table.
class TensorMaker {
 public:
  TensorMaker(const DistRows& dist, const Parallelism* cut_for, TableUse& use)
      : dist_(dist), rows_(dist.megatron.rows), cut_for_(cut_for), use_(use) {
    if (cut_for == nullptr) return;
    stage_of_layer_.resize(layers());
    for (std::size_t c = 0; c < cut_for->chunks.size(); ++c) {
      const LayerRange& chunk = cut_for->chunks[c];
      for (std::uint64_t l = chunk.first; l < chunk.first + chunk.count; ++l) {
        stage_of_layer_.at(l) = c % cut_for->pp;
      }
    }
  }

  std::vector<DistTensor> make() {
    bool layers_done = false;  // rows are in the model's order; a layer's rows stay together
    for (std::size_t i = 0; i < rows_.rows().size(); ++i) {
      if (!rows_.is_layered(i)) {
        add(i, std::nullopt);
      } else if (dist_.stacked) {
        add_stack(i);
      } else if (!layers_done) {
        add_layers();
        layers_done = true;
      }
    }
    for (DistTensor& tensor : made_) note_use(dist_.megatron, tensor.stored, use_);
    return std::move(made_);
  }

 private:
  [[nodiscard]] std::uint64_t layers() const {
    return rows_.names().at("layers").get<std::uint64_t>();
  }

  [[nodiscard]] bool stands(std::size_t row, std::optional<std::uint64_t> layer) const {
    return rows_.has_roles(row, layer) && rows_.holds(row, layer);
  }

  void add_layers() {
    for (std::uint64_t l = 0; l < layers(); ++l) {
      for (std::size_t i = 0; i < rows_.rows().size(); ++i) {
        if (rows_.is_layered(i)) add(i, l);
      }
    }
  }

  void add(std::size_t number, std::optional<std::uint64_t> layer) {
    if (!stands(number, layer)) return;
    const families::Row& row = rows_.rows()[number];
    if (!row.seen) use_.unseen.insert(row.name);
    const std::string name = put(row.name, "{l}", layer);
    const std::vector<DistCut> cuts = cuts_of(number, layer);
    if (name.find("{e}") == std::string::npos) {
      made_.push_back({rows_.stored(number, name, {layer, std::nullopt}, {}), cuts});
      return;
    }
    const std::uint64_t experts = rows_.size(row, "experts");
    for (std::uint64_t e = 0; e < experts; ++e) {
      made_.push_back({rows_.stored(number, put(name, "{e}", e), {layer, e}, {}), cuts});
    }
  }

  /// All layers of a row in one tensor.
  void add_stack(std::size_t number) {
    const families::Row& row = rows_.rows()[number];
    const auto& stack = *dist_.megatron.table.stack;
    DistTensor all;
    std::uint64_t count = 0;
    for (std::uint64_t l = 0; l < layers(); ++l) {
      if (!stands(number, l)) continue;
      ++count;
      StoredTensor one = rows_.stored(number, row.name, {l, std::nullopt}, {});
      if (count == 1) {
        if (!row.seen) use_.unseen.insert(row.name);
        all.stored.name = stack.to + row.name.substr(stack.from.size());
        all.stored.shape = one.shape;
        all.stored.shape.insert(all.stored.shape.begin(), layers());
      }
      const std::uint64_t size = elements(one.shape);
      for (Placement& placement : one.placements) {
        placement.offset += l * size;
        all.stored.placements.push_back(placement);
      }
      all.stored.parts.insert(all.stored.parts.end(), one.parts.begin(), one.parts.end());
      for (DistCut cut : cuts_of(number, l)) {
        Box box{{l}, {1}};
        for (std::size_t d = 0; d < cut.box.extent.size(); ++d) {
          box.offset.push_back(cut.box.offset[d]);
          box.extent.push_back(cut.box.extent[d]);
        }
        all.cuts.push_back({box, cut.rank});
      }
    }
    if (count == 0) return;
    if (count != layers()) {
      throw Error(Kind::input, all.stored.name + ": " + std::to_string(count) + " of " +
                                   std::to_string(layers()) +
                                   " layers have this tensor, so that they cannot be stacked");
    }
    made_.push_back(std::move(all));
  }

  [[nodiscard]] std::uint64_t stage_of(const families::Row& row,
                                       std::optional<std::uint64_t> layer) const {
    if (layer) return stage_of_layer_[*layer];
    const families::Names names(rows_.names());
    const std::string& place = dist_.megatron.table.place_of(row.parts.front().second, names);
    return place == "first" ? 0 : cut_for_->pp - 1;
  }

  /// The chunks of one row and layer that a run of the degrees writes.
  [[nodiscard]] std::vector<DistCut> cuts_of(std::size_t number,
                                             std::optional<std::uint64_t> layer) const {
    if (cut_for_ == nullptr) return {};
    const Parallelism& p = *cut_for_;
    const families::Row& row = rows_.rows()[number];
    const Lowered lowered = rows_.lowered(number);
    const bool expert = !row.expert_split.empty();
    const std::uint64_t first_rank = stage_of(row, layer) * ranks_of_stage(p);
    std::vector<DistCut> cuts = {{whole_box(lowered.shape), first_rank}};
    if (expert) {
      const std::uint64_t experts = rows_.size(row, "experts");
      const std::uint64_t per_rank = rows_.block(row, "experts", 0, p.ep).last;
      cuts = split(cuts, blocks_of(rows_, number, lowered, "experts", experts),
                   [&](std::uint64_t e) { return e / per_rank * p.etp; });
      return split(cuts, blocks_of(rows_, number, lowered, row.expert_split, p.etp),
                   [](std::uint64_t r) { return r; });
    }
    if (row.split.empty()) return cuts;
    return split(cuts, blocks_of(rows_, number, lowered, row.split, p.tp),
                 [](std::uint64_t r) { return r; });
  }

  static Box whole_box(const Shape& shape) {
    Box box;
    for (const std::uint64_t n : shape) {
      box.offset.push_back(0);
      box.extent.push_back(n);
    }
    return box;
  }

  /// Every cut parted along a dimension; the rank of a part is added to the cut's.
  static std::vector<DistCut> split(const std::vector<DistCut>& cuts, const Blocked& blocked,
                                    const std::function<std::uint64_t(std::uint64_t)>& rank) {
    if (blocked.ranges.empty()) return cuts;
    std::vector<DistCut> parts;
    for (const DistCut& cut : cuts) {
      for (const Range& range : blocked.ranges) {
        DistCut part = cut;
        part.box.offset[blocked.dimension] = range.first;
        part.box.extent[blocked.dimension] = range.last - range.first;
        part.rank += rank(range.rank);
        parts.push_back(part);
      }
    }
    return parts;
  }

  const DistRows& dist_;
  const Rows& rows_;
  const Parallelism* cut_for_;  ///< null: no cuts are wanted
  TableUse& use_;
  std::vector<std::uint64_t> stage_of_layer_;
  std::vector<DistTensor> made_;
};

}  // namespace

DistRows::DistRows(const families::Record& record, const Json& choices,
                   const Parallelism& parallelism, std::uint64_t padded_vocab,
                   const CanonicalModel& model, bool homogeneous, bool repeat_last)
    : megatron("megatron_dist", record, choices, parallelism, padded_vocab, model, repeat_last) {
  Json names = megatron.rows.names();
  names["homogeneous"] = homogeneous;
  stacked = megatron.table.stack->when.holds(families::Names(names));
}

std::vector<DistTensor> dist_tensors(const DistRows& rows, TableUse& use) {
  return TensorMaker(rows, nullptr, use).make();
}

std::vector<DistTensor> dist_tensors(const DistRows& rows, const Parallelism& parallelism,
                                     TableUse& use) {
  return TensorMaker(rows, &parallelism, use).make();
}

ChunkPlacements::ChunkPlacements(const StoredTensor& tensor) : tensor_(&tensor) {
  const std::uint64_t rows = tensor.shape.empty() ? 1 : tensor.shape.front();
  const std::uint64_t row = rows == 0 ? 0 : elements(tensor.shape) / rows;
  for (std::size_t i = 0; i < tensor.placements.size() && row > 0; ++i) {
    const Placement& placement = tensor.placements[i];
    const std::uint64_t first = placement.offset / row;
    order_.push_back({first, i});
    reach_ = std::max(reach_, (placement.offset + span(placement) - 1) / row - first);
  }
  std::sort(order_.begin(), order_.end(), [](const Place& a, const Place& b) {
    return std::pair(a.row, a.number) < std::pair(b.row, b.number);
  });
}

ChunkPlacements::Held ChunkPlacements::in(const Box& box) const {
  const bool scalar = box.offset.size() == 0;
  const std::uint64_t first = scalar ? 0 : box.offset[0];
  const std::uint64_t last = scalar ? 1 : first + box.extent[0];
  const std::size_t own = tensor_->placements.size() - tensor_->repeats;
  Held held;
  for (const bool repeats : {false, true}) {  // which stand behind all others
    const std::size_t before = held.placements.size();
    auto at =
        std::lower_bound(order_.begin(), order_.end(), first - std::min(first, reach_),
                         [](const Place& place, std::uint64_t row) { return place.row < row; });
    for (; at != order_.end() && at->row < last; ++at) {
      if ((at->number >= own) != repeats) continue;
      const std::vector<Placement> parts =
          within(tensor_->placements[at->number], tensor_->shape, box);
      held.placements.insert(held.placements.end(), parts.begin(), parts.end());
    }
    if (repeats) held.repeats = held.placements.size() - before;
  }
  return held;
}

std::string_view dist_key(std::string_view key) {
  for (;;) {
    const std::string_view before = key;
    for (const std::string_view level : {"module.", "model."}) {
      if (key.starts_with(level)) key.remove_prefix(level.size());
    }
    if (key.size() == before.size()) return key;
  }
}

}  // namespace reshard::formats
