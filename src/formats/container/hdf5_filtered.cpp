#include "formats/container/hdf5_filtered.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "formats/container/hdf5_writer.hpp"
#include "formats/file.hpp"

namespace reshard::formats {
namespace {

constexpr H5Z_filter_t zstd_id = 32015;  // as The HDF Group registered it
/// The mantissas of weights are noise: level 4 makes shuffled ones 1 % smaller in 1.3 times the
/// time, level 6 2 % in 4 times.
constexpr unsigned deflate_level = 1;

/// The dimension that chunks of whole rows cut.
std::size_t cut_dimension(const Shape& shape, const Shape& chunk) {
  for (std::size_t d = shape.size(); d-- > 0;) {
    if (chunk[d] < shape[d]) return d;
  }
  return 0;
}

std::uint64_t product_from(const Shape& shape, std::size_t first) {
  std::uint64_t product = 1;
  for (std::size_t d = first; d < shape.size(); ++d) product *= shape[d];
  return product;
}

/// A box of a tensor.
struct Part {
  std::vector<hsize_t> offset, extent;
};

/// The box that whole rows of the cut dimension are, of one index of the dimensions before it.
Part part_of(const Shape& shape, const Shape& chunk, std::uint64_t first, std::uint64_t count) {
  const std::size_t d = cut_dimension(shape, chunk);
  const std::uint64_t row = product_from(shape, d + 1);
  Part part{std::vector<hsize_t>(shape.size(), 0), {shape.begin(), shape.end()}};
  std::uint64_t index = first / row;
  const bool is_box =
      first % row == 0 && count % row == 0 && index % shape[d] + count / row <= shape[d];
  if (!is_box) throw Error(Kind::internal, "elements to be packed are no box of whole rows");
  part.extent[d] = count / row;
  for (std::size_t i = d + 1; i-- > 0;) {
    part.offset[i] = index % shape[i];
    index /= shape[i];
    if (i < d) part.extent[i] = 1;
  }
  return part;
}

std::uint64_t chunks_of(const Shape& shape, const Shape& chunk) {
  std::uint64_t count = 1;
  for (std::size_t d = 0; d < shape.size(); ++d) count *= (shape[d] - 1) / chunk[d] + 1;
  return count;
}

/// How a dataset in chunks is made.
Hdf5Handle list_of(const Shape& extent, const Hdf5Packing& packing) {
  Hdf5Handle list = hdf5_dataset_list();
  const std::vector<hsize_t> chunk(extent.begin(), extent.end());
  hdf5_checked(H5Pset_chunk(list.get(), static_cast<int>(chunk.size()), chunk.data()),
               "H5Pset_chunk");
  if (packing.filter == "fletcher32") {
    hdf5_checked(H5Pset_fletcher32(list.get()), "H5Pset_fletcher32");
  } else {
    hdf5_checked(H5Pset_shuffle(list.get()), "H5Pset_shuffle");
    hdf5_checked(H5Pset_deflate(list.get(), deflate_level), "H5Pset_deflate");
  }
  return list;
}

/// Gives every chunk a place.
void place_chunks(const Hdf5Handle& dataset, const Hdf5Spec::Tensor& tensor, const Shape& chunk) {
  const std::size_t d = cut_dimension(tensor.shape, chunk);
  const std::uint64_t count = chunks_of(tensor.shape, chunk);
  const std::uint64_t full = product_from(chunk, d);
  std::vector<std::byte> zeros;
  for (std::uint64_t n = 0; n < count; ++n) {
    const ChunkElements held = elements_of_chunk(tensor.shape, chunk, n);
    const Part part = part_of(tensor.shape, chunk, held.first, held.count);
    if (held.count == full) {
      constexpr std::byte nothing{0};
      hdf5_checked(H5Dwrite_chunk(dataset.get(), H5P_DEFAULT, 0, part.offset.data(), 1, &nothing),
                   "H5Dwrite_chunk", Kind::io);
      continue;
    }
    zeros.resize(held.count * bytes(tensor.dtype));
    const Hdf5Handle space = hdf5_space_of(tensor.shape);
    hdf5_checked(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, part.offset.data(), nullptr,
                                     part.extent.data(), nullptr),
                 "H5Sselect_hyperslab");
    const Hdf5Handle memory = hdf5_space_of({part.extent.begin(), part.extent.end()});
    hdf5_checked(H5Dwrite(dataset.get(), hdf5_type_of(tensor.dtype).get(), memory.get(),
                          space.get(), H5P_DEFAULT, zeros.data()),
                 "H5Dwrite", Kind::io);
  }
}

std::string dataset_path(const Hdf5Spec::Tensor& tensor) {
  return "/tensors/" + tensor.name;
}

}  // namespace

