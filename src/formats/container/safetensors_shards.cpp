#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

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

bool is_plain_name(const std::string& file) {
  constexpr std::string_view separators("/\\\0", 3);
  constexpr std::size_t longest = 255;  // of every file system
  return !file.empty() && file.size() <= longest && file != "." && file != ".." &&
         file.find_first_of(separators) == std::string::npos;
}

/// Takes the events of an index file and keeps its weight_map alone.
class IndexReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool has_map = false;
  std::map<std::string, std::vector<std::string>> tensors_of;

  bool null() override { return other("null"); }
  bool boolean(bool value) override { return other(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return other(std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return other(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return other(text); }
  bool binary(binary_t&) override { return other("binary data"); }

  bool string(string_t& value) override {
    if (!in_map_ || depth_ != 2) return other("a text");
    if (!is_plain_name(value)) wrong("\"" + value + "\"");
    if (++count_ > most_tensors) {
      throw Error(Kind::input, "weight_map: more than " + std::to_string(most_tensors) +
                                   " tensors are not read");
    }
    tensors_of[value].push_back(std::move(key_));
    return true;
  }
  bool key(string_t& value) override {
    if (depth_ == 1 && value == "weight_map" && has_map) {
      throw Error(Kind::input, "duplicate key weight_map");
    }
    key_ = std::move(value);
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ != 1 || key_ != "weight_map") return other("an object") && descend();
    has_map = in_map_ = true;
    return descend();
  }
  bool start_array(std::size_t) override { return other("an array") && descend(); }
  bool end_object() override { return ascend(); }
  bool end_array() override { return ascend(); }
  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::detail::exception& error) override {
    throw Error(Kind::input, std::string("not JSON: ") + error.what());
  }

 private:
  /// Far more than any model has.
  static constexpr std::uint64_t most_tensors = 400'000;
  static constexpr int deepest = 8;

  [[noreturn]] void wrong(const std::string& seen) const {
    throw Error(Kind::input, "weight_map: " + key_ + ": " + seen +
                                 ", wanted the plain name of a file beside the index");
  }
  bool other(const std::string& seen) {
    if (in_map_ && depth_ == 2) wrong(seen);
    return true;
  }
  bool descend() {
    if (++depth_ > deepest) throw Error(Kind::input, "nested too deep");
    return true;
  }
  bool ascend() {
    if (--depth_ == 1) in_map_ = false;
    return true;
  }

  int depth_ = 0;
  bool in_map_ = false;  ///< inside the object weight_map
  std::string key_;
  std::uint64_t count_ = 0;
};

void require_unique(const std::map<std::string, std::vector<std::string>>& tensors_of) {
  std::vector<std::string_view> names;
  for (const auto& [file, tensors] : tensors_of) {
    names.insert(names.end(), tensors.begin(), tensors.end());
  }
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  if (twice != names.end()) {
    throw Error(Kind::input, "duplicate key " + std::string(*twice));
  }
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

std::map<std::string, std::vector<std::string>> read_weight_map(std::string_view text,
                                                                const std::string& path) {
  return with_context(path, [&] {
    IndexReader reader;
    nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
    if (!reader.has_map) throw Error(Kind::input, "no object weight_map");
    require_unique(reader.tensors_of);
    return std::move(reader.tensors_of);
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
