#include <algorithm>
#include <map>
#include <set>

#include "core/error.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/megatron.hpp"
#include "formats/dialect/merak.hpp"

// The writing half of the dialect: what Merak's own loaders take (merak.md sections 8, 11, 16).

namespace reshard::formats {
namespace {

/// Modules in order with what each holds: "0: wte; 1: wpe; 2..7: blocks 0..5; ...".
std::string describe_modules(const MerakRows& rows, const MerakPlan& plan) {
  std::map<std::uint64_t, std::set<std::string>> content;
  for (const MerakTensor& tensor : rows.tensors()) {
    if (rows.is_copy(tensor)) continue;
    std::string what;
    if (tensor.layer) {
      what = "block " + std::to_string(*tensor.layer);
      if (plan.choices.at("modules") == "half_blocks") {
        const std::string name = rows.hugging_face_name(tensor);
        const bool mlp =
            name.find(".mlp.") != std::string::npos || name.find(".ln_2.") != std::string::npos;
        what += mlp ? " (MLP)" : " (attention)";
      }
    } else {
      what = rows.hugging_face_name(tensor);
      what.erase(what.rfind('.'));
    }
    content[rows.module_of(tensor)].insert(what);
  }
  // Consecutive modules of one block each stand together: "2..13: blocks 0..11".
  std::string text;
  for (auto at = content.begin(); at != content.end();) {
    auto last = at;
    const auto is_block = [](const auto& each) {
      return each->second.size() == 1 && each->second.begin()->starts_with("block ") &&
             each->second.begin()->back() != ')';
    };
    while (is_block(at) && std::next(last) != content.end() && is_block(std::next(last))) ++last;
    text += (text.empty() ? "" : "; ") + std::to_string(at->first);
    if (last != at) {
      const std::string to = last->second.begin()->substr(std::string_view("block ").size());
      text += ".." + std::to_string(last->first) + ": " + *at->second.begin() + ".." + to;
    } else {
      text += ":";
      for (const std::string& part : at->second) text += " " + part;
    }
    at = std::next(last);
  }
  return text;
}

std::string padded_number(std::uint64_t value, std::size_t width) {
  const std::string digits = std::to_string(value);
  return std::string(width > digits.size() ? width - digits.size() : 0, '0') + digits;
}

std::string path_of(const MerakPlan& plan, std::uint64_t tp, std::uint64_t stage) {
  if (plan.tp == 1 && plan.pp == 1) return "model_optim.pt";
  std::string folder = "mp_rank_" + padded_number(tp, 2);
  if (plan.pp > 1) folder += "_pp_rank_" + padded_number(stage, 3);
  return folder + "/partial_model_optim.pt";
}

/// A buffer of GPT-2's attention that the traced model of era 1 holds.
StoredTensor buffer(std::string name, Shape shape, Dtype dtype, Constant constant) {
  StoredTensor tensor;
  tensor.name = std::move(name);
  tensor.shape = std::move(shape);
  tensor.dtype = dtype;
  tensor.constant = constant;
  return tensor;
}

/// Adds what stands before a block's c_attn (masks of the converter tool) or its first norm and
/// before the positions (constants of the traced graph, torch 1.12 and later).
void add_buffers(const MerakPlan& plan, const families::Record& record, const MerakTensor& tensor,
                 const std::string& name, std::vector<StoredTensor>& tensors) {
  if (plan.buffers == "none") return;
  const std::size_t at = name.find("transformer.");
  const std::string module = name.substr(0, at);
  const bool traced = plan.buffers == "traced";
  const std::uint64_t p =
      traced ? plan.traced_positions : record.at("positions").get<std::uint64_t>();
  if (traced && name.ends_with("wpe.weight")) {
    tensors.push_back(
        buffer(module + "_tensor_constant0", {1, p}, Dtype::i64, Constant::positions));
  }
  if (traced && name.ends_with(".ln_1.weight")) {
    tensors.push_back(buffer(module + "_tensor_constant" + std::to_string(1 + *tensor.layer),
                             {1, 1, p, p}, Dtype::boolean, Constant::causal_mask));
  }
  const std::size_t attention = name.find("attn.c_attn.");
  if (attention == std::string::npos || !name.ends_with(".weight")) return;
  const std::string prefix = name.substr(0, attention) + "attn.";
  if (!traced) {
    tensors.push_back(buffer(prefix + "bias", {1, 1, p, p}, Dtype::u8, Constant::causal_mask));
  }
  const bool half = record.at("dtype") == "float16";
  tensors.push_back(
      buffer(prefix + "masked_bias", {}, half ? Dtype::f16 : Dtype::f32, Constant::masked_score));
}

/// The tensors of one file in the model's order: tied copies, then module by module.
struct Placed {
  std::uint64_t stage = 0, module = 0;
  MerakTensor tensor;
};

std::vector<Placed> placed_tensors(const MerakRows& rows,
                                   const std::vector<std::uint64_t>& bounds) {
  std::vector<Placed> all;
  for (const MerakTensor& tensor : rows.tensors()) {
    const std::uint64_t module = rows.module_of(tensor);
    const auto after = std::upper_bound(bounds.begin(), bounds.end(), module);
    all.push_back({static_cast<std::uint64_t>(after - bounds.begin()) - 1, module, tensor});
  }
  std::stable_sort(all.begin(), all.end(), [&](const Placed& a, const Placed& b) {
    const std::uint64_t first = rows.is_copy(a.tensor) ? 0 : a.module + 1;
    return first < (rows.is_copy(b.tensor) ? 0 : b.module + 1);
  });
  return all;
}

/// What the file of one rank holds; `covered` is added to.
std::vector<StoredTensor> tensors_of(const MerakPlan& plan, const MerakRows& rows,
                                     const std::vector<Placed>& placed, std::uint64_t tp,
                                     std::uint64_t stage, const families::Record& record,
                                     std::vector<bool>& covered) {
  std::vector<StoredTensor> tensors;
  std::set<std::string> names;
  for (const Placed& each : placed) {
    if (each.stage != stage) continue;
    StoredTensor stored = rows.stored(each.tensor, std::to_string(each.module), tp);
    if (!names.insert(stored.name).second) continue;  // both tied copies of a single stage
    stored.optional = false;
    for (const Placement& placement : stored.placements) covered[placement.tensor] = true;
    add_buffers(plan, record, each.tensor, stored.name, tensors);
    tensors.push_back(std::move(stored));
  }
  return tensors;
}

Json tree_of(const MerakPlan& plan, const std::vector<StoredTensor>& tensors,
             std::optional<std::uint64_t> iteration) {
  Json model = Json::object();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    model[tensors[i].name] = {{"!", "tensor"}, {"index", i}};
  }
  if (plan.flat) return model;
  Json tree = {{"model", std::move(model)}, {"checkpoint_version", 3.0}};
  if (iteration) tree["iteration"] = *iteration;
  return tree;
}

std::string joined(const std::vector<std::uint64_t>& numbers) {
  std::string text;
  for (const std::uint64_t n : numbers) text += (text.empty() ? "" : ",") + std::to_string(n);
  return text;
}

/// The flags that a run needs to load the files.
std::string flags_of(const MerakPlan& plan, const std::vector<std::uint64_t>& bounds) {
  std::string flags;
  if (plan.era == 2) flags += " --split_method layer_split";
  if (plan.pp > 1) flags += " --partition_method custom --custom_partition " + joined(bounds);
  if (plan.choices.at("parallel_vocab") == true) flags += " --parallel_vocab true";
  const bool copies = plan.choices.at("tie_modules") == true;
  if (plan.era == 1 && plan.tied && !copies) flags += " --no_tie_modules true";
  return flags.empty() ? flags : flags.substr(1);
}

void add_notes(const MerakPlan& plan, const std::string& modules, std::uint64_t count,
               const std::vector<std::uint64_t>& bounds, const std::string& flags,
               std::uint64_t vocab, std::vector<std::string>& notes) {
  if (plan.pp > 1) {
    std::string stages;
    for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
      stages += (s == 0 ? "stage " : ", stage ") + std::to_string(s) + " modules " +
                std::to_string(bounds[s]) + ".." + std::to_string(bounds[s + 1] - 1);
    }
    notes.push_back(stages + " of " + std::to_string(count) + " (" + modules + ")");
  }
  if (!flags.empty()) notes.push_back("the run needs " + flags);
  if (plan.rows != vocab) {
    notes.push_back("the vocabulary is padded to " + std::to_string(plan.rows) +
                    " rows: the model's config must say vocab_size " + std::to_string(plan.rows));
  }
  if (plan.buffers == "masks") {
    notes.push_back(
        "causal masks lie as attn.bias, as Merak's converter writes them; "
        "--merak-buffers traced for runs whose torch traces them as _tensor_constant");
  }
}

