#include <unordered_map>

#include "formats/container/dcp.hpp"
#include "formats/container/pickle_output.hpp"

namespace reshard::formats {
namespace {

/// The pickle of a .metadata: objects of torch's classes, each class and each text that comes again
/// written once and fetched from the memo.
class MetadataWriter {
 public:
  explicit MetadataWriter(const DcpMetadata& metadata) : metadata_(metadata) {}

  std::string write() {
    instance("Metadata");
    out_.op("}(");
    text("state_dict_metadata");
    out_.op("}");
    for (const DcpEntry& entry : metadata_.entries) {
      out_.op('(');
      text(entry.name);
      describe(entry);
      out_.op('u');
    }
    text("storage_data");
    out_.op("}");
    for (const DcpEntry& entry : metadata_.entries) {
      out_.op('(');
      if (!entry.is_tensor) place(entry, nullptr, entry.item);
      for (const DcpChunk& chunk : entry.chunks) place(entry, &chunk.offset, chunk.item);
      out_.op('u');
    }
    for (const char* name : {"planner_data", "storage_meta"}) {
      text(name);
      out_.op('N');
    }
    out_.op("ub");
    return out_.take();
  }

 private:
  /// Fetches what has been memoized under a name; false when nothing has, which then must be
  /// written and, by PUT, kept.
  bool fetch(const std::string& name) {
    const auto found = memo_.find(name);
    if (found == memo_.end()) return false;
    const bool small = found->second <= 0xff;
    out_.op(small ? 'h' : 'j');
    out_.little_endian(found->second, small ? 1 : 4);
    return true;
  }
  void keep(const std::string& name) {
    const auto number = memo_.emplace(name, memo_.size()).first->second;
    const bool small = number <= 0xff;
    out_.op(small ? 'q' : 'r');
    out_.little_endian(number, small ? 1 : 4);
  }

  void text(const std::string& value) {
    const std::string name = "'" + value;
    if (fetch(name)) return;
    out_.text(value);
    keep(name);
  }

  void global(const std::string& module, const std::string& name) {
    const std::string full = module + "." + name;
    if (fetch(full)) return;
    out_.global(module, name);
    keep(full);
  }
  /// A class of torch 2.3 and later.
  void global(const std::string& name) {
    global(name == "_StorageInfo" ? "torch.distributed.checkpoint.filesystem"
                                  : "torch.distributed.checkpoint.metadata",
           name);
  }

  /// An object without fields.
  void instance(const std::string& class_name) {
    global(class_name);
    out_.op(")\x81");
  }

  void size(const Shape& shape) {
    global("torch", "Size");
    if (shape.size() > 3) out_.op('(');
    for (const std::uint64_t n : shape) out_.natural(n);
    constexpr std::string_view tuples = ")\x85\x86\x87";
    out_.op(shape.size() > 3 ? 't' : tuples[shape.size()]);
    out_.op("\x85R");
  }

  void describe(const DcpEntry& entry) {
    if (!entry.is_tensor) return instance("BytesStorageMetadata");
    instance("TensorStorageMetadata");
    out_.op("}(");
    text("properties");
    properties(entry.dtype);
    text("size");
    size(entry.shape);
    text("chunks");
    out_.op("](");
    for (const DcpChunk& chunk : entry.chunks) {
      instance("ChunkStorageMetadata");
      out_.op("}(");
      text("offsets");
      size(chunk.offset);
      text("sizes");
      size(chunk.shape);
      out_.op("ub");
    }
    out_.op("eub");
  }

  /// dtype, layout, requires_grad, memory format, pinned memory.
  void properties(const std::string& dtype) {
    const std::string name = "properties of " + dtype;
    if (fetch(name)) return;
    instance("TensorProperties");
    out_.op('(');
    global("torch", dtype);
    global("torch.serialization", "_get_layout");
    out_.text("torch.strided");
    out_.op("\x85R");
    out_.boolean(false);
    global("_MEM_FORMAT_ENCODING");
    out_.natural(0);  // contiguous
    out_.op("\x85R");
    out_.boolean(false);
    out_.op("tb");
    keep(name);
  }

  void place(const DcpEntry& entry, const Shape* offset, const DcpItem& item) {
    instance("MetadataIndex");
    out_.op("}(");
    text("fqn");
    text(entry.name);
    text("offset");
    if (offset != nullptr) {
      size(*offset);
    } else {
      out_.op('N');
    }
    text("index");
    out_.op("Nub");
    instance("_StorageInfo");
    out_.op("}(");
    text("relative_path");
    text(metadata_.files[item.file]);
    text("offset");
    out_.natural(item.offset);
    text("length");
    out_.natural(item.bytes);
    out_.op("ub");
  }

  const DcpMetadata& metadata_;
  PickleOutput out_;
  std::unordered_map<std::string, std::uint64_t> memo_;
};

}  // namespace

std::string write_dcp_metadata(const DcpMetadata& metadata) {
  return MetadataWriter(metadata).write();
}

}  // namespace reshard::formats