void check_hdf5_filter(const std::string& filter) {
  const auto lock = hdf5_lock();
  struct Known {
    const char* name;
    H5Z_filter_t id;
    bool is_undone;  ///< by ChunkReader
  };
  constexpr std::array known = {Known{"deflate", H5Z_FILTER_DEFLATE, true},
                                Known{"fletcher32", H5Z_FILTER_FLETCHER32, true},
                                Known{"zstd", zstd_id, false}};
  std::string others;
  for (const Known& each : known) {
    const bool is_there = H5Zfilter_avail(each.id) > 0;
    if (is_there && each.is_undone) others += (others.empty() ? "" : ", ") + std::string(each.name);
    if (filter != each.name || !is_there) continue;
    if (each.is_undone) return;
    throw Error(Kind::usage, "--hdf5-filter " + filter + ": reshard could not read it back");
  }
  throw Error(Kind::usage, "--hdf5-filter " + filter + ": the HDF5 library " +
                               "that reshard was built with has no such filter, only: " + others);
}

Shape hdf5_chunk_of(const Hdf5Spec::Tensor& tensor, const Hdf5Packing& packing) {
  const Shape& shape = tensor.shape;
  if (elements(shape) == 0) return {};
  Shape chunk(shape.size(), 1);
  std::uint64_t size = bytes(tensor.dtype);
  for (std::size_t d = shape.size(); d-- > 0;) {
    chunk[d] = std::clamp<std::uint64_t>(packing.chunk_bytes / size, 1, shape[d]);
    size *= chunk[d];
    if (chunk[d] < shape[d]) break;
  }
  return chunk;
}

ChunkElements elements_of_chunk(const Shape& shape, const Shape& chunk, std::uint64_t number) {
  const std::size_t d = cut_dimension(shape, chunk);
  const std::uint64_t row = product_from(shape, d + 1);
  const std::uint64_t along = (shape[d] - 1) / chunk[d] + 1;
  const std::uint64_t begin = number % along * chunk[d];
  return {(number / along * shape[d] + begin) * row, std::min(chunk[d], shape[d] - begin) * row};
}

std::uint64_t chunk_holding(const Shape& shape, const Shape& chunk, std::uint64_t element) {
  const std::size_t d = cut_dimension(shape, chunk);
  const std::uint64_t index = element / product_from(shape, d + 1);
  const std::uint64_t along = (shape[d] - 1) / chunk[d] + 1;
  return index / shape[d] * along + index % shape[d] / chunk[d];
}

