#include "formats/container/dcp_layout.hpp"

#include <map>
#include <utility>

#include "formats/container/torch_layout.hpp"
#include "formats/container/zip_writer.hpp"

namespace reshard::formats {
namespace {

/// torch's name for the folder in an archive that it writes to a stream.
const std::string root = "archive";

TorchFileSpec archive_of(const TensorSpec& tensor) {
  return {root, {{"!", "tensor"}, {"index", 0}}, {{"", tensor.dtype, tensor.shape}}};
}

/// The archives of a file, made once for each dtype and shape, and where each begins.
class Archives {
 public:
  explicit Archives(const DcpFileSpec& spec) : spec_(spec) {
    std::uint64_t at = spec.bytes.size();
    for (const TensorSpec& tensor : spec.tensors) {
      const auto [made, is_new] = layouts_.try_emplace(std::pair(tensor.dtype, tensor.shape));
      if (is_new) made->second = torch_layout(archive_of(tensor));
      at = (at + zip_alignment - 1) / zip_alignment * zip_alignment;
      items_.push_back({0, at, made->second.bytes});
      archives_.push_back(&made->second);
      at = checked_sum(at, made->second.bytes);
    }
    bytes_ = at;
  }

  [[nodiscard]] const std::vector<DcpItem>& items() const { return items_; }

  [[nodiscard]] FileLayout layout() const {
    FileLayout all;
    all.bytes = bytes_;
    if (!spec_.bytes.empty()) all.literals.push_back({0, spec_.bytes});
    for (std::uint32_t i = 0; i < items_.size(); ++i) {
      for (const FileLayout::Literal& literal : archives_[i]->literals) {
        all.literals.push_back({items_[i].offset + literal.offset, literal.bytes});
      }
      for (const FileLayout::Data& data : archives_[i]->data) {
        all.data.push_back({i, items_[i].offset + data.offset, data.bytes});
      }
    }
    return all;
  }

 private:
  const DcpFileSpec& spec_;
  std::map<std::pair<Dtype, Shape>, FileLayout> layouts_;
  std::vector<const FileLayout*> archives_;  ///< of each tensor
  std::vector<DcpItem> items_;
  std::uint64_t bytes_ = 0;
};

}  // namespace

std::vector<DcpItem> dcp_items(const DcpFileSpec& spec) {
  return Archives(spec).items();
}

FileLayout dcp_layout(const DcpFileSpec& spec) {
  return Archives(spec).layout();
}

std::vector<FileLayout::Literal> dcp_trailer(const DcpFileSpec& spec,
                                             std::span<const std::uint32_t> crc_of_tensor) {
  const std::vector<DcpItem> items = dcp_items(spec);
  std::vector<FileLayout::Literal> literals;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const TorchFileSpec archive = archive_of(spec.tensors[i]);
    for (FileLayout::Literal& literal : torch_trailer(archive, crc_of_tensor.subspan(i, 1))) {
      literals.push_back({items[i].offset + literal.offset, std::move(literal.bytes)});
    }
  }
  return literals;
}

std::string dcp_bytes(const Json& value) {
  const TorchFileSpec archive{root, value, {}};
  const FileLayout layout = torch_layout(archive);
  std::string bytes(layout.bytes, '\0');
  for (const auto& literals : {layout.literals, torch_trailer(archive, {})}) {
    for (const FileLayout::Literal& literal : literals) {
      bytes.replace(literal.offset, literal.bytes.size(), literal.bytes);
    }
  }
  return bytes;
}

}  // namespace reshard::formats
