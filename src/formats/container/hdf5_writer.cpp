#include "formats/container/hdf5_writer.hpp"

#include <algorithm>

namespace reshard::formats {
namespace {

constexpr const char* no_digest = "not computed";
constexpr std::size_t digest_digits = 32;

Hdf5Handle property_list(hid_t type) {
  return {H5Pcreate(type), "H5Pcreate"};
}

/// Untimed, and with an index of the order in which links were made.
Hdf5Handle group_list(hid_t type) {
  Hdf5Handle list = property_list(type);
  hdf5_checked(H5Pset_obj_track_times(list.get(), false), "H5Pset_obj_track_times");
  hdf5_checked(
      H5Pset_link_creation_order(list.get(), H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED),
      "H5Pset_link_creation_order");
  return list;
}

Hdf5Handle created_file(const std::string& path) {
  const Hdf5Handle access = property_list(H5P_FILE_ACCESS);
  // Not sec2: it wants to know the real path, which a file in memory has not.
  hdf5_checked(H5Pset_fapl_stdio(access.get()), "H5Pset_fapl_stdio");
  hdf5_checked(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V110),
               "H5Pset_libver_bounds");
  hdf5_checked(H5Pset_alignment(access.get(), Hdf5Writer::alignment, Hdf5Writer::alignment),
               "H5Pset_alignment");
  constexpr hsize_t together = 1 << 16;  // structure in blocks, not strewn between tensors
  hdf5_checked(H5Pset_meta_block_size(access.get(), together), "H5Pset_meta_block_size");
  hdf5_checked(H5Pset_small_data_block_size(access.get(), together),
               "H5Pset_small_data_block_size");
  return {H5Fcreate(path.c_str(), H5F_ACC_TRUNC, group_list(H5P_FILE_CREATE).get(), access.get()),
          "H5Fcreate", Kind::io};
}

/// No link of HDF5 can have another name.
void check_name(const std::string& name) {
  const bool holds = !name.empty() && name != "." && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos;
  if (!holds) throw Error(Kind::input, "'" + name + "': HDF5 cannot have a dataset of this name");
}

void write_attribute(hid_t object, const char* name, const Hdf5Handle& type,
                     const Hdf5Handle& space, const void* value) {
  const Hdf5Handle attribute(
      H5Acreate2(object, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), "H5Acreate2");
  if (H5Sget_simple_extent_npoints(space.get()) == 0) return;
  hdf5_checked(H5Awrite(attribute.get(), type.get(), value), "H5Awrite");
}

}  // namespace

Hdf5Handle hdf5_dataset_list() {
  Hdf5Handle list = property_list(H5P_DATASET_CREATE);
  hdf5_checked(H5Pset_obj_track_times(list.get(), false), "H5Pset_obj_track_times");
  return list;
}

std::vector<std::string> hdf5_digest_texts(const Hdf5Spec::Tensor& tensor,
                                           const std::vector<Digest>* digests) {
  std::string none = no_digest;
  none.resize(digest_digits, ' ');
  std::vector<std::string> texts(tensor.roles.size(), none);
  for (std::size_t i = 0; digests != nullptr && i < texts.size(); ++i) {
    texts[i] = (digests->empty() ? Digest() : digests->at(i)).hex();
  }
  return texts;
}

Hdf5Writer::Hdf5Writer(const std::string& path, const Hdf5Spec& spec)
    : file_(created_file(path)),
      contiguous_(hdf5_dataset_list()),
      link_(property_list(H5P_LINK_CREATE)),
      group_(group_list(H5P_GROUP_CREATE)),
      scalar_(hdf5_space_of({})) {
  hdf5_checked(H5Pset_layout(contiguous_.get(), H5D_CONTIGUOUS), "H5Pset_layout");
  hdf5_checked(H5Pset_alloc_time(contiguous_.get(), H5D_ALLOC_TIME_EARLY), "H5Pset_alloc_time");
  hdf5_checked(H5Pset_fill_time(contiguous_.get(), H5D_FILL_TIME_NEVER), "H5Pset_fill_time");
  hdf5_checked(H5Pset_char_encoding(link_.get(), H5T_CSET_UTF8), "H5Pset_char_encoding");
  attribute(file_.get(), "format", hdf5_format);
  write_attribute(file_.get(), "format_version", {H5Tcopy(H5T_STD_I64LE), "H5Tcopy"}, scalar_,
                  &hdf5_format_version);
  for (const auto& [name, text] : spec.attributes.items()) {
    attribute(file_.get(), name.c_str(), text.get<std::string>());
  }
}

Hdf5Handle Hdf5Writer::group(const char* name) const {
  return {H5Gcreate2(file_.get(), name, H5P_DEFAULT, group_.get(), H5P_DEFAULT), "H5Gcreate2"};
}

Hdf5Handle Hdf5Writer::dataset(const Hdf5Handle& group, const std::string& name, Dtype dtype,
                               const Shape& shape, const Hdf5Handle* creation) {
  check_name(name);
  const auto unnamed = [&](Dtype type, const Shape& extent, const Hdf5Handle& list) {
    return Hdf5Handle(H5Dcreate_anon(file_.get(), hdf5_type_of(type).get(),
                                     hdf5_space_of(extent).get(), list.get(), H5P_DEFAULT),
                      "H5Dcreate_anon");
  };
  Hdf5Handle made = unnamed(dtype, shape, creation != nullptr ? *creation : contiguous_);
  // Small datasets follow one another wherever the structure ends.
  while (creation == nullptr && elements(shape) > 0) {
    const std::uint64_t width = bytes(dtype), over = H5Dget_offset(made.get()) % width;
    if (over == 0) break;
    pads_.push_back(std::move(made));
    pads_.push_back(unnamed(Dtype::u8, {width - over}, contiguous_));
    made = unnamed(dtype, shape, contiguous_);
  }
  hdf5_checked(H5Olink(made.get(), group.get(), name.c_str(), link_.get(), H5P_DEFAULT), "H5Olink");
  return made;
}

Hdf5Handle Hdf5Writer::tensor(const Hdf5Handle& group, const Hdf5Spec::Tensor& tensor,
                              const std::vector<Digest>* digests, const Hdf5Handle* creation) {
  Hdf5Handle made = dataset(group, tensor.name, tensor.dtype, tensor.shape, creation);
  attribute(made.get(), "dtype", std::string(name(tensor.dtype)));
  attribute(made.get(), "roles", tensor.roles);
  attribute(made.get(), "digests", hdf5_digest_texts(tensor, digests));
  return made;
}

void Hdf5Writer::attribute(hid_t object, const char* name, const std::string& text) const {
  write_attribute(object, name, hdf5_text_type(text.size()), scalar_, text.data());
}

void Hdf5Writer::attribute(hid_t object, const char* name,
                           const std::vector<std::string>& texts) const {
  std::size_t longest = 1;
  for (const std::string& text : texts) longest = std::max(longest, text.size());
  std::string table;
  for (std::string text : texts) {
    text.resize(longest, '\0');
    table += text;
  }
  write_attribute(object, name, hdf5_text_type(longest), hdf5_space_of({texts.size()}),
                  table.data());
}

}  // namespace reshard::formats
