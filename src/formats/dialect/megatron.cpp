#include "formats/dialect/megatron.hpp"

#include <algorithm>
#include <charconv>

#include "families/pattern.hpp"

namespace reshard::formats {
namespace {

Json names_of(const families::DialectTable& table, const families::Record& record,
              const Json& choices, const Parallelism& parallelism, std::uint64_t padded_vocab) {
  Json names = record;
  names.update(table.complete_choices(choices));
  names["tp"] = parallelism.tp;
  names["pp"] = parallelism.pp;
  names["padded_vocab"] = padded_vocab;
  return names;
}

/// Name pattern with the local layer and local expert put in.
std::string put(std::string name, std::string_view mark, std::uint64_t value) {
  const std::size_t at = name.find(mark);
  if (at != std::string::npos) name.replace(at, mark.size(), std::to_string(value));
  return name;
}

/// Makes the stored tensors of one row, chunk and rank.
class ShardMaker {
 public:
  ShardMaker(const MegatronRows& megatron, const Parallelism& parallelism, const FileRank& rank)
      : megatron_(megatron), parallelism_(parallelism), rank_(rank) {}

  void add(std::size_t number, const std::string& prefix, std::optional<std::uint64_t> layer,
           std::uint64_t local_layer, std::vector<StoredTensor>& tensors) const {
    const families::Row& row = megatron_.rows.rows()[number];
    Blocks blocks;
    if (!row.split.empty()) {
      blocks[row.split] = megatron_.rows.block(row, row.split, rank_.tp, parallelism_.tp);
    }
    if (!row.expert_split.empty()) {
      blocks[row.expert_split] =
          megatron_.rows.block(row, row.expert_split, rank_.etp, parallelism_.etp);
    }
    const std::string name = prefix + put(row.name, "{L}", local_layer);
    if (row.expert_split.empty()) {
      tensors.push_back(megatron_.rows.stored(number, name, {layer, std::nullopt}, blocks));
      return;
    }
    const FactorBlock experts = megatron_.rows.block(row, "experts", rank_.ep, parallelism_.ep);
    if (row.name.find("{E}") == std::string::npos) {
      blocks["experts"] = experts;
      tensors.push_back(megatron_.rows.stored(number, name, {layer, std::nullopt}, blocks));
      return;
    }
    for (std::uint64_t e = experts.first; e < experts.last; ++e) {
      tensors.push_back(
          megatron_.rows.stored(number, put(name, "{E}", e - experts.first), {layer, e}, blocks));
    }
  }

 private:
  const MegatronRows& megatron_;
  const Parallelism& parallelism_;
  const FileRank& rank_;
};

}  // namespace

MegatronRows::MegatronRows(std::string_view table_name, const families::Record& record,
                           const Json& choices, const Parallelism& parallelism,
                           std::uint64_t padded_vocab, const CanonicalModel& model,
                           bool repeat_last)
    : table(families::load_dialect(table_name)),
      rows(table.rows, names_of(table, record, choices, parallelism, padded_vocab), model,
           repeat_last) {}

void note_use(const MegatronRows& megatron, StoredTensor& tensor, TableUse& use) {
  const families::Names names(megatron.rows.names());
  bool all_fit = megatron.table.add.has_value() && !tensor.placements.empty();
  for (const Placement& placement : tensor.placements) {
    use.covered[placement.tensor] = true;
    all_fit = all_fit &&
              families::matches(megatron.table.add->roles, megatron.rows.role(placement.tensor));
  }
  if (all_fit) tensor.add = megatron.table.add->value.evaluate(names).get<double>();
}

std::string TableUse::warning() const {
  std::string names;
  for (const std::string& name : unseen) names += (names.empty() ? "" : ", ") + name;
  if (names.empty()) return "";
  return "known from Megatron's code, not yet from a file that it wrote: " + names;
}

Shard megatron_shard(const MegatronRows& megatron, const Parallelism& parallelism,
                     const FileRank& rank, TableUse& use) {
  const Rows& rows = megatron.rows;
  const families::Names names(rows.names());
  const ShardMaker maker(megatron, parallelism, rank);
  Shard shard{megatron_path(parallelism, rank), {}};
  const std::size_t chunks = parallelism.chunks.size();
  for (std::size_t c = rank.pp; c < chunks; c += parallelism.pp) {
    const LayerRange& layers = parallelism.chunks[c];
    const std::string prefix =
        parallelism.vpp > 1 ? "model" + std::to_string(c / parallelism.pp) + "." : "model.";
    const auto add_layer = [&](std::uint64_t l) {
      for (std::size_t i = 0; i < rows.rows().size(); ++i) {
        if (rows.is_layered(i) && rows.has_roles(i, l) && rows.holds(i, l)) {
          maker.add(i, prefix, l, l - layers.first, shard.tensors);
          if (!rows.rows()[i].seen) use.unseen.insert(rows.rows()[i].name);
        }
      }
    };
    bool layers_done = false;  // rows are in the model's order; a layer's rows stay together
    for (std::size_t i = 0; i < rows.rows().size(); ++i) {
      if (rows.is_layered(i)) {
        for (std::uint64_t n = 0; n < layers.count && !layers_done; ++n) {
          add_layer(layers.first + n);
        }
        layers_done = true;
        continue;
      }
      const families::Row& row = rows.rows()[i];
      if (!rows.has_roles(i, std::nullopt) || !rows.holds(i, std::nullopt)) continue;
      const std::string& role = row.at.empty() ? row.parts.front().second : row.at;
      const bool first = megatron.table.place_of(role, names) == "first";
      if (c != (first ? 0 : chunks - 1)) continue;
      maker.add(i, prefix, std::nullopt, 0, shard.tensors);
      if (!row.seen) use.unseen.insert(row.name);
    }
  }
  for (StoredTensor& tensor : shard.tensors) note_use(megatron, tensor, use);
  return shard;
}

std::optional<std::uint64_t> whole_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> rank_number(std::string_view text) {
  constexpr std::uint64_t most = 999'999;
  const std::optional<std::uint64_t> number = whole_number(text);
  return number && *number <= most ? number : std::nullopt;
}

std::string iteration_folder(std::uint64_t iteration) {
  const std::string digits = std::to_string(iteration);
  return "iter_" + std::string(digits.size() < 7 ? 7 - digits.size() : 0, '0') + digits;
}

std::string megatron_path(const Parallelism& parallelism, const FileRank& rank) {
  const auto digits = [](std::uint64_t value, std::size_t width) {
    const std::string text = std::to_string(value);
    return std::string(width > text.size() ? width - text.size() : 0, '0') + text;
  };
  std::string folder = "mp_rank_" + digits(rank.tp, 2);
  if (parallelism.pp > 1) folder += "_" + digits(rank.pp, 3);
  if (parallelism.ep > 1) folder += "_" + digits(rank.ep, 3);
  return folder + "/model_optim_rng.pt";
}

}  // namespace reshard::formats
