#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/geometry.hpp"
#include "support/random_layout.hpp"

namespace reshard::test {

/// A canonical element: which tensor and its row-major index.
using Id = std::pair<std::uint32_t, std::uint64_t>;
/// What lies where: (file, byte of the element's begin) -> element.
using Content = std::map<std::pair<std::uint32_t, std::uint64_t>, Id>;

/// A geometry with random layouts on both sides, and by enumeration what its files hold.
struct RandomGeometry {
  Geometry geometry;
  Content source, target;
};

/// Makes models of groups of tensors that frameworks fuse, cut, transpose, pad, repeat and stride.
class GeometryMaker {
 public:
  explicit GeometryMaker(Random& random) : random_(random) {}

  RandomGeometry make() {
    made_ = {};
    made_.geometry.sources.resize(pick(1, 4));
    made_.geometry.targets.resize(pick(1, 4));
    for (std::uint64_t groups = pick(1, 4); groups > 0; --groups) add_group();
    finish();
    return std::move(made_);
  }

 private:
  struct Group {
    std::vector<std::string> common;             ///< factors of all parts
    std::vector<std::vector<std::string>> own;   ///< more of each part
    std::map<std::string, std::uint64_t> sizes;  ///< "w" is "a" times "b" where a product is used
    bool product = false, has_whole = false;     ///< has_whole: the tensors have w, not a and b
    std::uint32_t first = 0;                     ///< canonical tensor of part 0
  };

  std::uint64_t pick(std::uint64_t first, std::uint64_t last) {
    return between(random_, first, last);
  }
  bool one_in(std::uint64_t n) { return random_() % n == 0; }
  static std::string part_name(std::size_t part) {
    return std::string(1, static_cast<char>('p' + part));
  }

  void add_group() {
    Group group;
    group.product = one_in(2);
    group.has_whole = group.product && one_in(2);
    if (group.product) {
      group.sizes = {{"a", pick(1, 4)}, {"b", pick(1, 3)}};
      group.sizes["w"] = group.sizes["a"] * group.sizes["b"];
    }
    for (const char* name : {"c", "d"}) {
      if (one_in(3)) continue;
      group.common.emplace_back(name);
      group.sizes[name] = pick(1, 8);
    }
    const std::size_t parts = pick(1, 3);
    for (std::size_t part = 0; part < parts; ++part) {
      group.own.emplace_back();
      for (const char* name : {"x", "y"}) {
        if (one_in(2)) continue;
        group.own.back().push_back(name + std::to_string(part));
        group.sizes[group.own.back().back()] = pick(1, 3);
      }
    }
    CanonicalModel& model = made_.geometry.model;
    group.first = static_cast<std::uint32_t>(model.tensors().size());
    for (std::size_t part = 0; part < parts; ++part) {
      CanonicalTensor tensor;
      tensor.role = "t" + std::to_string(group.first + part) + ".weight";
      tensor.factors = group.common;
      if (group.has_whole) tensor.factors.emplace_back("w");
      if (group.product && !group.has_whole) {
        tensor.factors.insert(tensor.factors.end(), {"a", "b"});
      }
      tensor.factors.insert(tensor.factors.end(), group.own[part].begin(), group.own[part].end());
      std::shuffle(tensor.factors.begin(), tensor.factors.end(), random_);
      for (const std::string& factor : tensor.factors) {
        tensor.shape.push_back(group.sizes.at(factor));
      }
      model.add(std::move(tensor));
    }
    const Dtype dtypes[] = {Dtype::u8, Dtype::bf16, Dtype::f32, Dtype::f64};
    const Dtype dtype = dtypes[random_() % 4];
    store(group, dtype, true);
    store(group, one_in(2) ? dtype : dtypes[random_() % 4], false);
  }

  /// The group's tensors on one side: fused or each alone.
  void store(const Group& group, Dtype dtype, bool is_source) {
    const bool whole = group.product && one_in(2);
    std::vector<std::string> shared = group.common;
    if (whole) shared.emplace_back("w");
    if (group.product && !whole) shared.insert(shared.end(), {"a", "b"});
    if (one_in(2)) {
      Node concatenation{"", true, {}};
      for (std::size_t part = 0; part < group.own.size(); ++part) {
        std::vector<Node> items;
        for (const std::string& factor : group.own[part]) items.push_back({factor, false, {}});
        concatenation.alternatives.emplace_back(part_name(part), std::move(items));
      }
      store_tensor(group, arranged(shared, concatenation), shared, dtype, is_source, 0);
      return;
    }
    for (std::size_t part = 0; part < group.own.size(); ++part) {
      std::vector<std::string> all = shared;
      all.insert(all.end(), group.own[part].begin(), group.own[part].end());
      store_tensor(group, arranged(all, std::nullopt), all, dtype, is_source, part);
    }
  }

