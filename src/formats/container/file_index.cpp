#include "formats/container/file_index.hpp"

#include <string>

#include "core/error.hpp"

namespace reshard::formats {

Json to_json(const FileIndex& index) {
  Json tensors = Json::array();
  for (const TensorEntry& entry : index.tensors) {
    tensors.push_back({entry.name, name(entry.dtype), entry.shape, entry.offset, entry.strides});
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
    index.tensors.push_back({entry[0].get<std::string>(), *dtype, entry[2].get<Shape>(),
                             entry[3].get<std::uint64_t>(),
                             entry[4].get<std::vector<std::uint64_t>>()});
  }
  return index;
}

}  // namespace reshard::formats
