#include "formats/manifest.hpp"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "core/checked_json.hpp"
#include "core/error.hpp"
#include "formats/container/crc32.hpp"
#include "formats/dialect/foreign.hpp"
#include "formats/file.hpp"

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view format_name = "reshard-manifest";
constexpr std::uint64_t most_bytes = std::uint64_t{1} << 30;
constexpr int most_depth = 16;

std::string hex(std::uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "%08x", value);
  return text;
}

std::string compact(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Items, each on a line of its own.
std::string lines(const Json& list) {
  std::string text = "[";
  for (const Json& item : list) text += (text.size() > 1 ? ",\n" : "\n") + compact(item);
  return text + "\n]";
}

Json json_of(const Manifest::Role& role) {
  Json json = {{"role", role.role},
               {"factors", role.factors},
               {"shape", role.shape},
               {"dtype", name(role.dtype)}};
  if (role.add != 0) json["add"] = role.add;
  if (role.digest) json["digest"] = role.digest->hex();
  if (role.source_digest) {
    json["source_dtype"] = name(role.source_dtype);
    if (role.source_add != 0) json["source_add"] = role.source_add;
    json["source_digest"] = role.source_digest->hex();
  }
  return json;
}

Json json_of(const Manifest::Tensor& tensor, bool proven) {
  Json json = {{"name", tensor.name}, {"dtype", name(tensor.dtype)}, {"shape", tensor.shape}};
  if (tensor.chunks.empty()) {
    json["offset"] = tensor.offset;
  } else {
    Json chunks = Json::array();
    for (const ByteRange& chunk : tensor.chunks) chunks.push_back({chunk.first, chunk.size()});
    json["chunks"] = std::move(chunks);
  }
  json["roles"] = tensor.roles;
  if (tensor.fill != 0) json["fill"] = tensor.fill;
  if (tensor.repeated != 0) json["repeated"] = tensor.repeated;
  if (!tensor.constant.empty()) json["constant"] = tensor.constant;
  if (proven) json["digest"] = tensor.digest.hex();
  return json;
}

Dtype dtype_in(const Json& json, const char* key) {
  const auto text = json.at(key).get<std::string>();
  const std::optional<Dtype> dtype = dtype_of_name(text);
  if (!dtype) throw Error(Kind::input, "dtype " + text + " is not known");
  return *dtype;
}

Digest digest_in(const Json& json, const char* key) {
  const std::optional<Digest> digest = digest_of_hex(json.at(key).get<std::string>());
  if (!digest) throw Error(Kind::input, std::string(key) + " is none");
  return *digest;
}

Manifest::Role role_of(const Json& json, bool proven) {
  Manifest::Role role{.role = json.at("role").get<std::string>(),
                      .factors = json.at("factors").get<std::vector<std::string>>(),
                      .shape = json.at("shape").get<Shape>(),
                      .dtype = dtype_in(json, "dtype"),
                      .add = json.value("add", 0.0)};
  if (proven) role.digest = digest_in(json, "digest");
  if (json.contains("source_digest")) {
    role.source_dtype = dtype_in(json, "source_dtype");
    role.source_add = json.value("source_add", 0.0);
    role.source_digest = digest_in(json, "source_digest");
  }
  return role;
}

Manifest::Tensor tensor_of(const Json& json, bool proven) {
  Manifest::Tensor tensor{.name = json.at("name").get<std::string>(),
                          .dtype = dtype_in(json, "dtype"),
                          .shape = json.at("shape").get<Shape>(),
                          .roles = json.at("roles").get<std::vector<std::string>>(),
                          .fill = json.value("fill", std::uint64_t{0}),
                          .repeated = json.value("repeated", std::uint64_t{0}),
                          .constant = json.value("constant", std::string())};
  tensor.bytes = checked_product(elements(tensor.shape), bytes(tensor.dtype));
  if (!json.contains("chunks")) {
    tensor.offset = json.at("offset").get<std::uint64_t>();
  } else {
    for (const Json& chunk : json.at("chunks")) {
      const auto first = chunk.at(0).get<std::uint64_t>();
      tensor.chunks.push_back({first, checked_sum(first, chunk.at(1).get<std::uint64_t>())});
    }
  }
  if (proven) tensor.digest = digest_in(json, "digest");
  return tensor;
}

/// Whether a path stays in the folder that it is relative to.
bool stays_inside(const fs::path& path) {
  return !path.empty() && path.is_relative() && path.native().find('\0') == std::string::npos &&
         std::none_of(path.begin(), path.end(), [](const fs::path& part) { return part == ".."; });
}

Manifest::File file_of(const Json& json, bool proven) {
  Manifest::File file{.path = json.at("path").get<std::string>(),
                      .bytes = json.at("bytes").get<std::uint64_t>()};
  if (!stays_inside(file.path)) {
    throw Error(Kind::input, "file " + file.path + " is not in the folder");
  }
  if (!proven) return file;
  const auto text = json.at("others").get<std::string>();
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), file.others, 16);
  if (error != std::errc() || end != text.data() + text.size() || text.size() != 8) {
    throw Error(Kind::input, "others is no CRC-32");
  }
  return file;
}

