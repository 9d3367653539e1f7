#include "formats/container/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <optional>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "the header's length is copied");

constexpr std::uint64_t largest_header = 100'000'000;  // the reference reader's limit
constexpr std::uint64_t most_dimensions = 64;          // torch's limit
constexpr const char* metadata_key = "__metadata__";

[[noreturn]] void refuse(const std::string& text) {
  throw Error(Kind::input, text);
}

/// Bytes of a tensor's data; Error(input) when safetensors cannot hold it.
std::uint64_t data_bytes(Dtype dtype, const Shape& shape) {
  if (dtype == Dtype::c128) refuse("dtype C128: safetensors has no such type");
  const std::uint64_t total = checked_product(elements(shape), bits(dtype));
  if (total % 8 != 0) {
    refuse("shape " + to_string(shape) + " of dtype " + std::string(name(dtype)) + " has " +
           std::to_string(total) + " bits, wanted whole bytes");
  }
  return total / 8;
}

/// One entry of the header as it was written.
struct HeaderTensor {
  std::string name;
  std::optional<Dtype> dtype;
  std::optional<Shape> shape, offsets;
};

/// Takes the header's events, so that nothing wrong or endless in it is ever held in memory.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<HeaderTensor> tensors;
  std::optional<Json> metadata;

  bool null() override {
    if (depth_ == 1 && in_metadata_) return true;
    return scalar("null");
  }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t value) override { return scalar(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return scalar(text); }
  bool binary(binary_t&) override { return scalar("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (numbers_ == nullptr || depth_ != 3) return scalar(std::to_string(value));
    if (numbers_->size() == most_dimensions) {
      wrong("more than " + std::to_string(most_dimensions) + " numbers");
    }
    numbers_->push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) {
      // Past the container's own insertion, which looks through all keys before.
      metadata->get_ref<Json::object_t&>().emplace_back(key_, value);
      return true;
    }
    if (depth_ != 2 || key_ != "dtype") return scalar("\"" + value + "\"");
    std::optional<Dtype>& dtype = tensors.back().dtype;
    if (dtype) wrong("duplicate");
    dtype = dtype_of_name(value);
    if (!dtype) wrong("\"" + value + "\" is unknown");
    return true;
  }

  bool key(string_t& value) override {
    if (depth_ == 1) {
      in_metadata_ = value == metadata_key;
      if (in_metadata_ && seen_metadata_) refuse("duplicate " + value);
      seen_metadata_ |= in_metadata_;
      if (!in_metadata_) tensors.push_back({value, {}, {}, {}});
    }
    if (depth_ <= 2) key_ = value;
    return true;
  }

  bool start_object(std::size_t) override {
    if (depth_ == 1 && in_metadata_) metadata = Json::object();
    if (depth_ >= 2) skipped("an object");
    return descend();
  }

  bool start_array(std::size_t) override {
    if (depth_ == 2 && !in_metadata_ && (key_ == "shape" || key_ == "data_offsets")) {
      HeaderTensor& tensor = tensors.back();
      std::optional<Shape>& numbers = key_ == "shape" ? tensor.shape : tensor.offsets;
      if (numbers) wrong("duplicate");
      numbers_ = &numbers.emplace();
    } else if (depth_ >= 2) {
      skipped("an array");
    } else {
      wrong("an array, wanted an object");
    }
    return descend();
  }

  bool end_object() override {
    --depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    numbers_ = nullptr;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    refuse("header is not JSON at byte " + std::to_string(position) + ": " + error.what());
  }

 private:
  [[noreturn]] void wrong(const std::string& text) const {
    std::string where = "header";
    if (depth_ >= 1) where = in_metadata_ ? metadata_key : tensors.back().name;
    if (depth_ >= 2) where += ": " + key_;
    refuse(where + ": " + text);
  }

  /// A value that is neither looked for nor, below an unknown key of a tensor, to be ignored.
  bool scalar(const std::string& seen) {
    skipped(seen);
    return true;
  }

  void skipped(const std::string& seen) {
    if (depth_ < 2) wrong(seen + ", wanted an object");
    if (in_metadata_) wrong(seen + ", wanted a string");
    if (key_ == "dtype") wrong(seen + ", wanted a string");
    if (key_ == "shape" || key_ == "data_offsets") wrong(seen + ", wanted unsigned integers");
  }

  bool descend() {
    constexpr int deepest = 32;
    if (++depth_ > deepest) wrong("nested deeper than " + std::to_string(deepest));
    return true;
  }

  int depth_ = 0;
  bool in_metadata_ = false, seen_metadata_ = false;
  std::string key_;
  Shape* numbers_ = nullptr;
};

HeaderReader parse_header(const std::string& text) {
  // The parser would skip a byte order mark and take a NUL for the end.
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos || text[first] != '{') refuse("header is not a JSON object");
  if (text.find('\0') != std::string::npos) refuse("header is not JSON: it contains a NUL");
  HeaderReader reader;
  nlohmann::json::sax_parse(text, &reader);
  return reader;
}

/// Throws when two of the names are equal.
void require_unique(std::vector<std::string_view> names, const char* what) {
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  if (twice != names.end()) refuse("duplicate " + std::string(what) + " " + std::string(*twice));
}

void check_metadata(const Json& metadata) {
  std::vector<std::string_view> keys;
  for (const auto& [key, value] : metadata.items()) keys.push_back(key);
  require_unique(std::move(keys), "key in __metadata__:");
}

