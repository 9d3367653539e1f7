#include "formats/dialect/target.hpp"

#include <algorithm>
#include <filesystem>
#include <tuple>

#include "core/error.hpp"
#include "formats/container/dcp_layout.hpp"
#include "formats/container/safetensors.hpp"
#include "formats/container/torch_layout.hpp"

namespace reshard::formats {
namespace {

std::vector<TensorSpec> specs_of(const FileDescription& file) {
  std::vector<TensorSpec> specs;
  for (const StoredTensor& tensor : file.tensors) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  return specs;
}

TorchFileSpec torch_spec(const FileDescription& file) {
  return {std::filesystem::path(file.path).stem().string(), file.value, specs_of(file)};
}

FileLayout::Copy copy_of(const FileDescription& file) {
  return {0, file.copied_bytes, file.copied_from, file.copied_offset};
}

DcpFileSpec dcp_spec(const FileDescription& file) {
  return {file.content, specs_of(file)};
}

}  // namespace

Hdf5Spec hdf5_spec(const FileDescription& file) {
  Hdf5Spec spec;
  spec.attributes = file.value.at("attributes");
  for (std::size_t t = 0; t < file.tensors.size(); ++t) {
    const StoredTensor& tensor = file.tensors[t];
    spec.tensors.push_back({{tensor.name, tensor.dtype, tensor.shape},
                            file.value.at("roles").at(t).get<std::vector<std::string>>()});
  }
  for (const FileDescription& inner : file.inner) {
    spec.contents.push_back({inner.path, inner.content, copy_of(inner)});
  }
  return spec;
}

FileDescription plain_file(std::string path, std::string content) {
  FileDescription file;
  file.path = std::move(path);
  file.content = std::move(content);
  return file;
}

std::vector<FileDescription> companion_files(const std::vector<Companion>& companions,
                                             const std::string& folder) {
  std::vector<FileDescription> files;
  for (const Companion& companion : companions) {
    FileDescription file;
    file.path = folder + companion.name;
    file.container = FileDescription::Container::copy;
    file.copied_from = companion.path;
    file.copied_bytes = companion.bytes;
    file.copied_offset = companion.offset;
    files.push_back(std::move(file));
  }
  return files;
}

FileLayout layout_of(const FileDescription& file) {
  return with_context(file.path, [&] {
    switch (file.container) {
      case FileDescription::Container::safetensors:
        return safetensors_layout(specs_of(file), file.value);
      case FileDescription::Container::torch:
        return torch_layout(torch_spec(file));
      case FileDescription::Container::hdf5:
        return file.is_filtered() ? hdf5_filtered_layout(hdf5_spec(file), file.packing)
                                  : hdf5_layout(hdf5_spec(file));
      case FileDescription::Container::dcp:
        return dcp_layout(dcp_spec(file));
      case FileDescription::Container::copy:
        return FileLayout{file.copied_bytes, {}, {}, {copy_of(file)}};
      case FileDescription::Container::plain:
        break;
    }
    return FileLayout{file.content.size(), {{0, file.content}}, {}};
  });
}

std::vector<std::uint32_t> contents_of(const StoredTensor& tensor) {
  std::vector<std::uint32_t> contents;
  for (const Placement& placement : tensor.placements) {
    if (std::find(contents.begin(), contents.end(), placement.tensor) == contents.end()) {
      contents.push_back(placement.tensor);
    }
  }
  return contents;
}

bool has_crcs(const FileDescription& file) {
  return file.container == FileDescription::Container::torch ||
         file.container == FileDescription::Container::dcp;
}

std::vector<FileLayout::Literal> trailer_of(const FileDescription& file, const FileLayout& layout,
                                            const TensorSums& sums) {
  using Container = FileDescription::Container;
  if (file.container == Container::dcp) return dcp_trailer(dcp_spec(file), sums.crcs);
  if (file.container == Container::torch) return torch_trailer(torch_spec(file), sums.crcs);
  const bool has_digests = !sums.digests.empty() && !file.is_filtered();
  if (file.container != Container::hdf5 || !has_digests) return {};
  return hdf5_trailer(hdf5_spec(file), layout, sums.digests);
}

Geometry make_geometry(Source& source, Target& target, const std::vector<FileLayout>& layouts) {
  Geometry geometry;
  geometry.model = source.model;
  geometry.sources = source.files;
  geometry.pieces = std::move(source.pieces);
  source.pieces.clear();
  for (std::uint32_t f = 0; f < target.files.size(); ++f) {
    TargetFile file{target.files[f].path, layouts[f].bytes, {}, layouts[f].borders};
    std::vector<FileLayout::Data> data = layouts[f].data;
    std::sort(data.begin(), data.end(), [](const auto& a, const auto& b) {
      return std::tie(a.offset, a.bytes) < std::tie(b.offset, b.bytes);
    });
    for (const FileLayout::Data& place : data) {
      file.tensors.push_back(static_cast<std::uint32_t>(geometry.tensors.size()));
      StoredTensor& described = target.files[f].tensors[place.tensor];
      std::vector<Placement> placements = std::move(described.placements);
      described.placements.clear();
      geometry.tensors.push_back({f, place.offset, place.bytes, described, place.tensor, {}, 0});
      geometry.tensors.back().stored.placements = std::move(placements);
    }
    geometry.targets.push_back(std::move(file));
  }
  geometry.complete();
  return geometry;
}

}  // namespace reshard::formats