FileExtents extents_of(const Manifest::File& file) {
  FileExtents extents{.bytes = file.bytes};
  for (const Manifest::Tensor& tensor : file.tensors) {
    const ByteRange all{tensor.offset, checked_sum(tensor.offset, tensor.bytes)};
    extents.add(tensor.chunks.empty() ? std::span(&all, 1) : std::span(tensor.chunks));
  }
  extents.sort();
  return extents;
}

void check_extents(const Manifest::File& file) {
  std::uint64_t end = 0;
  for (const FileExtents::Part& part : extents_of(file).parts) {
    if (part.range.first < end || part.range.last > file.bytes) {
      throw Error(Kind::input, file.path + ": " + file.tensors[part.tensor].name + " lies at " +
                                   std::to_string(part.range.first) +
                                   " over another or beyond the " + std::to_string(file.bytes) +
                                   " bytes of the file");
    }
    end = part.range.last;
  }
}

Manifest manifest_of(const Json& json) {
  Manifest manifest;
  if (json.at("format") != format_name || json.at("version") != 1) {
    throw Error(Kind::input, "wanted format " + std::string(format_name) + ", version 1");
  }
  manifest.facts = json.at("facts");
  manifest.movement = json.at("movement").get<std::string>();
  manifest.proven = json.at("proven").get<bool>();
  for (const Json& role : json.at("tensors")) {
    manifest.tensors.push_back(role_of(role, manifest.proven));
  }
  std::uint64_t left = 0;  // tensors of the last file that are still to come
  for (const Json& item : json.at("files")) {
    if (left > 0) {
      manifest.files.back().tensors.push_back(tensor_of(item, manifest.proven));
      --left;
    } else {
      manifest.files.push_back(file_of(item, manifest.proven));
      left = item.at("tensors").get<std::uint64_t>();
    }
  }
  if (left > 0) throw Error(Kind::input, "tensors of the last file are missing");
  if (manifest.files.empty()) throw Error(Kind::input, "names no files");
  for (const Manifest::File& file : manifest.files) check_extents(file);
  return manifest;
}

/// What stands before and behind the checksum of all before it.
constexpr std::string_view checksum_begin = "\"crc32\": \"", checksum_end = "\"\n}\n";

}  // namespace

std::optional<Digest> digest_of_hex(std::string_view hex) {
  Digest digest;
  if (hex.size() != 32) return std::nullopt;
  const char* const middle = hex.data() + 16;
  const auto high = std::from_chars(hex.data(), middle, digest.high, 16);
  const auto low = std::from_chars(middle, middle + 16, digest.low, 16);
  if (high.ptr != middle || low.ptr != middle + 16 || digest.hex() != hex) return std::nullopt;
  return digest;
}

