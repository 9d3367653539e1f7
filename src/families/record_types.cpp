#include "families/record_types.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <string>

#include "core/error.hpp"
#include "families/table.hpp"

namespace reshard::families {
namespace {

enum class Type { size, number, truth, text, numbers, truths };

const std::map<std::string_view, Type>& types() {
  static const std::map<std::string_view, Type> all = [] {
    std::map<std::string_view, Type> made;
    const auto add = [&](Type type, std::initializer_list<std::string_view> names) {
      for (const std::string_view name : names) made[name] = type;
    };
    add(Type::size, {"layers",
                     "hidden",
                     "vocab",
                     "positions",
                     "heads",
                     "groups",
                     "head_dim",
                     "ffn",
                     "window",
                     "q_rank",
                     "kv_rank",
                     "nope_dim",
                     "half",
                     "pair",
                     "rope_dim",
                     "rope_positions",
                     "full_layers",
                     "experts",
                     "first_moe",
                     "moe_step",
                     "experts_per_token",
                     "expert_ffn",
                     "shared_experts",
                     "shared_ffn",
                     "router_groups",
                     "router_top_groups"});
    add(Type::number,
        {"heads_per_group", "rotary_fraction", "norm_epsilon", "norm_offset", "gate_alpha",
         "gate_limit", "query_scale", "attention_softcap", "logit_softcap", "rope_base",
         "rope_factor", "rope_low_factor", "rope_high_factor", "rope_attention", "yarn_beta_fast",
         "yarn_beta_slow", "yarn_mscale", "yarn_mscale_all", "router_scale"});
    add(Type::truth, {"mla", "tied", "pre_norm", "post_norm", "embedding_norm", "parallel_residual",
                      "residual_after_norm", "gated", "attention_bias", "output_bias", "mlp_bias",
                      "sinks", "use_window", "rope_interleaved", "yarn_truncate", "expert_bias",
                      "router_normalised", "router_bias", "router_score_bias"});
    add(Type::text, {"dtype", "norm", "qk_norm", "activation", "embedding_scale", "position",
                     "rope_scaling", "router_score"});
    add(Type::numbers, {"rope_short_factors", "rope_long_factors", "dense_layers"});
    add(Type::truths, {"windowed", "moe"});
    return made;
  }();
  return all;
}

/// A whole number from 0; as JSON of other writers 48.0 is one too.
bool is_size(const Json& value) {
  constexpr double most = 1e15;
  return value.is_number() && value.get<double>() >= 0 && value.get<double>() <= most;
}

bool is_list(const Json& value, bool (Json::*of)() const noexcept) {
  return value.is_array() &&
         std::all_of(value.begin(), value.end(), [&](const Json& each) { return (each.*of)(); });
}

bool fits(Type type, const Json& value) {
  switch (type) {
    case Type::size:
      return is_size(value);
    case Type::number:
      return value.is_number();
    case Type::truth:
      return value.is_boolean();
    case Type::text:
      return value.is_string();
    case Type::numbers:
      return is_list(value, &Json::is_number);
    case Type::truths:
      return is_list(value, &Json::is_boolean);
  }
  return false;
}

const char* word_of(Type type) {
  constexpr std::array words = {"a number from 0", "a number",          "true or false",
                                "a text",          "a list of numbers", "a list of true and false"};
  return words.at(static_cast<std::size_t>(type));
}

}  // namespace

void check_type(std::string_view hyperparameter, const Json& value) {
  const auto type = types().find(hyperparameter);
  if (type == types().end() || value.is_null() || fits(type->second, value)) return;
  throw Error(Kind::input, std::string(hyperparameter) + " is " + shown(value) + ", wanted " +
                               word_of(type->second));
}

}  // namespace reshard::families
