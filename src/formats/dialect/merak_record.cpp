#include <algorithm>
#include <set>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "families/record.hpp"
#include "families/table.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/dialect/merak.hpp"

// What Merak's files tell of the model: sizes in args and shapes; all else only a config.json does.

namespace reshard::formats {
namespace {

/// The plain value of a line of the arguments' table: its first key that is there, else the first
/// case that holds, else its default.
Json value_of(const families::Line& line, const Json& args) {
  for (const std::string& key : line.keys) {
    const Json value = args.value(key, Json());
    if (!value.is_null()) return line.translate(value);
  }
  const families::Names names("args", args, nullptr);
  for (const families::Definition& each : line.cases) {
    if (each.when->holds(names)) return each.evaluate(names);
  }
  const bool none = line.definition.kind == families::Definition::Kind::none;
  return none ? Json() : line.definition.evaluate(names);
}

/// Which of the table's kinds the args are; empty for none.
std::string kind_of(const Json& table, const Json& args) {
  if (!args.is_object()) return {};
  const families::Names names("args", args, nullptr);
  for (const Json& kind : table.at("kinds")) {
    if (families::Expression(kind.at("when").get<std::string>()).holds(names)) {
      return kind.at("kind").get<std::string>();
    }
  }
  return {};
}

/// Holds the sizes in a training run's args against the record.
void check_sizes(const Json& table, const Json& args, const families::Record& record,
                 Problems& problems) {
  for (const auto& [name, json] : table.at("checks").items()) {
    Json plain = json;
    for (const char* word : {"first", "bound"}) plain.erase(word);
    Json told = value_of(families::parse_line(name, plain), args);
    if (json.contains("first") && told.is_array()) told = told.empty() ? Json() : told.front();
    const Json known = record.value(name, Json());
    if (told.is_null() || known.is_null() || name == "dtype") continue;
    const bool fits = json.contains("bound") ? told <= known : told == known;
    if (!fits) {
      problems.add("args." + json.at("keys").front().get<std::string>() + " is " + told.dump() +
                   ", but the model's config.json says " + name + " " + known.dump());
    }
  }
  for (const auto& [name, allowed] : table.at("required").items()) {
    const Json value = args.value(name, Json());
    if (value.is_null() || std::find(allowed.begin(), allowed.end(), value) != allowed.end()) {
      continue;
    }
    problems.add("args." + name + " is " + families::shown(value) + ", which is not supported");
  }
}

/// The arguments that the table reads of a training run.
std::set<std::string> known_arguments(const Json& table) {
  std::set<std::string> names;
  const auto add = [&](const Json& object, const char* member) {
    if (!object.contains(member)) return;
    const families::Expression when(object.at(member).get<std::string>());
    for (const std::string& name : when.members_of("args")) names.insert(name);
  };
  for (const char* section : {"checks", "choices", "degrees"}) {
    for (const auto& [line, json] : table.at(section).items()) {
      if (json.contains("keys")) {
        for (const Json& key : json.at("keys")) names.insert(key.get<std::string>());
      }
      if (!json.contains("cases")) continue;
      for (const Json& each : json.at("cases")) add(each, "when");
    }
  }
  for (const Json& kind : table.at("kinds")) add(kind, "when");
  for (const auto& [name, allowed] : table.at("required").items()) names.insert(name);
  return names;
}

/// Arguments that no part of the table names.
std::vector<std::string> unknown_arguments(const Json& table, const Json& args) {
  const std::set<std::string> known = known_arguments(table);
  std::vector<std::string> patterns = families::texts(table.at("training").at("travel"), "travel");
  for (const auto& [reason, names] : table.at("unused").items()) {
    for (const std::string& name : families::texts(names, reason)) patterns.push_back(name);
  }
  std::vector<std::string> unknown;
  for (const auto& [name, value] : args.items()) {
    const std::string& seen = name;
    const auto fits = [&](const std::string& p) { return families::matches(p, seen); };
    if (known.count(seen) == 0 && std::none_of(patterns.begin(), patterns.end(), fits)) {
      unknown.push_back(seen);
    }
  }
  return unknown;
}

/// Stored tensors by Transformers' name, of all stages of tp rank 0.
class Shapes {
 public:
  Shapes(const std::vector<FileIndex>& indices, const MerakGrid& grid) : tp_(grid.tp) {
    for (const FileIndex& index : indices) {
      if (index.facts.at("rank")[0] != 0) continue;
      for (const TensorEntry& entry : index.tensors) {
        if (const auto name = merak_name(entry.name)) shapes_.emplace_back(name->rest, entry.shape);
      }
    }
  }

  /// One extent of the first tensor whose name ends so, times tp where its layer was split along
  /// its outputs; 0 if there is none.
  [[nodiscard]] std::uint64_t size(std::string_view pattern, std::size_t dimension) const {
    for (const auto& [name, shape] : shapes_) {
      if (!families::matches(pattern, name) || shape.size() <= dimension) continue;
      return shape[dimension] * (name.find(".col_linear.") != std::string::npos ? tp_ : 1);
    }
    return 0;
  }
  [[nodiscard]] bool has(std::string_view pattern) const { return size(pattern, 0) != 0; }
  [[nodiscard]] std::uint64_t layers(std::string_view mark) const {
    std::uint64_t count = 0;
    for (std::uint64_t l = 0; l < shapes_.size(); ++l) {
      if (has("*" + std::string(mark) + std::to_string(l) + ".*")) count = l + 1;
    }
    return count;
  }

