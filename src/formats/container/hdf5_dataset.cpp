#include "formats/container/hdf5_dataset.hpp"

#include <algorithm>
#include <array>

#include "formats/container/hdf5_library.hpp"

namespace reshard::formats {
namespace {

constexpr std::uint64_t largest_packed = std::uint64_t{256} << 20;  // a chunk that must be unpacked
constexpr std::uint64_t most_chunks = std::uint64_t{1} << 21;

[[noreturn]] void refuse(const std::string& text) {
  throw Error(Kind::input, text);
}

/// Whether a dataset of a type can hold numbers of a dtype: in the type that hdf5_type_of tells or,
/// in files of others, as the unsigned integers that numpy lends to what it lacks.
bool can_hold(hid_t type, Dtype stored, Dtype dtype, bool own) {
  if (H5Tequal(type, hdf5_type_of(dtype).get()) > 0) return true;
  return !own && stored == Dtype::u16 && bits(dtype) == 16;
}

/// The dtype of the stored type, or the one that the attribute `dtype` says of it. In files of
/// others that attribute may be anything, so that one which does not fit the type is none.
Dtype dtype_of(hid_t dataset, bool own) {
  const Hdf5Handle type(H5Dget_type(dataset), "H5Dget_type");
  if (hdf5_checked(H5Tcommitted(type.get()), "H5Tcommitted") > 0) refuse("has a committed type");
  const Dtype stored = dtype_of_hdf5(type.get());
  if (hdf5_checked(H5Aexists(dataset, "dtype"), "H5Aexists") == 0) return stored;
  const std::optional<std::string> text =
      hdf5_text_in({H5Aopen(dataset, "dtype", H5P_DEFAULT), "H5Aopen"});
  std::optional<Dtype> told = text ? dtype_of_name(*text) : std::nullopt;
  if (text && !told && !own) told = dtype_of_torch_name(*text);
  if (told && can_hold(type.get(), stored, *told, own)) return *told;
  if (!own) return stored;
  if (!text) refuse("attribute dtype: wanted a text");
  if (!told) refuse("attribute dtype: no dtype '" + text->substr(0, 32) + "'");
  refuse("attribute dtype says " + *text + ", the stored type is " +
         std::string(reshard::name(stored)));
}

Shape shape_of(hid_t dataset) {
  const Hdf5Handle space(H5Dget_space(dataset), "H5Dget_space");
  const H5S_class_t kind = H5Sget_simple_extent_type(space.get());
  if (kind == H5S_SCALAR) return {};
  if (kind != H5S_SIMPLE) refuse("has no shape");
  const int rank = hdf5_checked(H5Sget_simple_extent_ndims(space.get()), "rank of the shape");
  std::vector<hsize_t> dims(static_cast<std::size_t>(rank));
  hdf5_checked(H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr), "extents");
  return {dims.begin(), dims.end()};
}

void check_place(std::uint64_t offset, std::uint64_t bytes, std::uint64_t file_bytes) {
  if (offset <= file_bytes && bytes <= file_bytes - offset) return;
  refuse("its " + std::to_string(bytes) + " bytes at " + std::to_string(offset) +
         " lie beyond the end of the file, which has " + std::to_string(file_bytes));
}

Chunking::Filter filter_of(hid_t list, unsigned number, std::uint64_t width) {
  unsigned flags = 0;
  std::array<unsigned, 8> values{};
  std::array<char, 64> text{};
  std::size_t count = values.size();
  const H5Z_filter_t id = H5Pget_filter2(list, number, &flags, &count, values.data(), text.size(),
                                         text.data(), nullptr);
  hdf5_checked(id, "H5Pget_filter2");
  if (id == H5Z_FILTER_DEFLATE) return Chunking::Filter::deflate;
  if (id == H5Z_FILTER_FLETCHER32) return Chunking::Filter::fletcher32;
  if (id == H5Z_FILTER_SHUFFLE && count >= 1 && values[0] == width) {
    return Chunking::Filter::shuffle;
  }
  text.back() = '\0';
  refuse("its filter " + std::to_string(id) + " (" + text.data() +
         ") is none of deflate, shuffle, fletcher32: h5repack -f NONE removes it");
}

/// Chunks of a dataset, each of which must have been written.
Chunking chunking_of(hid_t dataset, const Hdf5Handle& list, const TensorEntry& entry,
                     std::uint64_t file_bytes, const std::function<void()>& progress) {
  Chunking chunks;
  chunks.shape = entry.shape;
  chunks.width = bytes(entry.dtype);
  const std::size_t rank = entry.shape.size();
  std::vector<hsize_t> extent(rank);
  const int dims = H5Pget_chunk(list.get(), static_cast<int>(rank), extent.data());
  if (dims < 0 || static_cast<std::size_t>(dims) != rank) refuse("its chunks have another rank");
  chunks.extent.assign(extent.begin(), extent.end());
  const int filters = hdf5_checked(H5Pget_nfilters(list.get()), "H5Pget_nfilters");
  if (filters > 8) refuse("has " + std::to_string(filters) + " filters");
  for (int i = 0; i < filters; ++i) {
    chunks.filters.push_back(filter_of(list.get(), static_cast<unsigned>(i), chunks.width));
  }
  unsigned options = 0;
  hdf5_checked(H5Pget_chunk_opts(list.get(), &options), "H5Pget_chunk_opts");
  if (options != 0) refuse("leaves chunks at its border unfiltered: h5repack changes that");
  const std::uint64_t unpacked = checked_product(elements(chunks.extent), chunks.width);
  if (unpacked == 0) refuse("has empty chunks");
  if (filters > 0 && unpacked > largest_packed) {
    refuse("has filtered chunks of " + std::to_string(unpacked) + " bytes, at most " +
           std::to_string(largest_packed) + " are read");
  }
  std::uint64_t count = 1;
  Shape grid;
  for (std::size_t d = 0; d < rank; ++d) {
    grid.push_back((entry.shape[d] - 1) / chunks.extent[d] + 1);
    count = checked_product(count, grid.back());
  }
  if (count > std::min(most_chunks, file_bytes)) {
    refuse("has " + std::to_string(count) + " chunks in a file of " + std::to_string(file_bytes) +
           " bytes");
  }
  std::vector<hsize_t> at(rank, 0);
  for (std::uint64_t n = 0; n < count; ++n) {
    if (n % 1024 == 0) progress();
    unsigned skipped = 0;
    haddr_t offset = HADDR_UNDEF;
    hsize_t stored = 0;
    hdf5_checked(H5Dget_chunk_info_by_coord(dataset, at.data(), &skipped, &offset, &stored),
                 "H5Dget_chunk_info_by_coord");
    if (offset == HADDR_UNDEF || stored == 0) {
      refuse("chunk " + to_string(Shape(at.begin(), at.end())) + " was never written");
    }
    check_place(offset, stored, file_bytes);
    const bool fits = chunks.filters.empty() ? stored == unpacked : stored / 2 <= unpacked + 512;
    if (!fits) {
      refuse("chunk " + to_string(Shape(at.begin(), at.end())) + " of " + std::to_string(unpacked) +
             " bytes is stored in " + std::to_string(stored));
    }
    chunks.places.push_back({offset, stored, skipped});
    for (std::size_t d = rank; d-- > 0;) {
      at[d] += chunks.extent[d];
      if (at[d] < entry.shape[d]) break;
      at[d] = 0;
    }
  }
  return chunks;
}

}  // namespace

