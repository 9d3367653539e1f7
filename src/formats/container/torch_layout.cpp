#include "formats/container/torch_layout.hpp"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string_view>

#include "core/error.hpp"
#include "core/shape.hpp"
#include "formats/container/crc32.hpp"
#include "formats/container/pickle_writer.hpp"
#include "formats/container/zip_writer.hpp"

namespace reshard::formats {
namespace {

constexpr std::uint64_t serialization_digits = 20;  // of each of the two halves

/// Every tensor must be in the value, or its data would be there without a name.
void require_all_named(const Json& value, std::vector<bool>& named) {
  if (value.is_object() && value.value("!", Json()) == "tensor") {
    const auto index = value.at("index").get<std::uint64_t>();
    if (index < named.size()) named[index] = true;
    return;
  }
  if (!value.is_structured()) return;
  for (const Json& item : value) require_all_named(item, named);
}

/// 64-bit FNV-1a.
std::uint64_t hash_of(std::string_view text, std::uint64_t hash = 0xcbf29ce484222325) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

std::string digits_of(std::uint64_t number) {
  std::string digits = std::to_string(number);
  return std::string(serialization_digits - digits.size(), '0') + digits;
}

/// 40 digits that depend on the content's description only, so that the same conversion gives the
/// same file: one hash of the tensors, one of the pickle.
std::string serialization_id(const TorchFileSpec& spec, const std::string& pickle) {
  std::uint64_t hash = hash_of(spec.root);
  for (const TensorSpec& tensor : spec.tensors) {
    hash = hash_of(tensor.name + "\n" + to_string(tensor.shape) + "\n", hash);
  }
  return digits_of(hash) + digits_of(hash_of(pickle));
}

/// The archive's records in order; `tensor` marks those whose content comes later.
struct Record {
  std::string name, content;
  std::optional<std::uint32_t> tensor;
};

std::vector<Record> records_of(const TorchFileSpec& spec) {
  std::vector<bool> named(spec.tensors.size());
  require_all_named(spec.value, named);
  const auto missing = std::find(named.begin(), named.end(), false);
  if (missing != named.end()) {
    const auto index = static_cast<std::size_t>(missing - named.begin());
    throw Error(Kind::internal, "tensor " + spec.tensors[index].name + " is not in the value");
  }
  const std::string pickle = write_pickle(spec.value, spec.tensors);
  std::vector<Record> records = {{"data.pkl", pickle, {}},
                                 {".format_version", "1", {}},
                                 {".storage_alignment", std::to_string(zip_alignment), {}},
                                 {"byteorder", "little", {}}};
  for (std::uint32_t i = 0; i < spec.tensors.size(); ++i) {
    records.push_back({"data/" + std::to_string(i), "", i});
  }
  records.push_back({"version", "3\n", {}});
  records.push_back({".data/serialization_id", serialization_id(spec, pickle), {}});
  for (Record& record : records) record.name = spec.root + "/" + record.name;
  return records;
}

/// Records with their places in the file.
struct Placed {
  std::vector<Record> records;
  std::vector<ZipPlace> places;
  std::uint64_t directory = 0;  ///< offset of the central directory
};

Placed place(const TorchFileSpec& spec) {
  Placed placed{records_of(spec), {}, 0};
  for (const Record& record : placed.records) {
    std::uint64_t size = record.content.size();
    if (record.tensor) {
      const TensorSpec& tensor = spec.tensors[*record.tensor];
      size = checked_product(elements(tensor.shape), bytes(tensor.dtype));
    }
    placed.places.push_back(place_record(record.name, size, placed.directory));
    placed.directory = placed.places.back().end;
  }
  return placed;
}

std::uint32_t crc_of_text(std::string_view text) {
  return crc32_of(std::as_bytes(std::span(text)));
}

}  // namespace

FileLayout torch_layout(const TorchFileSpec& spec) {
  const Placed placed = place(spec);
  FileLayout layout;
  const auto add = [&](std::uint64_t offset, const std::string& bytes) {
    if (bytes.empty()) return;
    const bool follows =
        !layout.literals.empty() &&
        layout.literals.back().offset + layout.literals.back().bytes.size() == offset;
    if (!follows) layout.literals.push_back({offset, ""});
    layout.literals.back().bytes += bytes;
  };
  for (std::size_t i = 0; i < placed.records.size(); ++i) {
    const Record& record = placed.records[i];
    const ZipPlace& at = placed.places[i];
    add(at.header, local_header(record.name, at));
    if (record.tensor) {
      if (at.bytes > 0) layout.data.push_back({*record.tensor, at.data, at.bytes});
    } else {
      add(at.data, record.content);
      add(at.data + at.bytes, data_descriptor(at, crc_of_text(record.content)));
    }
  }
  layout.bytes = placed.directory;
  for (std::size_t i = 0; i < placed.records.size(); ++i) {
    layout.bytes += central_entry(placed.records[i].name, placed.places[i], 0).size();
  }
  layout.bytes +=
      end_records(placed.directory, layout.bytes - placed.directory, placed.records.size()).size();
  return layout;
}

std::vector<FileLayout::Literal> torch_trailer(const TorchFileSpec& spec,
                                               std::span<const std::uint32_t> crc_of_tensor) {
  if (crc_of_tensor.size() != spec.tensors.size()) {
    throw Error(Kind::internal, std::to_string(crc_of_tensor.size()) + " CRCs for " +
                                    std::to_string(spec.tensors.size()) + " tensors");
  }
  const Placed placed = place(spec);
  std::vector<FileLayout::Literal> literals;
  std::string directory;
  for (std::size_t i = 0; i < placed.records.size(); ++i) {
    const Record& record = placed.records[i];
    const ZipPlace& at = placed.places[i];
    const std::uint32_t crc =
        record.tensor ? crc_of_tensor[*record.tensor] : crc_of_text(record.content);
    if (record.tensor && at.bytes > 0) {
      literals.push_back({at.data + at.bytes, data_descriptor(at, crc)});
    }
    directory += central_entry(record.name, at, crc);
  }
  directory += end_records(placed.directory, directory.size(), placed.records.size());
  literals.push_back({placed.directory, std::move(directory)});
  return literals;
}

}  // namespace reshard::formats