  /// Factors in any order, some joined to products.
  std::vector<Node> arranged(const std::vector<std::string>& factors,
                             const std::optional<Node>& concatenation) {
    std::vector<Node> flat;
    for (const std::string& factor : factors) flat.push_back({factor, false, {}});
    if (concatenation) flat.push_back(*concatenation);
    std::shuffle(flat.begin(), flat.end(), random_);
    std::vector<Node> items;
    for (const Node& node : flat) {
      if (!items.empty() && one_in(2)) {
        Node& last = items.back();
        if (last.factor.empty() && !last.concatenation) {
          last.alternatives.front().second.push_back(node);
        } else {
          last = {"", false, {{"", {last, node}}}};
        }
      } else {
        items.push_back(node);
      }
    }
    return items;
  }

  /// One tensor a rank, each in a file of its own as far as there are so many.
  void store_tensor(const Group& group, const std::vector<Node>& items,
                    const std::vector<std::string>& splittable, Dtype dtype, bool is_source,
                    std::size_t part) {
    std::map<std::string, std::uint64_t> sizes = group.sizes;
    std::string split =
        splittable.empty() || one_in(3) ? "" : splittable[random_() % splittable.size()];
    if (split == "b" || (split == "w" && !group.has_whole)) split.clear();
    std::uint64_t ranks = split.empty() ? 1 : pick(1, 8);
    const bool in_product = split == "a" || split == "b" || split == "w";
    if (!split.empty() && !in_product && one_in(3)) sizes[split] += pick(1, 5);  // padding
    const std::uint64_t copies = one_in(4) ? 2 : 1;
    for (std::uint64_t rank = 0; rank < ranks; ++rank) {
      Blocks blocks;
      if (!split.empty()) {
        blocks[split] = {rank * sizes[split] / ranks, (rank + 1) * sizes[split] / ranks};
      }
      for (std::uint64_t copy = 0; copy < copies; ++copy) {
        add_tensor(group, items, sizes, blocks, dtype, is_source, part, rank + copy);
      }
    }
  }

  void add_tensor(const Group& group, const std::vector<Node>& items,
                  const std::map<std::string, std::uint64_t>& sizes, const Blocks& blocks,
                  Dtype dtype, bool is_source, std::size_t part, std::uint64_t file_number) {
    const std::string text = text_of(items);
    const FactorSizes size_of = [&](std::string_view name) { return sizes.at(std::string(name)); };
    const Lowered lowered =
        text.empty() ? Lowered{{}, {Piece{}}} : Layout(text).lower(size_of, blocks);
    StoredTensor stored;
    stored.name = "s" + std::to_string(++names_);
    stored.shape = lowered.shape;
    stored.dtype = dtype;
    for (const Piece& piece : lowered.pieces) {
      const auto index =
          group.first +
          static_cast<std::uint32_t>(
              piece.part.empty() ? part : static_cast<std::size_t>(piece.part[0] - 'p'));
      const std::vector<FactorProduct> products = {{"w", "a", "b"}};
      for (Placement& p : place(piece, index, made_.geometry.model[index], {}, products, size_of)) {
        stored.placements.push_back(p);
      }
    }
    std::vector<std::pair<std::uint64_t, Id>> labels;  // stored element -> canonical
    std::uint64_t label = 0;
    for (const Element& element : enumerate(items, sizes, blocks)) {
      const auto id = id_of(group, element, part);
      if (id) labels.emplace_back(label, *id);
      ++label;
    }
    if (is_source) {
      // a and b in two dimensions are one w only while their strides follow one another.
      const bool joined = group.has_whole && text.find('a') != std::string::npos;
      add_source(stored, labels, file_number, !joined && one_in(3));
    } else {
      add_target(std::move(stored), labels, file_number);
    }
  }