TensorEntry check_tensor(const HeaderTensor& tensor, std::uint64_t wanted_begin,
                         std::uint64_t data_begin) {
  const auto require = [&](bool present, const char* key) {
    if (!present) refuse(tensor.name + ": no " + key);
  };
  require(tensor.dtype.has_value(), "dtype");
  require(tensor.shape.has_value(), "shape");
  const Shape& offsets = *tensor.offsets;
  const std::string seen = tensor.name + ": data_offsets " + to_string(offsets);
  if (offsets[0] != wanted_begin) {
    refuse(seen + ", wanted a begin of " + std::to_string(wanted_begin) + ": hole or overlap");
  }
  const std::uint64_t wanted =
      with_context(tensor.name, [&] { return data_bytes(*tensor.dtype, *tensor.shape); });
  if (offsets[1] < offsets[0] || offsets[1] - offsets[0] != wanted) {
    refuse(seen + ", but dtype " + std::string(name(*tensor.dtype)) + " and shape " +
           to_string(*tensor.shape) + " need " + std::to_string(wanted) + " bytes");
  }
  return {tensor.name, *tensor.dtype, *tensor.shape, checked_sum(data_begin, offsets[0]), {}};
}

FileIndex read_header(const ByteSource& source, const std::string& path) {
  if (source.size < 8) {
    refuse("file of " + std::to_string(source.size) + " bytes, wanted at least 8");
  }
  std::uint64_t length = 0;
  source.read(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > largest_header || length > source.size - 8) {
    refuse("header of " + std::to_string(length) + " bytes, wanted at most " +
           std::to_string(std::min(largest_header, source.size - 8)));
  }
  HeaderReader header = parse_header(read_bytes(source, 8, length, "header"));

  std::vector<std::string_view> names;
  std::vector<const HeaderTensor*> sorted;
  for (const HeaderTensor& tensor : header.tensors) {
    if (!tensor.offsets || tensor.offsets->size() != 2) {
      refuse(tensor.name + ": data_offsets: wanted two unsigned integers");
    }
    names.push_back(tensor.name);
    sorted.push_back(&tensor);
  }
  require_unique(std::move(names), "tensor");
  if (header.metadata) check_metadata(*header.metadata);
  std::ranges::stable_sort(sorted, {},
                           [](const HeaderTensor* t) -> const Shape& { return *t->offsets; });

  FileIndex index = {path, "safetensors", source.size, {}, Json::object()};
  std::uint64_t end = 0;
  for (const HeaderTensor* tensor : sorted) {
    index.tensors.push_back(check_tensor(*tensor, end, 8 + length));
    end = (*tensor->offsets)[1];
  }
  const std::uint64_t bytes = checked_sum(8 + length, end);
  if (bytes != source.size) {
    refuse("file of " + std::to_string(source.size) + " bytes, the header describes " +
           std::to_string(bytes));
  }
  index.facts["metadata"] = header.metadata ? std::move(*header.metadata) : Json(nullptr);
  return index;
}

/// JSON of a string; Error(input) when it is not UTF-8.
std::string quoted(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    refuse("name is not UTF-8: " + Json(text).dump(-1, ' ', true, Json::error_handler_t::replace));
  }
}

std::string metadata_text(const Json& metadata) {
  if (!metadata.is_object()) refuse("metadata: " + metadata.dump() + ", wanted an object");
  check_metadata(metadata);
  std::string text;
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string()) refuse("metadata: " + key + ": wanted a string");
    if (!text.empty()) text += ',';
    text += quoted(key) + ":" + quoted(value.get<std::string>());
  }
  return quoted(metadata_key) + ":{" + text + "}";
}

/// JSON of the numbers without spaces.
std::string numbers(const std::vector<std::uint64_t>& values) {
  return Json(values).dump();
}

}  // namespace

FileIndex read_safetensors(const ByteSource& source, const std::string& path) {
  return with_context(path, [&] { return read_header(source, path); });
}

FileLayout safetensors_layout(const std::vector<TensorSpec>& tensors, const Json& metadata) {
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, [&](std::uint32_t a, std::uint32_t b) {
    const TensorSpec &x = tensors[a], &y = tensors[b];
    return x.dtype != y.dtype ? x.dtype > y.dtype : x.name < y.name;
  });
  std::vector<std::string_view> names;
  for (const TensorSpec& tensor : tensors) names.push_back(tensor.name);
  names.push_back(metadata_key);
  require_unique(std::move(names), "tensor");

  FileLayout layout;
  std::string text = metadata.is_null() ? "" : metadata_text(metadata);
  std::uint64_t end = 0;
  for (const std::uint32_t i : order) {
    const TensorSpec& tensor = tensors[i];
    const std::uint64_t begin = end, bytes = with_context(tensor.name, [&] {
                                       return data_bytes(tensor.dtype, tensor.shape);
                                     });
    end = checked_sum(begin, bytes);
    if (!text.empty()) text += ',';
    text += quoted(tensor.name) + ":{\"dtype\":\"" + std::string(name(tensor.dtype)) +
            "\",\"shape\":" + numbers(tensor.shape) + ",\"data_offsets\":" + numbers({begin, end}) +
            "}";
    layout.data.push_back({i, begin, bytes});
  }
  text = "{" + text + "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > largest_header) {
    refuse("header of " + std::to_string(text.size()) + " bytes, readers accept at most " +
           std::to_string(largest_header) + ": write more, smaller files");
  }
  const std::uint64_t length = text.size();
  for (FileLayout::Data& data : layout.data) data.offset += 8 + length;
  layout.bytes = checked_sum(8 + length, end);
  std::string prefix(8, '\0');
  std::memcpy(prefix.data(), &length, 8);
  layout.literals.push_back({0, prefix + text});
  return layout;
}

}  // namespace reshard::formats
