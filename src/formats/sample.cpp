#include "formats/sample.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/buffer.hpp"
#include "core/error.hpp"
#include "core/transform.hpp"
#include "families/family.hpp"
#include "families/record.hpp"
#include "formats/dialect/huggingface.hpp"

namespace reshard::formats {
namespace {

/// A family, one of its model types and the hyperparameters that the user gave.
struct Model {
  families::Family family;
  const families::ModelType* type = nullptr;
  Json given;
  bool free_width = false;  ///< of the feed-forward layers, also where the family has a formula

  [[nodiscard]] const families::Line* line(const std::string& name) const {
    const auto at = std::find_if(type->lines.begin(), type->lines.end(),
                                 [&](const families::Line& line) { return line.name == name; });
    return at != type->lines.end() && !at->keys.empty() ? &*at : nullptr;
  }
  [[nodiscard]] bool has_experts() const { return line("experts") != nullptr; }
  /// The width of the layers that hold most parameters.
  [[nodiscard]] std::string width_name() const { return has_experts() ? "expert_ffn" : "ffn"; }
  /// Whether that width is 4 * hidden, or what else the family's formula makes it.
  [[nodiscard]] bool width_follows() const {
    const families::Line* const width = line(width_name());
    return width == nullptr ||
           (!free_width && width->definition.kind == families::Definition::Kind::formula);
  }
};

std::uint64_t number(const Json& sizes, const char* name) {
  return sizes.at(name).get<std::uint64_t>();
}

/// A model of a few thousand parameters in which no two sizes are equal.
Json tiny_sizes(const Model& model) {
  Json sizes = {{"layers", 4},      {"hidden", 48}, {"heads", 4},     {"groups", 2},
                {"expert_ffn", 40}, {"vocab", 250}, {"positions", 64}};
  if (!model.width_follows()) sizes["ffn"] = 80;
  return sizes;
}

/// What follows from the sizes, where neither they nor the user say it.
Json completed(const Model& model, Json sizes) {
  sizes.update(model.given);
  const families::Line* const ffn = model.line("ffn");
  const families::Line* const expert_ffn = model.line("expert_ffn");
  if (ffn != nullptr && expert_ffn != nullptr && ffn->keys == expert_ffn->keys) {
    const bool dense = model.given.contains("ffn") && !model.given.contains("expert_ffn");
    sizes[dense ? "expert_ffn" : "ffn"] = sizes.at(dense ? "ffn" : "expert_ffn");
  }
  const std::uint64_t hidden = number(sizes, "hidden"), heads = number(sizes, "heads");
  const bool mla = model.line("kv_rank") != nullptr;
  Json all = {{"head_dim", mla ? hidden / heads / 2 : hidden / heads},
              {"q_rank", hidden / 4},
              {"kv_rank", hidden / 8},
              {"nope_dim", hidden / heads / 2},
              {"rope_dim", 16},
              {"query_scale", hidden / heads},
              {"experts", 8},
              {"experts_per_token", 2},
              {"router_groups", 1},
              {"router_top_groups", 1},
              {"first_moe", std::min<std::uint64_t>(1, number(sizes, "layers") - 1)},
              {"parallel_residual", false}};
  const families::Line* const scaling = model.line("rope_scaling");
  if (scaling != nullptr && scaling->definition.kind == families::Definition::Kind::none) {
    all.update({{"rope_scaling", "yarn"},
                {"rope_factor", 32.0},
                {"rope_positions", 4096},
                {"yarn_beta_fast", 32.0},
                {"yarn_beta_slow", 1.0},
                {"yarn_truncate", false}});
  }
  if (mla) sizes["groups"] = heads;
  all.update(sizes);
  return all;
}

/// The config.json that says so, as far as the family has keys for it. Error(usage) for a
/// hyperparameter that the user gave and that it has none for.
Json config_of(const Model& model, const Json& sizes) {
  for (const auto& [name, value] : model.given.items()) {
    if (model.line(name) != nullptr) continue;
    throw Error(Kind::usage,
                "family " + model.family.name + " lets no hyperparameter " + name + " be chosen");
  }
  Json config = {{"model_type", model.type->name}};
  const Json all = completed(model, sizes);
  for (const families::Line& line : model.type->lines) {
    const bool chosen = sizes.contains(line.name) || model.given.contains(line.name);
    const bool follows =
        line.definition.kind == families::Definition::Kind::formula || line.definition.fixed;
    if (line.keys.empty() || !all.contains(line.name) || (follows && !chosen)) continue;
    Json* at = &config;
    std::string_view key = line.keys.front();
    for (std::size_t dot = key.find('.'); dot != key.npos; dot = key.find('.')) {
      at = &(*at)[std::string(key.substr(0, dot))];
      key.remove_prefix(dot + 1);
    }
    (*at)[std::string(key)] = line.translate_back(all.at(line.name));
  }
  return Json::parse(config.dump());  // sizes become unsigned, as in a file
}

std::uint64_t count_parameters(const Model& model, const Json& sizes) {
  const families::Record record = families::read_config(model.family, config_of(model, sizes));
  std::uint64_t sum = 0;
  for (const families::RoleTensor& tensor : families::canonical_tensors(model.family, record)) {
    sum += elements(tensor.shape);
  }
  return sum;
}

/// From so many parameters on a sample has the vocabulary and positions of a model in use.
constexpr std::uint64_t large_model = 100'000'000;

/// Nearest multiple of `step`, at least one.
std::uint64_t near(double value, std::uint64_t step) {
  const auto times = static_cast<std::uint64_t>(std::max(1.0, std::round(value / double(step))));
  return times * step;
}

/// The size that closes the gap to the wanted parameters, for degrees of parallelism shall divide
/// the others: what it usually is and how far from that it may go.
struct Closing {
  std::string name;  ///< empty: the user gave it
  double usual = 0, least = 0, most = 0;
  std::uint64_t step = 1;
};

std::uint64_t width_step(std::uint64_t hidden) {
  return hidden >= 1024 ? 256 : 32;
}

/// The width of the feed-forward layers (usually that of the llama models, half of it in an
/// expert), or the vocabulary where that width follows from hidden.
Closing closing_of(const Model& model, std::uint64_t hidden, std::uint64_t vocab) {
  Closing closing{model.width_name(), 0, 0, 0, width_step(hidden)};
  closing.usual = (model.has_experts() ? 4.0 : 8.0) / 3 * static_cast<double>(hidden);
  closing.least = closing.usual / 4;
  closing.most = closing.usual * 2;
  if (model.width_follows()) {
    const auto usual = static_cast<double>(vocab);
    closing = {"vocab", usual, usual / 8, usual * 4, 1};
  }
  if (model.given.contains(closing.name)) closing.name.clear();
  return closing;
}

/// The sizes of one width and depth whose parameters come nearest to those wanted.
Json fitted(const Model& model, std::uint64_t hidden, std::uint64_t layers, std::uint64_t vocab,
            std::uint64_t wanted) {
  const std::uint64_t head_dim = hidden % 1024 == 0 && wanted > 4'000'000'000 ? 128 : 64;
  const std::uint64_t heads = std::max<std::uint64_t>(hidden / head_dim, 1);
  Json sizes = {{"layers", layers}, {"hidden", hidden},
                {"heads", heads},   {"groups", heads % 8 == 0 ? 8 : heads},
                {"vocab", vocab},   {"positions", wanted >= large_model ? 4096 : 1024}};
  const Closing closing = closing_of(model, hidden, vocab);
  if (!model.width_follows()) {
    const std::uint64_t step = width_step(hidden);
    sizes["ffn"] = near(8.0 / 3 * static_cast<double>(hidden), step);
    sizes["expert_ffn"] = near(4.0 / 3 * static_cast<double>(hidden), step);
  }
  if (closing.name.empty()) return sizes;
  const auto first = number(sizes, closing.name.c_str());
  Json wider = sizes;
  wider[closing.name] = first + closing.step;
  const auto base = static_cast<double>(count_parameters(model, sizes));
  const double slope = static_cast<double>(count_parameters(model, wider)) - base;
  const double steps = (static_cast<double>(wanted) - base) / slope;
  const double better = static_cast<double>(first) + steps * static_cast<double>(closing.step);
  sizes[closing.name] = near(std::clamp(better, closing.least, closing.most), closing.step);
  return sizes;
}

/// A ladder of widths and depths like those of the llama models; of what lies within 3 % the one
/// whose depth and closing size fit best is taken. A width that follows from others is given up
/// where nothing fits with it.
Json sizes_for(const Model& model, std::uint64_t wanted) {
  const bool large = wanted >= large_model;
  const std::uint64_t vocab = model.given.value("vocab", std::uint64_t{large ? 32000u : 1003u});
  const std::uint64_t step = large ? 512 : 64;
  constexpr std::array<std::uint64_t, 15> depths = {2,  4,  6,  8,  12, 16, 20, 24,
                                                    28, 32, 40, 48, 64, 80, 96};
  Json best;
  double least = INFINITY;
  for (std::uint64_t hidden = step; hidden <= 32 * step || (large && hidden <= 20480);
       hidden += step) {
    const Closing closing = closing_of(model, hidden, vocab);
    const double rows = closing.name == "vocab" ? closing.least : static_cast<double>(vocab);
    if (rows * static_cast<double>(hidden) > static_cast<double>(wanted)) break;
    for (const std::uint64_t layers : depths) {
      const double ratio = static_cast<double>(hidden) / static_cast<double>(layers) / 96;
      double off = std::abs(std::log(ratio));
      if (off >= least || off > 2) continue;
      const Json sizes = fitted(model, hidden, layers, vocab, wanted);
      if (!closing.name.empty()) {
        const auto size = static_cast<double>(number(sizes, closing.name.c_str()));
        off += std::abs(std::log(size / closing.usual));
      }
      if (off >= least) continue;
      const double seen = static_cast<double>(count_parameters(model, sizes));
      if (std::abs(seen / static_cast<double>(wanted) - 1) > 0.03) continue;
      least = off;
      best = sizes;
    }
  }
  if (best.is_null() && model.width_follows() && model.line(model.width_name()) != nullptr) {
    Model freed = model;
    freed.free_width = true;
    return sizes_for(freed, wanted);
  }
  if (best.is_null()) {
    throw Error(Kind::usage, "no sizes of family " + model.family.name + " give " +
                                 std::to_string(wanted) + " parameters within 3 %");
  }
  return best;
}

/// Calls `line(first element in the tensor, its stride, canonical index, its stride, count)` for
/// each line along the fastest dimension of a placement.
template <class Line>
void each_line(const Placement& placement, const Dims& canonical, Line&& line) {
  const StrideOrder order(placement.box.extent, placement.stride);
  const std::size_t outer = order.size == 0 ? 0 : order.size - 1;
  const std::size_t inner = order.dims[outer];
  std::uint64_t index = 0, count = 1, stride = 1, step = 1;
  for (std::size_t d = 0; d < canonical.size(); ++d) {
    index += placement.box.offset[d] * canonical[d];
  }
  if (order.size > 0) {
    count = placement.box.extent[inner];
    stride = placement.stride[inner];
    step = canonical[inner];
  }
  std::uint64_t at = placement.offset;
  Dims place(max_rank);
  for (;;) {
    line(at, stride, index, step, count);
    std::size_t k = outer;
    for (; k > 0; --k) {
      const std::size_t d = order.dims[k - 1];
      at += placement.stride[d];
      index += canonical[d];
      if (++place[d] < placement.box.extent[d]) break;
      at -= placement.box.extent[d] * placement.stride[d];
      index -= placement.box.extent[d] * canonical[d];
      place[d] = 0;
    }
    if (k == 0) return;
  }
}

}  // namespace

Source sample_source(const SampleOptions& options) {
  Model model{family_named(options.family), nullptr, options.hyperparameters};
  const std::vector<families::ModelType>& types = model.family.model_types;
  const auto type = std::find_if(types.begin(), types.end(),
                                 [&](const auto& each) { return each.name == options.family; });
  model.type = type == types.end() ? &types.front() : &*type;
  const Json sizes = options.parameters ? sizes_for(model, *options.parameters) : tiny_sizes(model);

  Source source;
  source.family = model.family;
  source.model_type = model.type->name;
  source.found.dialect = "sample";
  const Json config = config_of(model, sizes);
  source.record = families::read_config(source.family, config);
  source.config_record = source.record;
  source.config = families::write_config(source.family, source.record, source.model_type, config);
  source.model = canonical_model(source.family, source.record);
  source.dtypes.assign(source.model.tensors().size(), Dtype::f32);
  source.adds.assign(source.model.tensors().size(), 0);
  source.parallelism.chunks = {{0, source.record.at("layers").get<std::uint64_t>()}};
  if (options.iteration != 0) source.training["iteration"] = options.iteration;
  return source;
}

void put_sample(const Geometry& geometry, std::uint32_t file, ByteRange range,
                std::span<std::byte> bytes) {
  Buffer buffer;
  for (const std::uint32_t t : tensors_in(geometry, file, range)) {
    const TargetTensor& tensor = geometry.tensors[t];
    if (tensor.stored.constant != Constant::none) continue;
    const std::uint64_t width = reshard::bytes(tensor.stored.dtype);
    const std::uint64_t first = (std::max(range.first, tensor.base) - tensor.base) / width;
    const std::uint64_t last =
        (std::min(range.last, tensor.base + tensor.bytes) - tensor.base) / width;
    const std::span<std::byte> memory = buffer.take((last - first) * sizeof(float));
    const auto values = reinterpret_cast<float*>(memory.data());
    std::fill_n(values, last - first, 0.0F);
    const auto add = static_cast<float>(tensor.stored.add);
    for (const Placement& whole : tensor.stored.placements) {
      const std::uint64_t key = sample_key(geometry.model[whole.tensor].role);
      const Dims canonical = strides_of(geometry.model[whole.tensor]);
      for (const Placement& part : cut(whole, first, last)) {
        each_line(part, canonical,
                  [&](std::uint64_t at, std::uint64_t stride, std::uint64_t index,
                      std::uint64_t step, std::uint64_t count) {
                    float* to = values + (at - first);
                    for (std::uint64_t i = 0; i < count; ++i) {
                      to[i * stride] = sample_value(key, index + i * step) + add;
                    }
                  });
      }
    }
    cast(bytes.data() + (tensor.base + first * width - range.first), tensor.stored.dtype,
         memory.data(), Dtype::f32, last - first);
  }
}

}  // namespace reshard::formats
