#include "core/error.hpp"
#include "formats/container/dcp.hpp"
#include "formats/container/torch_file.hpp"

namespace reshard::formats {
namespace {

/// The header of an item's torch file.
FileIndex read_item(const ByteSource& file, const DcpItem& item, const std::string& name) {
  if (item.offset > file.size || item.bytes > file.size - item.offset) {
    throw Error(Kind::input, name + ": its item of " + std::to_string(item.bytes) +
                                 " bytes at byte " + std::to_string(item.offset) +
                                 " lies outside the file of " + std::to_string(file.size) +
                                 " bytes");
  }
  FileIndex index = read_torch_file(sub_source(file, item.offset, item.bytes), name);
  if (index.container != "torch-zip") {
    throw Error(Kind::input, name + ": its item is no zip archive");
  }
  return index;
}

}  // namespace

TensorEntry read_dcp_chunk(const ByteSource& file, const DcpItem& item, const std::string& name,
                           Dtype dtype, const Shape& shape) {
  FileIndex index = read_item(file, item, name);
  if (index.tensors.size() != 1 || !index.tensors.front().name.empty()) {
    throw Error(Kind::input, name + ": its item holds " + std::to_string(index.tensors.size()) +
                                 " tensors, wanted nothing but one");
  }
  TensorEntry entry = std::move(index.tensors.front());
  if (entry.dtype != dtype || entry.shape != shape) {
    throw Error(Kind::input, name + ": its item holds " + std::string(reshard::name(entry.dtype)) +
                                 " " + to_string(entry.shape) + ", wanted " +
                                 std::string(reshard::name(dtype)) + " " + to_string(shape));
  }
  entry.name = name;
  entry.offset += item.offset;
  return entry;
}

Json read_dcp_bytes(const ByteSource& file, const DcpItem& item, const std::string& name) {
  return read_item(file, item, name).facts;
}

}  // namespace reshard::formats