std::string manifest_text(const Manifest& manifest) {
  Json roles = Json::array(), files = Json::array();
  for (const Manifest::Role& role : manifest.tensors) roles.push_back(json_of(role));
  for (const Manifest::File& file : manifest.files) {
    files.push_back({{"path", file.path}, {"bytes", file.bytes}});
    if (manifest.proven) files.back()["others"] = hex(file.others);
    files.back()["tensors"] = file.tensors.size();
    for (const Manifest::Tensor& tensor : file.tensors) {
      files.push_back(json_of(tensor, manifest.proven));
    }
  }
  std::string text = "{\n\"format\": \"" + std::string(format_name) + "\",\n\"version\": 1,\n";
  text += "\"facts\": " + manifest.facts.dump(1, ' ', false, Json::error_handler_t::replace) +
          ",\n\"movement\": " + compact(manifest.movement) +
          ",\n\"proven\": " + (manifest.proven ? "true" : "false") +
          ",\n\"tensors\": " + lines(roles) + ",\n\"files\": " + lines(files) + ",\n";
  const std::uint32_t crc = crc32_of(std::as_bytes(std::span(text)));
  return text + std::string(checksum_begin) + hex(crc) + std::string(checksum_end);
}

Manifest read_manifest(std::string_view text, const std::string& path) {
  return with_context(path, [&] {
    const std::size_t tail = checksum_begin.size() + 8 + checksum_end.size();
    const std::string_view body = text.substr(0, text.size() - std::min(text.size(), tail));
    const std::string wanted = std::string(checksum_begin) +
                               hex(crc32_of(std::as_bytes(std::span(body)))) +
                               std::string(checksum_end);
    if (text.substr(body.size()) != wanted) {
      throw Error(Kind::input, "is no manifest, or not as it was written: it does not end with " +
                                   wanted.substr(0, tail - checksum_end.size() + 1));
    }
    try {
      // Much larger than its text no manifest becomes, however many tensors there are.
      const JsonLimits limits{most_depth, 32 * text.size() + (std::uint64_t{1} << 20)};
      return manifest_of(json_of_text(text, limits));
    } catch (const Json::exception& error) {
      throw Error(Kind::input, error.what());
    }
  });
}

Manifest find_manifest(const std::string& folder, std::string& unit) {
  const auto has_one = [](const fs::path& place) {
    std::error_code ignored;
    return fs::is_regular_file(place / manifest_name, ignored);
  };
  std::vector<std::string> found;
  if (!fs::is_directory(folder)) {
    throw Error(Kind::input, folder + ": is no folder that is there");
  }
  if (has_one(folder)) {
    found.push_back(folder);
  } else {
    for (const auto& entry : fs::directory_iterator(folder)) {
      const bool is_unit = is_unit_name(entry.path().filename().string());
      if (is_unit && has_one(entry.path())) found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  if (found.empty()) {
    throw Error(Kind::input, folder + ": no " + std::string(manifest_name) +
                                 " in it or in a folder of it; only what reshard converted has "
                                 "one, two checkpoints can be compared");
  }
  if (found.size() > 1) {
    throw Error(Kind::usage, folder + ": " + std::to_string(found.size()) + " folders have a " +
                                 std::string(manifest_name) +
                                 ", name one of them: " + found.front() + ", " + found[1] +
                                 (found.size() > 2 ? ", .." : ""));
  }
  unit = found.front();
  const std::string path = unit + "/" + std::string(manifest_name);
  return read_manifest(read_text(path, most_bytes), path);
}

std::vector<FileExtents> extents_of(const Manifest& manifest) {
  std::vector<FileExtents> all;
  for (const Manifest::File& file : manifest.files) all.push_back(extents_of(file));
  return all;
}

}  // namespace reshard::formats