 private:
  std::uint64_t tp_;
  std::vector<std::pair<std::string, Shape>> shapes_;
};

/// A config.json by shapes and what args tell of heads; its constants are not known.
Json config_by_shapes(const Shapes& shapes, const Json& args, const MerakGrid& grid) {
  const Json told = args.is_object() ? args : Json::object();
  const Json list = told.value("num_heads", Json());
  const Json heads =
      list.is_array() && !list.empty() ? list.front() : told.value("num_attention_heads", Json());
  const bool cut = args.is_object() ? args.value("parallel_vocab", Json(false)) == true : true;
  const bool tied = shapes.has("tied_modules.*");
  if (shapes.has("transformer.h.0.*")) {
    const bool parallel = shapes.has("*.c_fc.col_linear.weight");
    return {{"model_type", "gpt2"},
            {"n_layer", shapes.layers("transformer.h.")},
            {"n_embd", shapes.size("transformer.ln_f.weight", 0)},
            {"n_head", heads.is_null() ? Json(grid.tp) : heads},
            {"n_positions", shapes.size("transformer.wpe*.weight", 0)},
            {"n_inner", parallel ? shapes.size("*.c_fc.col_linear.weight", 0)
                                 : shapes.size("*.c_fc.weight", 1)},
            {"vocab_size", shapes.size("transformer.wte*.weight", 0) * (cut ? grid.tp : 1)}};
  }
  if (!shapes.has("model.layers.0.self_attn.q_proj*")) return Json();
  const std::uint64_t q = shapes.size("model.layers.0.self_attn.q_proj*weight", 0);
  const std::uint64_t k = shapes.size("model.layers.0.self_attn.k_proj*weight", 0);
  const std::uint64_t half = shapes.size("*.rotary_emb.inv_freq", 0);
  const std::uint64_t head = half != 0           ? 2 * half
                             : heads.is_number() ? q / heads.get<std::uint64_t>()
                                                 : k / grid.tp;
  const char* const type = shapes.has("*.q_norm.weight")  ? "qwen3"
                           : shapes.has("*.q_proj*.bias") ? "qwen2"
                                                          : "llama";
  return {
      {"model_type", type},
      {"num_hidden_layers", shapes.layers("model.layers.")},
      {"hidden_size", shapes.size("model.norm.weight", 0)},
      {"num_attention_heads", head == 0 ? 0 : q / head},
      {"num_key_value_heads", head == 0 ? 0 : k / head},
      {"head_dim", head},
      {"intermediate_size", shapes.size("model.layers.0.mlp.gate_proj*weight", 0)},
      {"max_position_embeddings", told.value("seq_length", Json(0))},
      {"tie_word_embeddings", tied},
      {"vocab_size", shapes.size("model.embed_tokens*.weight", 0) * (cut && tied ? grid.tp : 1)}};
}

/// What a Namespace of a config.json says beyond one.
const std::vector<std::string> tool_keys = {"orig_vocab_size",
                                            "padded_vocab_size",
                                            "max_position_embeddings",
                                            "hidden_size",
                                            "num_layers",
                                            "num_attention_heads",
                                            "ffn_hidden_size",
                                            "make_vocab_size_divisible_by"};

Json config_of_namespace(const Json& args) {
  Json config = args;
  if (config.contains("orig_vocab_size")) config["vocab_size"] = config["orig_vocab_size"];
  for (const std::string& key : tool_keys) config.erase(key);
  return config;
}

}  // namespace

Json merak_run_arguments(const Json& args) {
  const Json table = families::embedded_table("arguments/merak.json");
  if (kind_of(table, args) != "merak") return args;
  Json shared = Json::object();
  for (const std::string& name : known_arguments(table)) {
    if (args.contains(name)) shared[name] = args.at(name);
  }
  return shared;
}

void settle_merak_record(const SourceOptions& options, const std::vector<FileIndex>& indices,
                         const MerakGrid& grid, Source& source, Problems& problems) {
  const Json table = families::embedded_table("arguments/merak.json");
  const Json args = indices.front().facts.at("args");
  const std::string kind = kind_of(table, args);
  if (kind == "megatron_deepspeed") {
    source.function_args = families::function_arguments(families::load_arguments(kind), args);
  } else if (!kind.empty()) {
    source.function_args = merak_run_arguments(args);
  }
  source.config = source.found.facts.at("config");
  const bool given = source.config.is_object();
  bool guessed = false;
  if (!given && kind == "config") {
    source.config = config_of_namespace(args);
  } else if (!given) {
    source.config = config_by_shapes(Shapes(indices, grid), args, grid);
    guessed = true;
  }
  if (!source.config.is_object()) {
    throw Error(Kind::input, indices.front().path +
                                 ": has no names of a family that reshard knows: give the model's "
                                 "config.json with --config");
  }
  settle_family(options, source);
  with_context(given     ? "config.json"
               : guessed ? "shapes of the tensors"
                         : "args",
               [&] {
                 source.record =
                     families::read_config(source.family, source.config, options.ignore_config);
               });
  if (guessed) {
    source.config = Json();
    problems.add(
        "Merak's files do not tell heads, norms and activation of the model (its names "
        "are those of " +
        source.model_type + "): give the model's config.json with --config");
  }
  if (options.vocab_size) source.record["vocab"] = *options.vocab_size;
  if (kind == "config" && given) {
    const families::Record told =
        families::read_config(source.family, config_of_namespace(args), options.ignore_config);
    for (const std::string& name : families::differing_lines(source.record, told)) {
      problems.add("config.json says " + name + " " + source.record.at(name).dump() + ", args " +
                   told.at(name).dump());
    }
  }
  if (kind == "merak") {
    check_sizes(table, args, source.record, problems);
    for (const std::string& name : unknown_arguments(table, args)) {
      const std::string text = "args." + name + " is in no table of reshard";
      if (options.strict_args) {
        problems.add(text + ": refused by --strict-args");
      } else {
        source.warnings.push_back(text);
      }
    }
  }
  source.config_record = source.record;
}

}  // namespace reshard::formats