FileLayout hdf5_filtered_layout(const Hdf5Spec& spec, const Hdf5Packing& packing) {
  constexpr std::uint64_t widest = 16, tile_bytes = std::uint64_t{4} << 20;
  // Ranks pack the tiles of one tensor side by side, those of two one after the other: small tiles
  // keep them busy. To checksum one costs no more than the call that writes it, though.
  const std::uint64_t chunks = packing.filter == "fletcher32" ? 4 : 1;
  const std::uint64_t most =
      std::max(packing.chunk_bytes, std::min(chunks * packing.chunk_bytes, tile_bytes));
  FileLayout layout;
  layout.borders = {0};
  for (std::uint32_t t = 0; t < spec.tensors.size(); ++t) {
    const Hdf5Spec::Tensor& tensor = spec.tensors[t];
    const std::uint64_t width = bytes(tensor.dtype);
    const std::uint64_t size =
        with_context(tensor.name, [&] { return checked_product(elements(tensor.shape), width); });
    if (size == 0) continue;
    const std::uint64_t base = checked_sum(layout.bytes, widest - 1) / widest * widest;
    layout.data.push_back({t, base, size});
    layout.bytes = checked_sum(base, size);
    const Shape chunk = hdf5_chunk_of(tensor, packing);
    const bool is_scalar = chunk.empty();
    const std::uint64_t count = is_scalar ? 1 : chunks_of(tensor.shape, chunk);
    if (count > Hdf5Packing::most_chunks) {
      throw Error(Kind::usage, tensor.name + ": " + std::to_string(count) + " chunks, at most " +
                                   std::to_string(Hdf5Packing::most_chunks) +
                                   " are written: --hdf5-chunk-size must be larger");
    }
    const std::uint64_t box =
        is_scalar ? 1 : product_from(tensor.shape, cut_dimension(tensor.shape, chunk));
    for (std::uint64_t n = 0; n < count; ++n) {
      const ChunkElements held =
          is_scalar ? ChunkElements{0, 1} : elements_of_chunk(tensor.shape, chunk, n);
      const std::uint64_t first = base + held.first * width;
      const bool fits = first + held.count * width - layout.borders.back() <= most;
      const bool is_next_box = n > 0 && held.first % box == 0;
      if (first > 0 && (!fits || is_next_box)) layout.borders.push_back(first);
    }
  }
  layout.borders.push_back(layout.bytes);
  if (layout.bytes == 0) layout.borders.clear();
  return layout;
}

