#include <algorithm>
#include <functional>

#include "formats/container/hdf5_filtered.hpp"
#include "formats/container/hdf5_writer.hpp"
#include "formats/container/isolated.hpp"
#include "formats/file.hpp"

// What stands around the tensors in a file that HDF5's library wrote, held against what was to be
// written.

namespace reshard::formats {
namespace {

[[noreturn]] void differ(const std::string& what) {
  throw Error(Kind::verification, what + " is not what was written");
}

/// Texts of fixed length of an attribute, without the zeros behind them.
std::vector<std::string> texts_of(hid_t object, const char* name) {
  const Hdf5Handle attribute(H5Aopen(object, name, H5P_DEFAULT), "H5Aopen", Kind::verification);
  const Hdf5Handle type(H5Aget_type(attribute.get()), "H5Aget_type", Kind::verification);
  const Hdf5Handle space(H5Aget_space(attribute.get()), "H5Aget_space", Kind::verification);
  const auto count = static_cast<std::size_t>(
      hdf5_checked(H5Sget_simple_extent_npoints(space.get()), "size", Kind::verification));
  const std::size_t size = H5Tget_size(type.get());
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0) differ(name);
  std::string table(count * size, '\0');
  if (count > 0) {
    hdf5_checked(H5Aread(attribute.get(), type.get(), table.data()), "H5Aread", Kind::verification);
  }
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < count; ++i) {
    texts.push_back(table.substr(i * size, size));
    texts.back().resize(std::min(texts.back().find('\0'), size));
  }
  return texts;
}

void check_texts(hid_t object, const char* name, const std::vector<std::string>& wanted) {
  if (texts_of(object, name) != wanted) differ(std::string("attribute ") + name);
}

Hdf5Handle opened(hid_t place, const std::string& name) {
  return {H5Dopen2(place, name.c_str(), H5P_DEFAULT), "H5Dopen2", Kind::verification};
}

void check_shape(const Hdf5Handle& dataset, Dtype dtype, const Shape& shape) {
  const Hdf5Handle type(H5Dget_type(dataset.get()), "H5Dget_type", Kind::verification);
  const Hdf5Handle space(H5Dget_space(dataset.get()), "H5Dget_space", Kind::verification);
  const Hdf5Handle wanted = hdf5_space_of(shape);
  if (H5Tequal(type.get(), hdf5_type_of(dtype).get()) <= 0) differ("its type");
  if (H5Sextent_equal(space.get(), wanted.get()) <= 0) differ("its shape");
}

/// Chunks and their filters as they were wished.
void check_packing(const Hdf5Handle& dataset, const Shape& chunk, const Hdf5Packing& packing) {
  const Hdf5Handle list(H5Dget_create_plist(dataset.get()), "H5Dget_create_plist",
                        Kind::verification);
  if (chunk.empty()) {
    if (H5Pget_layout(list.get()) != H5D_CONTIGUOUS) differ("its layout");
    return;
  }
  std::vector<hsize_t> extent(chunk.size());
  const auto rank = static_cast<int>(chunk.size());
  const bool has_chunks = H5Pget_layout(list.get()) == H5D_CHUNKED &&
                          H5Pget_chunk(list.get(), rank, extent.data()) == rank;
  if (!has_chunks || !std::equal(extent.begin(), extent.end(), chunk.begin())) differ("its chunks");
  std::vector<H5Z_filter_t> wanted = {H5Z_FILTER_SHUFFLE, H5Z_FILTER_DEFLATE}, found;
  if (packing.filter == "fletcher32") wanted = {H5Z_FILTER_FLETCHER32};
  for (int i = 0; i < H5Pget_nfilters(list.get()); ++i) {
    unsigned flags = 0, settings = 0;
    std::size_t values = 0;
    found.push_back(H5Pget_filter2(list.get(), static_cast<unsigned>(i), &flags, &values, nullptr,
                                   0, nullptr, &settings));
  }
  if (found != wanted) differ("its filter");
}

void check_count(hid_t file, const char* group, std::size_t wanted) {
  H5G_info_t info = {};
  hdf5_checked(H5Gget_info_by_name(file, group, &info, H5P_DEFAULT), "H5Gget_info_by_name",
               Kind::verification);
  if (info.nlinks != wanted) differ(std::string("the number of datasets in ") + group);
}

void check_content(hid_t file, const Hdf5Spec::Content& content) {
  const std::string wanted = content_of(content);
  const Hdf5Handle dataset = opened(file, "/metadata/" + content.name);
  check_shape(dataset, Dtype::u8, {wanted.size()});
  std::string seen(wanted.size(), '\0');
  if (!seen.empty()) {
    hdf5_checked(H5Dread(dataset.get(), H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, seen.data()),
                 "H5Dread", Kind::verification);
  }
  if (seen != wanted) differ("its content");
}

void check_here(const std::string& path, const Hdf5Spec& spec, const Hdf5Packing& packing,
                const Hdf5Digests* digests, const std::function<void()>& progress) {
  const auto lock = hdf5_lock();
  const Hdf5Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), "H5Fopen",
                        Kind::verification);
  const Hdf5Handle root(H5Gopen2(file.get(), "/", H5P_DEFAULT), "H5Gopen2", Kind::verification);
  check_texts(root.get(), "format", {hdf5_format});
  for (const auto& [name, text] : spec.attributes.items()) {
    check_texts(root.get(), name.c_str(), {text.get<std::string>()});
  }
  check_count(file.get(), "/", 2);
  check_count(file.get(), "/tensors", spec.tensors.size());
  check_count(file.get(), "/metadata", spec.contents.size());
  for (std::size_t t = 0; t < spec.tensors.size(); ++t) {
    progress();
    const Hdf5Spec::Tensor& tensor = spec.tensors[t];
    with_context(tensor.name, [&] {
      const Hdf5Handle dataset = opened(file.get(), "/tensors/" + tensor.name);
      check_shape(dataset, tensor.dtype, tensor.shape);
      check_packing(dataset, hdf5_chunk_of(tensor, packing), packing);
      check_texts(dataset.get(), "dtype", {std::string(name(tensor.dtype))});
      check_texts(dataset.get(), "roles", tensor.roles);
      check_texts(dataset.get(), "digests",
                  hdf5_digest_texts(tensor, digests == nullptr ? nullptr : &digests->at(t)));
    });
  }
  for (const Hdf5Spec::Content& content : spec.contents) {
    with_context("/metadata/" + content.name, [&] { check_content(file.get(), content); });
  }
}

}  // namespace

void check_filtered_hdf5(const std::string& path, const Hdf5Spec& spec, const Hdf5Packing& packing,
                         const Hdf5Digests* digests) {
  with_context(path, [&] {
    run_isolated([&](const std::function<void()>& progress) {
      check_here(path, spec, packing, digests, progress);
      return std::string();
    });
  });
}

}  // namespace reshard::formats