  /// The canonical element; nothing for padding.
  std::optional<Id> id_of(const Group& group, const Element& element, std::size_t part) {
    const auto tensor =
        group.first +
        static_cast<std::uint32_t>(
            element.part.empty() ? part : static_cast<std::size_t>(element.part[0] - 'p'));
    const CanonicalTensor& canonical = made_.geometry.model[tensor];
    std::uint64_t at = 0;
    for (std::size_t d = 0; d < canonical.factors.size(); ++d) {
      const std::string& factor = canonical.factors[d];
      std::uint64_t i = 0;
      if (const auto told = element.index.find(factor); told != element.index.end()) {
        i = told->second;
      } else if (factor == "w") {
        i = element.index.at("a") * group.sizes.at("b") + element.index.at("b");
      } else if (factor == "a") {
        i = element.index.at("w") / group.sizes.at("b");
      } else {
        i = element.index.at("w") % group.sizes.at("b");
      }
      if (i >= canonical.shape[d]) return std::nullopt;
      at = at * canonical.shape[d] + i;
    }
    return Id{tensor, at};
  }

  void add_source(const StoredTensor& stored,
                  const std::vector<std::pair<std::uint64_t, Id>>& labels,
                  std::uint64_t file_number, bool strided) {
    const auto file = static_cast<std::uint32_t>(file_number % made_.geometry.sources.size());
    std::uint64_t& end = made_.geometry.sources[file].bytes;
    const std::uint64_t width = bytes(stored.dtype);
    const std::uint64_t base = (end + 7) / 8 * 8 + (one_in(3) ? 8 * pick(0, 9) : 0);
    const std::size_t rank = stored.shape.size();
    std::vector<std::uint64_t> strides = row_major(stored.shape);
    const std::vector<std::uint64_t> row_major_strides = strides;
    std::uint64_t memory = 1;
    if (strided) {
      std::vector<std::size_t> order(rank);
      for (std::size_t d = 0; d < rank; ++d) order[d] = d;
      std::shuffle(order.begin(), order.end(), random_);
      for (const std::size_t d : order) {
        strides[d] = memory + pick(0, 2);
        memory = strides[d] * std::max<std::uint64_t>(stored.shape[d], 1);
      }
    } else {
      memory = elements(stored.shape);
    }
    for (const Placement& placement : stored.placements) {
      SourcePiece piece;
      piece.placement = strided ? in_memory(placement, stored.shape, strides) : placement;
      piece.file = file;
      piece.base = base;
      piece.dtype = stored.dtype;
      piece.name = stored.name;
      made_.geometry.pieces.push_back(std::move(piece));
    }
    for (const auto& [label, id] : labels) {
      std::uint64_t at = 0;
      for (std::size_t d = 0; d < rank; ++d) {
        at += label / row_major_strides[d] % stored.shape[d] * strides[d];
      }
      made_.source[{file, base + at * width}] = id;
    }
    end = base + memory * width;
    if (one_in(5)) {  // two names for one memory
      const std::size_t count = stored.placements.size(), all = made_.geometry.pieces.size();
      for (std::size_t i = all - count; i < all; ++i) {
        const SourcePiece piece = made_.geometry.pieces[i];
        made_.geometry.pieces.push_back(piece);
      }
    }
  }

  void add_target(StoredTensor stored, const std::vector<std::pair<std::uint64_t, Id>>& labels,
                  std::uint64_t file_number) {
    Geometry& geometry = made_.geometry;
    const auto file = static_cast<std::uint32_t>(file_number % geometry.targets.size());
    TargetFile& target = geometry.targets[file];
    const std::uint64_t width = bytes(stored.dtype), size = elements(stored.shape) * width;
    const std::uint64_t base = (target.bytes + 7) / 8 * 8 + (one_in(3) ? 64 : 0);
    for (const auto& [label, id] : labels) made_.target[{file, base + label * width}] = id;
    target.tensors.push_back(static_cast<std::uint32_t>(geometry.tensors.size()));
    geometry.tensors.push_back({file, base, size, std::move(stored), 0, {}, 0});
    target.bytes = base + size;
  }

  void finish() {
    Geometry& geometry = made_.geometry;
    for (std::uint32_t f = 0; f < geometry.targets.size(); ++f) {
      geometry.targets[f].path = "target" + std::to_string(f);
      if (one_in(2)) geometry.targets[f].bytes += pick(1, 100);  // a trailer
    }
    geometry.complete();
    geometry.tile_bytes = std::uint64_t{8} << random_() % 6;
  }

  Random& random_;
  RandomGeometry made_;
  int names_ = 0;
};

}  // namespace reshard::test