/// Folder, tracker and its text: a release, unless the user names an iteration.
std::optional<std::uint64_t> settle_unit(const Source& source, const MerakPlan& plan,
                                         const TargetOptions& options, Target& target) {
  std::optional<std::uint64_t> iteration = options.iteration;
  if (options.for_release || iteration == std::uint64_t{0}) iteration.reset();
  if (options.for_release) {
    Json none = Json::object();  // Merak's runs keep their counters elsewhere
    target.notes.push_back(reset_counters(source, none));
  }
  target.tracker = "latest_checkpointed_iteration.txt";
  target.tracker_content = iteration ? std::to_string(*iteration) : "release";
  const bool all_dp = plan.era == 1 && plan.tp == 1 && plan.pp == 1;
  target.unit = all_dp      ? iteration_folder(iteration.value_or(0)) + "_all_dp"
                : iteration ? iteration_folder(*iteration)
                            : "release";
  if (iteration) {
    target.notes.push_back(
        "no optimizer and random states are written: a run that goes on from "
        "iteration " +
        std::to_string(*iteration) + " needs --no_load_optim true --no_load_rng true");
  }
  return iteration;
}

/// Borders of stages over the modules, and the flags by which a run finds them.
struct Stages {
  std::uint64_t modules = 0;
  std::vector<std::uint64_t> bounds;
  std::string flags;
};

