#include "formats/dialect/megds.hpp"

#include "families/pattern.hpp"

// What the files of Megatron-DeepSpeed store, for reading and writing.

namespace reshard::formats {
namespace {

Json names_of(const families::DialectTable& table, const families::Record& record,
              const Json& choices, std::uint64_t tp, std::uint64_t padded_vocab) {
  Json names = record;
  names.update(table.complete_choices(choices));
  names["tp"] = tp;
  names["padded_vocab"] = padded_vocab;
  return names;
}

/// A row's name in the layout without pipeline (deepspeed.md section 3.6).
std::string whole_name(const LayerFile& file, const std::string& name) {
  const std::string root = "language_model.";
  switch (file.kind) {
    case LayerKind::embedding:
      return root + "embedding." + name;
    case LayerKind::layer:
      return root + "encoder.layers." + std::to_string(file.layer) + "." + name;
    case LayerKind::final_norm:
      return root + "encoder.final_layernorm." + name;
    case LayerKind::head:
      break;
  }
  return root + "output_layer." + name.substr(name.rfind('.') + 1);
}

/// Marks what the tensor covers and gives it the constant of zero-centred norms.
void settle(const MegdsRows& megds, TableUse& use, StoredTensor& tensor) {
  const auto& add = megds.table.add;
  bool all_fit = add.has_value() && !tensor.placements.empty();
  for (const Placement& placement : tensor.placements) {
    use.covered[placement.tensor] = true;
    all_fit = all_fit && families::matches(add->roles, megds.rows.role(placement.tensor));
  }
  if (all_fit) tensor.add = add->value.evaluate(families::Names(megds.rows.names())).get<double>();
}

}  // namespace

LayerKind kind_of_role(std::string_view role) {
  if (role.starts_with("layers.")) return LayerKind::layer;
  if (role.starts_with("final_norm.")) return LayerKind::final_norm;
  return role.starts_with("head.") ? LayerKind::head : LayerKind::embedding;
}

MegdsRows::MegdsRows(const families::Record& record, const Json& choices, std::uint64_t tp,
                     std::uint64_t padded_vocab, const CanonicalModel& model, bool repeat_last)
    : table(families::load_dialect("megatron_deepspeed")),
      rows(table.rows, names_of(table, record, choices, tp, padded_vocab), model, repeat_last) {}

void add_megds_tensors(const MegdsRows& megds, const LayerFile& file, std::uint64_t rank,
                       std::uint64_t tp, bool whole, TableUse& use,
                       std::vector<StoredTensor>& tensors) {
  const Rows& rows = megds.rows;
  const std::optional<std::uint64_t> layer =
      file.kind == LayerKind::layer ? std::optional(file.layer) : std::nullopt;
  for (std::size_t i = 0; i < rows.rows().size(); ++i) {
    const families::Row& row = rows.rows()[i];
    if (kind_of_role(row.parts.front().second) != file.kind) continue;
    if (!rows.has_roles(i, layer) || !rows.holds(i, layer)) continue;
    const std::string name = whole ? whole_name(file, row.name) : row.name;
    Blocks blocks;
    if (!row.split.empty()) blocks[row.split] = rows.block(row, row.split, rank, tp);
    StoredTensor tensor = rows.stored(i, name, {layer, std::nullopt}, blocks);
    settle(megds, use, tensor);
    if (!row.seen) use.unseen.insert(row.name);
    tensors.push_back(std::move(tensor));
  }
}

std::string two_digits(std::uint64_t number) {
  return (number < 10 ? "0" : "") + std::to_string(number);
}

std::vector<LayerRange> deepspeed_stages(std::uint64_t layers, std::uint64_t pp) {
  std::vector<std::uint64_t> counts(pp, layers / pp);
  for (std::uint64_t p = 0; p < layers % pp; ++p) ++counts[p];
  return chunks_of_counts(counts);
}

}  // namespace reshard::formats