TensorEntry hdf5_entry(hid_t dataset, const std::string& name, bool own, std::uint64_t file_bytes,
                       const std::function<void()>& progress) {
  const Hdf5Handle list(H5Dget_create_plist(dataset), "H5Dget_create_plist");
  if (hdf5_checked(H5Pget_external_count(list.get()), "H5Pget_external_count") > 0) {
    refuse("its data lies in another file (external storage)");
  }
  const H5D_layout_t layout = H5Pget_layout(list.get());
  if (layout == H5D_VIRTUAL) refuse("is a virtual dataset, of data in other datasets");
  // Not before: of a virtual dataset the shape may lie in other files.
  TensorEntry entry{name, dtype_of(dataset, own), shape_of(dataset), 0, {}};
  const std::uint64_t size = checked_product(elements(entry.shape), bytes(entry.dtype));
  if (size == 0) return entry;
  if (layout == H5D_COMPACT) {
    refuse("its data lies within its header: h5repack -l CONTI changes that");
  }
  if (layout == H5D_CHUNKED) {
    entry.chunks =
        std::make_shared<const Chunking>(chunking_of(dataset, list, entry, file_bytes, progress));
    return entry;
  }
  if (layout != H5D_CONTIGUOUS) refuse("has a layout that is not known");
  const haddr_t offset = H5Dget_offset(dataset);
  if (offset == HADDR_UNDEF) refuse("was never written");
  check_place(offset, size, file_bytes);
  entry.offset = offset;
  return entry;
}

}  // namespace reshard::formats
