#include "formats/dialect/rows.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

constexpr std::string_view layer_mark = "{l}";

std::string with_layer(const std::string& role, std::optional<std::uint64_t> layer) {
  const std::size_t at = role.find(layer_mark);
  if (at == std::string::npos) return role;
  if (!layer) throw Error(Kind::internal, "role " + role + " needs a layer");
  return role.substr(0, at) + std::to_string(*layer) + role.substr(at + layer_mark.size());
}

/// Rows [first, last) of the stored vocabulary, as rows `as` and on of a canonical tensor.
std::optional<Piece> vocabulary_part(const Piece& piece, std::uint64_t first, std::uint64_t last,
                                     std::uint64_t as) {
  Piece part = piece;
  for (FactorSpan& span : part.spans) {
    if (span.factor != "vocab") continue;
    const std::uint64_t from = std::max(span.first, first);
    const std::uint64_t to = std::min(span.first + span.extent, last);
    if (from >= to) return std::nullopt;
    part.offset += (from - span.first) * span.stride;
    span.first = as + from - first;
    span.extent = to - from;
    return part;
  }
  return std::nullopt;
}

}  // namespace

Rows::Rows(std::vector<families::Row> rows, Json names, const CanonicalModel& model,
           bool repeat_last)
    : rows_(std::move(rows)), names_(std::move(names)), model_(&model), repeat_last_(repeat_last) {
  for (const families::Row& row : rows_) {
    layouts_.emplace_back(row.layout);
    views_.push_back(row.view.empty() ? std::nullopt : std::optional(Layout(row.view)));
  }
  for (const auto& [whole, parts] : families::roles().products) {
    products_.push_back({whole, parts.first, parts.second});
  }
}

bool Rows::is_layered(std::size_t row) const {
  return std::any_of(rows_[row].parts.begin(), rows_[row].parts.end(), [](const auto& part) {
    return part.second.find(layer_mark) != std::string::npos;
  });
}

bool Rows::has_roles(std::size_t row, std::optional<std::uint64_t> layer) const {
  return std::all_of(rows_[row].parts.begin(), rows_[row].parts.end(), [&](const auto& part) {
    return model_->find(with_layer(part.second, layer)) != CanonicalModel::none;
  });
}

bool Rows::holds(std::size_t row, std::optional<std::uint64_t> layer) const {
  if (!rows_[row].when) return true;
  const families::Names names(names_);
  const Json l = layer ? Json(*layer) : Json();
  return rows_[row].when->holds(families::Names("l", l, &names));
}

std::uint64_t Rows::size(const families::Row& row, std::string_view factor) const {
  std::string_view name = factor;
  for (const auto& [padded, stored] : row.pad) {
    if (padded == factor) name = stored;
  }
  const auto at = names_.find(name);
  if (at == names_.end() || !at->is_number_integer() || at->get<std::int64_t>() < 0) {
    throw Error(Kind::input,
                row.name + ": no size for the factor " + std::string(factor) + " of its layout");
  }
  return at->get<std::uint64_t>();
}

FactorBlock Rows::block(const families::Row& row, std::string_view factor, std::uint64_t rank,
                        std::uint64_t ranks) const {
  const std::uint64_t whole = size(row, factor);
  if (whole % ranks != 0) {
    throw Error(Kind::input, row.name + ": " + std::string(factor) + " " + std::to_string(whole) +
                                 (factor == "groups" ? " (heads with keys of their own)" : "") +
                                 " does not divide by " + std::to_string(ranks) + " ranks");
  }
  return {rank * whole / ranks, (rank + 1) * whole / ranks};
}

Lowered Rows::lowered(std::size_t number) const {
  const families::Row& row = rows_[number];
  return layouts_[number].lower([&](std::string_view factor) { return size(row, factor); });
}

