#include "formats/container/file_index.hpp"

#include <string>

#include "core/error.hpp"

namespace reshard::formats {

namespace {

Json to_json(const Chunking& chunks) {
  Json filters = Json::array(), places = Json::array();
  for (const Chunking::Filter filter : chunks.filters) filters.push_back(static_cast<int>(filter));
  for (const Chunking::Place& place : chunks.places) {
    places.insert(places.end(), {place.offset, place.bytes, place.skipped});
  }
  return {chunks.shape, chunks.extent, chunks.width, std::move(filters), std::move(places)};
}

std::shared_ptr<const Chunking> chunking_from_json(const Json& json) {
  if (json.is_null()) return nullptr;
  Chunking chunks{json[0].get<Shape>(), json[1].get<Shape>(), json[2].get<std::uint64_t>(), {}, {}};
  for (const Json& filter : json[3]) {
    chunks.filters.push_back(static_cast<Chunking::Filter>(filter.get<int>()));
  }
  for (std::size_t i = 0; i + 2 < json[4].size(); i += 3) {
    chunks.places.push_back({json[4][i].get<std::uint64_t>(), json[4][i + 1].get<std::uint64_t>(),
                             json[4][i + 2].get<std::uint32_t>()});
  }
  return std::make_shared<const Chunking>(std::move(chunks));
}

}  // namespace

Json to_json(const FileIndex& index) {
  Json tensors = Json::array();
  for (const TensorEntry& entry : index.tensors) {
    tensors.push_back({entry.name, name(entry.dtype), entry.shape, entry.offset, entry.strides,
                       entry.chunks ? to_json(*entry.chunks) : Json()});
  }
  return {{"path", index.path},
          {"container", index.container},
          {"bytes", index.bytes},
          {"tensors", std::move(tensors)},
          {"facts", index.facts}};
}

FileIndex index_from_json(const Json& json) {
  FileIndex index{json.at("path").get<std::string>(),
                  json.at("container").get<std::string>(),
                  json.at("bytes").get<std::uint64_t>(),
                  {},
                  json.at("facts")};
  for (const Json& entry : json.at("tensors")) {
    const auto dtype = dtype_of_name(entry[1].get<std::string>());
    if (!dtype) throw Error(Kind::internal, "index of " + index.path + " has an unknown dtype");
    index.tensors.push_back(
        {entry[0].get<std::string>(), *dtype, entry[2].get<Shape>(), entry[3].get<std::uint64_t>(),
         entry[4].get<std::vector<std::uint64_t>>(), chunking_from_json(entry[5])});
  }
  return index;
}

}  // namespace reshard::formats