Stages settle_stages(const MerakPlan& plan, const TargetOptions& options, const MerakRows& rows,
                     std::uint64_t vocab, std::vector<std::string>& notes) {
  Stages stages;
  for (const MerakTensor& tensor : rows.tensors()) {
    stages.modules = std::max(stages.modules, rows.module_of(tensor) + 1);
  }
  const std::string text = describe_modules(rows, plan);
  stages.bounds = merak_bounds(stages.modules, plan.pp, plan.era, options.partition_method,
                               options.custom_partition, text);
  stages.flags = flags_of(plan, stages.bounds);
  add_notes(plan, text, stages.modules, stages.bounds, stages.flags, vocab, notes);
  return stages;
}

/// Layers of each stage, a layer that is cut counted where it begins.
std::vector<LayerRange> chunks_of(const std::vector<Placed>& placed, std::uint64_t pp) {
  std::vector<std::uint64_t> layers(pp, 0);
  std::set<std::uint64_t> counted;
  for (const Placed& each : placed) {
    const bool first = each.tensor.layer && counted.insert(*each.tensor.layer).second;
    if (first) ++layers[each.stage];
  }
  return chunks_of_counts(layers);
}

/// The files of our own: config.json and companions for the way back, what the run must be told.
void add_own_files(const Source& source, const families::Record& record, const MerakPlan& plan,
                   const Stages& stages, Target& target) {
  families::Record told = source.config_record;
  told["dtype"] = record.at("dtype");
  const std::string folder = std::string(hf_config_folder) + "/";
  target.files.push_back(
      plain_file(folder + "config.json", config_of(source, told).dump(2) + "\n"));
  for (FileDescription& file : companion_files(source.companions, folder)) {
    target.files.push_back(std::move(file));
  }
  const Json run = {{"format", "merak"},
                    {"era", plan.flat ? Json("1-flat") : Json(plan.era)},
                    {"tp", plan.tp},
                    {"pp", plan.pp},
                    {"modules", stages.modules},
                    {"partition", stages.bounds},
                    {"vocab_rows", plan.rows},
                    {"flags", stages.flags}};
  target.files.push_back(plain_file(std::string(run_file), run.dump(2) + "\n"));
}

}  // namespace

Target Merak::describe(const Source& source, const TargetOptions& options,
                       Problems& problems) const {
  Target target;
  const MerakPlan plan = merak_plan(source, options, target.notes);
  const families::Record record = target_record(source, options.dtype);
  const MerakRows rows(source.family, record, plan.choices, plan.tp, plan.rows, source.model,
                       options.vocab_fill != VocabFill::zero);
  const Stages stages =
      settle_stages(plan, options, rows, record.at("vocab").get<std::uint64_t>(), target.notes);
  const std::optional<std::uint64_t> iteration = settle_unit(source, plan, options, target);
  const std::vector<Placed> placed = placed_tensors(rows, stages.bounds);
  target.parallelism.tp = target.parallelism.etp = plan.tp;
  target.parallelism.pp = plan.pp;
  target.parallelism.chunks = chunks_of(placed, plan.pp);

  std::vector<bool> covered(source.model.tensors().size(), false);
  for (std::uint64_t file = 0; file < plan.tp * plan.pp; ++file) {
    problems.collect([&] {
      const std::uint64_t tp = file / plan.pp, stage = file % plan.pp;
      FileDescription made;
      made.path = path_of(plan, tp, stage);
      made.container = FileDescription::Container::torch;
      made.tensors = tensors_of(plan, rows, placed, tp, stage, record, covered);
      for (StoredTensor& tensor : made.tensors) {
        if (tensor.constant != Constant::none) continue;
        tensor.dtype = target_dtype(tensor, source, options.dtype);
      }
      made.value = tree_of(plan, made.tensors, iteration);
      target.files.push_back(std::move(made));
    });
  }
  if (!problems.empty()) return target;  // tensors without a file would lack a place, too
  for (const std::string& role : uncovered_roles(source.model, covered)) {
    problems.add(role + ": Merak's format has no tensor for it");
  }
  problems.collect([&] { add_own_files(source, record, plan, stages, target); });
  return target;
}

}  // namespace reshard::formats
