#include <algorithm>
#include <array>

#include "core/error.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/megatron_target.hpp"

// The writing half of the dialect: what Megatron would save, so that its own loader takes it
// (megatron.md section 7).

namespace reshard::formats {
namespace {

/// What the code of Megatron's legacy models leaves out, whatever args say (its language_model.py
/// and transformer.py): a window of attention, and of rotary positions all but their share and a
/// linear factor. A source of that form was computed by code that we do not know.
void check_legacy(const Source& source, const families::Record& record, Problems& problems) {
  if (source.found.dialect == "megatron" && source.choices.at("legacy_names") == true) return;
  const auto refuse = [&](const char* name, bool fits) {
    if (fits) return;
    problems.add(std::string(name) + " " + record.at(name).dump() +
                 ": Megatron's legacy models do not compute it: wanted --megatron-names mcore");
  };
  refuse("window", record.at("window").is_null());
  if (record.at("position") != "rope") return;
  refuse("rope_base", record.at("rope_base") == 10000.0);
  refuse("rope_scaling",
         record.at("rope_scaling").is_null() || record.at("rope_scaling") == "linear");
}

/// The lowest global rank that holds the parts of a file, in Megatron's order of ranks
/// (megatron.md section 1.3).
std::uint64_t global_rank(const Parallelism& p, const FileRank& file) {
  std::uint64_t inner = file.tp;
  while (inner % p.etp != file.etp || inner / p.etp % p.ep != file.ep) inner += p.tp;
  return file.pp * ranks_of_stage(p) + inner;
}

/// Puts a leaf at a dotted name whose first levels are dicts, as `nested` lists them outermost
/// first.
void put_leaf(Json& model, const std::vector<std::string>& nested, const std::string& name,
              const Json& leaf) {
  Json* at = &model;
  std::size_t begin = 0;
  for (const std::string& level : nested) {
    if (!name.starts_with(level + ".")) continue;
    at = &(*at)[level.substr(begin)];
    begin = level.size() + 1;
  }
  (*at)[name.substr(begin)] = leaf;
}

/// The tree of one file; tensor leaves name their index, stages without tensors have their dicts.
Json tree_of(const std::vector<StoredTensor>& tensors, const families::DialectTable& table,
             const Source& source, const TargetRun& run, std::uint64_t vpp) {
  Json tree = common_state(source, run);
  for (std::uint64_t v = 0; v < vpp; ++v) {
    tree[vpp > 1 ? "model" + std::to_string(v) : "model"] = Json::object();
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::size_t dot = tensors[i].name.find('.');
    Json& model = tree[tensors[i].name.substr(0, dot)];
    const std::string inner = tensors[i].name.substr(dot + 1);
    put_leaf(model, table.nested, inner, {{"!", "tensor"}, {"index", i}});
    const std::string layer(linear_layer(inner));
    if (!layer.empty()) put_leaf(model, table.nested, layer + "._extra_state", nullptr);
  }
  return tree;
}

}  // namespace

std::string_view linear_layer(std::string_view name) {
  constexpr std::array layers = {"linear_qkv",       "linear_proj",         "linear_fc1",
                                 "linear_fc2",       "linear_q_proj",       "linear_q_down_proj",
                                 "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj",
                                 "output_layer",     "query_key_value",     "dense",
                                 "dense_h_to_4h",    "dense_4h_to_h"};
  const std::size_t end = name.rfind(".weight");
  if (end == std::string_view::npos) return {};
  const std::string_view layer = name.substr(0, end);
  const std::string_view last = layer.substr(layer.rfind('.') + 1);  // npos + 1 is 0
  const bool linear = std::find(layers.begin(), layers.end(), last) != layers.end();
  return linear ? layer : std::string_view{};
}

Target Megatron::describe(const Source& source, const TargetOptions& options,
                          Problems& problems) const {
  Target target;
  TargetRun run = plan_run(source, options, "torch", problems, target);
  const Parallelism& p = target.parallelism;
  const bool legacy = options.megatron_names == "legacy";
  if (legacy) check_legacy(source, run.record, problems);
  const std::string_view names = legacy ? "megatron_legacy" : "megatron_mcore";
  const MegatronRows rows(names, run.record,
                          known_choices(families::load_dialect(names), run.choices), p,
                          run.padded_vocab, source.model, options.vocab_fill == VocabFill::last);
  TableUse use{std::vector<bool>(source.model.tensors().size(), false), {}};
  const std::uint64_t world = p.pp * ranks_of_stage(p);
  const std::size_t before = problems.texts().size();
  for (const FileRank& rank : file_grid(p, world)) {
    problems.collect([&] {
      FileDescription file;
      Shard shard = megatron_shard(rows, p, rank, use);
      file.path = shard.path;
      file.container = FileDescription::Container::torch;
      file.tensors = std::move(shard.tensors);
      for (StoredTensor& tensor : file.tensors) {
        tensor.dtype = target_dtype(tensor, source, options.dtype);
      }
      if (run.args.is_object()) run.args["rank"] = global_rank(p, rank);
      file.value = tree_of(file.tensors, rows.table, source, run, p.vpp);
      target.files.push_back(std::move(file));
    });
  }
  if (const std::string text = use.warning(); !text.empty()) target.warnings.push_back(text);
  if (problems.texts().size() == before) {  // a file without description leaves roles uncovered
    for (const std::string& role : uncovered_roles(source.model, use.covered)) {
      problems.add(role + ": Megatron's format has no tensor for it");
    }
  }
  finish_target(source, run, target);
  return target;
}

}  // namespace reshard::formats
