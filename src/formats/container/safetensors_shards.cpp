#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <set>

#include "core/error.hpp"
#include "formats/container/safetensors.hpp"

namespace reshard::formats {
namespace {

/// "model" and ".safetensors": what stands before and behind the numbers.
std::pair<std::string, std::string> name_parts(WeightFiles files) {
  if (files == WeightFiles::bin) return {"pytorch_model", ".bin"};
  return {"model", ".safetensors"};
}

/// At least five digits behind the text.
std::string numbered(const std::string& text, std::size_t number) {
  const std::string digits = std::to_string(number);
  return text + std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
}

/// JSON text as a value; Error(input) on duplicate keys or what nests deeper than an index file.
nlohmann::json parse_index(std::string_view text) {
  constexpr int deepest = 8;
  std::vector<std::set<std::string>> open_objects;
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > deepest) throw Error(Kind::input, "nested too deep");
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key && !open_objects.back().insert(value).second) {
      throw Error(Kind::input, "duplicate key " + value.get<std::string>());
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::exception& error) {
    throw Error(Kind::input, std::string("not JSON: ") + error.what());
  }
}

bool is_plain_name(const std::string& file) {
  constexpr std::string_view separators("/\\\0", 3);
  return !file.empty() && file != "." && file != ".." &&
         file.find_first_of(separators) == std::string::npos;
}

}  // namespace

ShardSplit split_shards(std::span<const TensorSpec> tensors, std::uint64_t max_shard_bytes,
                        WeightFiles files) {
  ShardSplit split;
  std::vector<std::uint32_t> current;
  std::uint64_t current_bytes = 0;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    const std::uint64_t total =
        checked_product(elements(tensors[i].shape), bits(tensors[i].dtype)) / 8;
    split.total_size = checked_sum(split.total_size, total);
    // As in huggingface_hub, the file of a large tensor comes before the one being filled.
    if (total > max_shard_bytes) {
      split.shards.push_back({"", {i}});
      continue;
    }
    if (current_bytes + total > max_shard_bytes) {
      split.shards.push_back({"", std::move(current)});
      current = {};
      current_bytes = 0;
    }
    current.push_back(i);
    current_bytes += total;
  }
  if (!current.empty() || split.shards.empty()) split.shards.push_back({"", std::move(current)});

  const auto [stem, extension] = name_parts(files);
  const std::size_t count = split.shards.size();
  for (std::size_t n = 0; n < count; ++n) {
    const std::string suffix = count == 1 ? "" : numbered(numbered("-", n + 1) + "-of-", count);
    split.shards[n].file = stem + suffix + extension;
  }
  return split;
}

std::string index_file_name(WeightFiles files) {
  const auto [stem, extension] = name_parts(files);
  return stem + extension + ".index.json";
}

std::string index_json(const ShardSplit& split, std::span<const TensorSpec> tensors,
                       std::uint64_t total_parameters) {
  nlohmann::json index;  // sorts its keys
  index["metadata"] = {{"total_parameters", total_parameters}, {"total_size", split.total_size}};
  nlohmann::json& map = index["weight_map"] = nlohmann::json::object();
  for (const ShardSplit::Shard& shard : split.shards) {
    for (const std::uint32_t i : shard.tensors) map[tensors[i].name] = shard.file;
  }
  return index.dump(2, ' ', true) + "\n";
}

std::vector<std::pair<std::string, std::string>> read_weight_map(std::string_view text,
                                                                 const std::string& path) {
  return with_context(path, [&] {
    const nlohmann::json index = parse_index(text);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
      throw Error(Kind::input, "no object weight_map");
    }
    std::vector<std::pair<std::string, std::string>> files;
    for (const auto& [tensor, file] : index["weight_map"].items()) {
      if (!file.is_string() || !is_plain_name(file.get<std::string>())) {
        throw Error(Kind::input, "weight_map: " + tensor + ": " + file.dump() +
                                     ", wanted the plain name of a file beside the index");
      }
      files.emplace_back(tensor, file.get<std::string>());
    }
    return files;
  });
}

std::uint64_t parse_size(std::string_view text) {
  const auto fail = [&]() -> Error {
    return {Kind::usage,
            "size \"" + std::string(text) +
                "\": wanted a number above 0 and B, KB, MB, GB, TB (powers of 1000) or KiB, "
                "MiB, GiB, TiB (of 1024), as 2.5GB"};
  };
  double value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  std::string unit(end, text.data() + text.size());
  unit.erase(0, unit.find_first_not_of(' '));
  std::ranges::transform(unit, unit.begin(), [](unsigned char c) { return std::tolower(c); });
  // "inf" and "nan" are numbers to from_chars, and so is a sign.
  if (error != std::errc() || std::isdigit(static_cast<unsigned char>(text[0])) == 0) throw fail();

  if (!unit.empty() && unit != "b") {
    const std::size_t power = std::string_view("kmgt").find(unit[0]) + 1;
    const bool binary = unit.substr(1) == "ib";
    if (power == 0 || (!binary && unit.substr(1) != "b")) throw fail();
    value *= std::pow(binary ? 1024.0 : 1000.0, static_cast<double>(power));
  }
  constexpr double limit = 9.2e18;  // fits a signed offset
  if (value < 1 || value > limit) throw fail();
  return static_cast<std::uint64_t>(value);
}

}  // namespace reshard::formats
