#include "formats/container/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "core/error.hpp"
#include "formats/container/safetensors_header.hpp"

namespace reshard::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "the header's length is copied");

constexpr std::uint64_t largest_header = 100'000'000;  // the reference reader's limit

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

/// Holds a tensor's offsets against its dtype and shape, and against the end of the one before.
void check_tensor(const HeaderTensor& tensor, std::uint64_t wanted_begin) {
  const TensorEntry& entry = tensor.entry;
  const std::uint64_t begin = entry.offset, end = tensor.end;
  const std::string seen = entry.name + ": data_offsets " + to_string(Shape{begin, end});
  if (begin != wanted_begin) {
    refuse(seen + ", wanted a begin of " + std::to_string(wanted_begin) + ": hole or overlap");
  }
  const std::uint64_t wanted =
      with_context(entry.name, [&] { return data_bytes(entry.dtype, entry.shape); });
  if (end < begin || end - begin != wanted) {
    refuse(seen + ", but dtype " + std::string(name(entry.dtype)) + " and shape " +
           to_string(entry.shape) + " need " + std::to_string(wanted) + " bytes");
  }
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
  SafetensorsHeader header = read_safetensors_header(source, 8, length);

  std::vector<std::string_view> names;
  for (const HeaderTensor& tensor : header.tensors) names.push_back(tensor.entry.name);
  require_unique(std::move(names), "tensor");
  if (header.metadata) check_metadata(*header.metadata);
  std::ranges::stable_sort(header.tensors, {}, [](const HeaderTensor& tensor) {
    return std::pair(tensor.entry.offset, tensor.end);
  });

  FileIndex index = {path, "safetensors", source.size, {}, Json::object()};
  index.tensors.reserve(header.tensors.size());
  std::uint64_t end = 0;
  for (HeaderTensor& tensor : header.tensors) {
    check_tensor(tensor, end);
    end = tensor.end;
    index.tensors.push_back(std::move(tensor.entry));
    index.tensors.back().offset = checked_sum(8 + length, index.tensors.back().offset);
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
  return quoted(safetensors_metadata) + ":{" + text + "}";
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
  names.push_back(safetensors_metadata);
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