std::string content_of(const Hdf5Spec::Content& content) {
  const FileLayout::Copy& copy = content.copy;
  if (copy.from.empty()) return content.bytes;
  std::string bytes(copy.bytes, '\0');
  File::open_read(copy.from).read_at(copy.from_offset, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

void create_filtered_hdf5(const std::string& path, const Hdf5Spec& spec,
                          const Hdf5Packing& packing) {
  const auto lock = hdf5_lock();
  Hdf5Writer writer(path, spec);
  {
    const Hdf5Handle tensors = writer.group("tensors");
    for (const Hdf5Spec::Tensor& tensor : spec.tensors) {
      with_context(tensor.name, [&] {
        const Shape chunk = hdf5_chunk_of(tensor, packing);
        const Hdf5Handle list = chunk.empty() ? Hdf5Handle() : list_of(chunk, packing);
        const Hdf5Handle made =
            writer.tensor(tensors, tensor, nullptr, chunk.empty() ? nullptr : &list);
        if (!chunk.empty()) place_chunks(made, tensor, chunk);
      });
    }
    const Hdf5Handle contents = writer.group("metadata");
    for (const Hdf5Spec::Content& content : spec.contents) {
      with_context(content.name, [&] {
        const std::string bytes = content_of(content);
        const Hdf5Handle dataset =
            writer.dataset(contents, content.name, Dtype::u8, {bytes.size()});
        if (bytes.empty()) return;
        hdf5_checked(
            H5Dwrite(dataset.get(), H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()),
            "H5Dwrite", Kind::io);
      });
    }
  }
  writer.close();
}

void put_hdf5_digests(const std::string& path, const Hdf5Spec& spec, const Hdf5Digests& digests) {
  const auto lock = hdf5_lock();
  Hdf5Handle file(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT), "H5Fopen", Kind::io);
  for (std::size_t t = 0; t < spec.tensors.size(); ++t) {
    const Hdf5Spec::Tensor& tensor = spec.tensors[t];
    if (tensor.roles.empty()) continue;
    const Hdf5Handle dataset(H5Dopen2(file.get(), dataset_path(tensor).c_str(), H5P_DEFAULT),
                             "H5Dopen2", Kind::io);
    // Not by the dataset's name: HDF5 1.10 looks for what is to be written in the group then.
    const Hdf5Handle attribute(H5Aopen(dataset.get(), "digests", H5P_DEFAULT), "H5Aopen", Kind::io);
    std::string table;
    for (const std::string& text : hdf5_digest_texts(tensor, &digests.at(t))) table += text;
    const Hdf5Handle type(H5Aget_type(attribute.get()), "H5Aget_type", Kind::io);
    hdf5_checked(H5Awrite(attribute.get(), type.get(), table.data()), "H5Awrite", Kind::io);
  }
  file.close_file(Kind::io);
}

Hdf5Tensors::Hdf5Tensors(const std::string& path, const Hdf5Spec& spec, const Hdf5Packing& packing,
                         Hdf5Lists lists)
    : spec_(&spec), packing_(packing), lists_(lists) {
  const auto lock = hdf5_lock();
  file_ = hdf5_checked(H5Fopen(path.c_str(), H5F_ACC_RDWR, lists.access), "H5Fopen", Kind::io);
}

Hdf5Tensors::~Hdf5Tensors() {
  const auto lock = hdf5_lock();
  if (file_ < 0) return;
  release();
  H5Fclose(file_);
}

void Hdf5Tensors::release() {
  for (std::int64_t* id : {&memory_, &selected_, &dataset_}) {
    if (*id >= 0) H5Idec_ref(*id);
    *id = -1;
  }
  opened_ = ~std::uint32_t{0};
}

void Hdf5Tensors::select(std::uint32_t number, std::uint64_t first, std::uint64_t count) {
  const Hdf5Spec::Tensor& tensor = spec_->tensors[number];
  const auto lock = hdf5_lock();
  if (opened_ != number) {
    release();
    dataset_ = hdf5_checked(H5Dopen2(file_, dataset_path(tensor).c_str(), H5P_DEFAULT), "H5Dopen2",
                            Kind::io);
    opened_ = number;
  }
  Hdf5Handle all = hdf5_space_of(tensor.shape), memory;
  if (count == 0) {
    hdf5_checked(H5Sselect_none(all.get()), "H5Sselect_none");
    memory = hdf5_space_of({1});
    hdf5_checked(H5Sselect_none(memory.get()), "H5Sselect_none");
  } else if (tensor.shape.empty()) {
    memory = hdf5_space_of({});
  } else {
    const Part part = part_of(tensor.shape, hdf5_chunk_of(tensor, packing_), first, count);
    hdf5_checked(H5Sselect_hyperslab(all.get(), H5S_SELECT_SET, part.offset.data(), nullptr,
                                     part.extent.data(), nullptr),
                 "H5Sselect_hyperslab");
    memory = hdf5_space_of({part.extent.begin(), part.extent.end()});
  }
  for (auto [id, made] : {std::pair(&memory_, &memory), std::pair(&selected_, &all)}) {
    if (*id >= 0) H5Idec_ref(*id);
    H5Iinc_ref(made->get());
    *id = made->get();
  }
}

void Hdf5Tensors::write(std::span<const std::byte> from) {
  const auto lock = hdf5_lock();
  constexpr std::byte none{0};
  hdf5_checked(H5Dwrite(dataset_, hdf5_type_of(spec_->tensors[opened_].dtype).get(), memory_,
                        selected_, lists_.transfer, from.empty() ? &none : from.data()),
               "H5Dwrite", Kind::io);
}

void Hdf5Tensors::close() {
  const auto lock = hdf5_lock();
  release();
  hdf5_checked(H5Fflush(file_, H5F_SCOPE_GLOBAL), "H5Fflush", Kind::io);
  hdf5_checked(H5Fclose(std::exchange(file_, -1)), "H5Fclose", Kind::io);
}

void Hdf5Tensors::abandon() {
  file_ = -1;
}

}  // namespace reshard::formats