StoredTensor Rows::stored(std::size_t number, std::string name, Indices indices,
                          const Blocks& blocks) const {
  const families::Row& row = rows_[number];
  const FactorSizes sizes = [&](std::string_view factor) { return size(row, factor); };
  return with_context(name, [&] {
    Blocks fixed;
    if (indices.expert) fixed["experts"] = {*indices.expert, *indices.expert + 1};
    const Lowered lowered = layouts_[number].lower(sizes, blocks);
    StoredTensor tensor;
    tensor.name = name;
    tensor.shape = views_[number] ? views_[number]->lower(sizes, blocks).shape : lowered.shape;
    tensor.optional = row.optional;
    for (const Piece& piece : lowered.pieces) {
      const auto part =
          std::find_if(row.parts.begin(), row.parts.end(),
                       [&](const auto& candidate) { return candidate.first == piece.part; });
      if (part == row.parts.end()) {
        throw Error(Kind::input, "the layout's part '" + piece.part + "' has no role");
      }
      const std::string role = with_layer(part->second, indices.layer);
      const std::uint32_t index = model_->find(role);
      if (index == CanonicalModel::none) continue;
      tensor.parts.push_back(index);
      for (Placement& p : place(piece, index, (*model_)[index], fixed, products_, sizes)) {
        tensor.placements.push_back(p);
      }
      if (!row.pad.empty()) add_padding_rows(role, piece, sizes, tensor);
    }
    return tensor;
  });
}

void Rows::add_padding_rows(const std::string& role, const Piece& piece, const FactorSizes& sizes,
                            StoredTensor& tensor) const {
  const std::uint32_t index = model_->find(role), padding = model_->find(padding_role(role));
  const bool padded = padding != CanonicalModel::none;
  const std::uint64_t vocab = (*model_)[index].shape[0];
  const std::uint64_t known = vocab + (padded ? (*model_)[padding].shape[0] : 0);
  const auto put = [&](const std::optional<Piece>& part, std::uint32_t to) {
    if (!part) return;
    for (Placement& p : place(*part, to, (*model_)[to], {}, products_, sizes)) {
      tensor.placements.push_back(p);
    }
  };
  if (padded) put(vocabulary_part(piece, vocab, known, 0), padding);
  if (!repeat_last_) return;
  const std::uint32_t last = padded ? padding : index;
  const std::uint64_t last_row = (*model_)[last].shape[0] - 1;
  for (const FactorSpan& span : piece.spans) {
    if (span.factor != "vocab") continue;
    for (std::uint64_t v = std::max(known, span.first); v < span.first + span.extent; ++v) {
      const std::size_t before = tensor.placements.size();
      put(vocabulary_part(piece, v, v + 1, last_row), last);
      tensor.repeats += tensor.placements.size() - before;
    }
  }
}

std::string padding_role(std::string_view role) {
  const std::size_t dot = role.rfind('.');
  return std::string(role.substr(0, dot)) + ".padding" + std::string(role.substr(dot));
}

void add_padding(CanonicalModel& model, std::uint64_t vocab, std::uint64_t padded_vocab) {
  if (padded_vocab <= vocab) return;
  for (const char* role : {"embedding.weight", "head.weight"}) {
    const std::uint32_t index = model.find(role);
    if (index == CanonicalModel::none) continue;
    CanonicalTensor padding = model[index];
    padding.role = padding_role(role);
    padding.shape[0] = padded_vocab - vocab;
    model.add(std::move(padding));
  }
}

std::uint64_t parameter_count(const CanonicalModel& model) {
  std::uint64_t count = 0;
  for (const CanonicalTensor& tensor : model.tensors()) {
    if (!is_padding(tensor.role)) count += elements(tensor.shape);
  }
  return count;
}

std::vector<std::string> uncovered_roles(const CanonicalModel& model,
                                         const std::vector<bool>& covered) {
  std::vector<std::string> roles;
  for (std::size_t t = 0; t < covered.size(); ++t) {
    const std::string& role = model.tensors()[t].role;
    if (!covered[t] && !is_padding(role)) roles.push_back(role);
  }
  return roles;
}

}  // namespace reshard::formats
