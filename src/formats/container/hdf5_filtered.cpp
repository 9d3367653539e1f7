#include "formats/container/hdf5_filtered.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "core/placement.hpp"
#include "core/strides.hpp"
#include "formats/container/hdf5_file.hpp"
#include "formats/container/hdf5_writer.hpp"
#include "formats/file.hpp"

namespace reshard::formats {
namespace {

constexpr H5Z_filter_t zstd_id = 32015;  // as The HDF Group registered it
constexpr unsigned deflate_level = 4;

/// Whole rows, about so many bytes of them: few enough to be packed and unpacked at once.
Shape chunk_of(const Shape& shape, std::uint64_t width) {
  constexpr std::uint64_t wanted = std::uint64_t{1} << 20;
  Shape chunk(shape.size(), 1);
  std::uint64_t bytes = width;
  for (std::size_t d = shape.size(); d-- > 0;) {
    chunk[d] = std::clamp<std::uint64_t>(wanted / bytes, 1, shape[d]);
    bytes *= chunk[d];
    if (chunk[d] < shape[d]) break;
  }
  return chunk;
}

/// How a tensor's dataset is made.
Hdf5Handle list_of(const Hdf5Spec::Tensor& tensor, const std::string& filter) {
  Hdf5Handle list = hdf5_dataset_list();
  const Shape extent = chunk_of(tensor.shape, bytes(tensor.dtype));
  const std::vector<hsize_t> chunk(extent.begin(), extent.end());
  hdf5_checked(H5Pset_chunk(list.get(), static_cast<int>(chunk.size()), chunk.data()),
               "H5Pset_chunk");
  if (filter == "fletcher32") hdf5_checked(H5Pset_fletcher32(list.get()), "H5Pset_fletcher32");
  if (filter == "zstd") {
    hdf5_checked(H5Pset_filter(list.get(), zstd_id, H5Z_FLAG_MANDATORY, 0, nullptr),
                 "H5Pset_filter");
  }
  if (filter == "deflate") {
    hdf5_checked(H5Pset_shuffle(list.get()), "H5Pset_shuffle");
    hdf5_checked(H5Pset_deflate(list.get(), deflate_level), "H5Pset_deflate");
  }
  return list;
}

/// The bytes of a file that travels in the file.
std::string content_of(const Hdf5Spec::Content& content) {
  const FileLayout::Copy& copy = content.copy;
  if (copy.from.empty()) return content.bytes;
  std::string bytes(copy.bytes, '\0');
  File::open_read(copy.from).read_at(copy.from_offset, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

/// Selects elements [first, last) of a tensor, row-major.
Hdf5Handle selected(const Shape& shape, std::uint64_t first, std::uint64_t last) {
  Hdf5Handle space = hdf5_space_of(shape);
  if (first == last) {
    hdf5_checked(H5Sselect_none(space.get()), "H5Sselect_none");
    return space;
  }
  if (shape.empty()) return space;
  // The same boxes as those of a placement that is the whole tensor, in sizes beyond max_rank.
  std::vector<hsize_t> start(shape.size()), count(shape.size());
  H5S_seloper_t how = H5S_SELECT_SET;
  const std::vector<std::uint64_t> strides = row_major(shape);
  while (first < last) {
    // The largest box of whole inner dimensions that begins here.
    std::size_t d = shape.size() - 1;
    while (d > 0 && first % strides[d - 1] == 0 && last - first >= strides[d - 1]) --d;
    const std::uint64_t index = first / strides[d] % shape[d];
    const std::uint64_t most = (last - first) / strides[d];
    for (std::size_t i = 0; i < shape.size(); ++i) {
      start[i] = i < d ? first / strides[i] % shape[i] : i == d ? index : 0;
      count[i] = i < d ? 1 : i == d ? std::min(most, shape[d] - index) : shape[i];
    }
    hdf5_checked(
        H5Sselect_hyperslab(space.get(), how, start.data(), nullptr, count.data(), nullptr),
        "H5Sselect_hyperslab");
    how = H5S_SELECT_OR;
    first += count[d] * strides[d];
  }
  return space;
}

/// A row of so many elements in memory.
Hdf5Handle row_of(std::uint64_t count) {
  Hdf5Handle space = hdf5_space_of({std::max<std::uint64_t>(count, 1)});
  if (count == 0) hdf5_checked(H5Sselect_none(space.get()), "H5Sselect_none");
  return space;
}

[[noreturn]] void differ(const std::string& what) {
  throw Error(Kind::verification, what + " is not what was written");
}

}  // namespace

void check_hdf5_filter(const std::string& filter) {
  const auto lock = hdf5_lock();
  const std::map<std::string, H5Z_filter_t> known = {
      {"deflate", H5Z_FILTER_DEFLATE}, {"fletcher32", H5Z_FILTER_FLETCHER32}, {"zstd", zstd_id}};
  const auto at = known.find(filter);
  if (at != known.end() && H5Zfilter_avail(at->second) > 0) return;
  std::string others;
  for (const auto& [name, id] : known) {
    if (H5Zfilter_avail(id) > 0) others += (others.empty() ? "" : ", ") + name;
  }
  throw Error(Kind::usage,
              "--hdf5-filter " + filter + ": this HDF5 has no such filter, only " + others);
}

FileLayout hdf5_filtered_layout(const Hdf5Spec& spec) {
  constexpr std::uint64_t widest = 16;
  FileLayout layout;
  for (std::uint32_t t = 0; t < spec.tensors.size(); ++t) {
    const Hdf5Spec::Tensor& tensor = spec.tensors[t];
    const std::uint64_t size = with_context(
        tensor.name, [&] { return checked_product(elements(tensor.shape), bytes(tensor.dtype)); });
    if (size == 0) continue;
    layout.data.push_back({t, layout.bytes, size});
    layout.bytes = checked_sum(layout.bytes, (size + widest - 1) / widest * widest);
  }
  return layout;
}

void create_filtered_hdf5(const std::string& path, const Hdf5Spec& spec,
                          const std::string& filter) {
  const auto lock = hdf5_lock();
  Hdf5Writer writer(path, spec);
  {
    const Hdf5Handle tensors = writer.group("tensors");
    for (const Hdf5Spec::Tensor& tensor : spec.tensors) {
      with_context(tensor.name, [&] {
        // A scalar and one without elements cannot have chunks.
        const bool has_chunks = !tensor.shape.empty() && elements(tensor.shape) > 0;
        const Hdf5Handle list = has_chunks ? list_of(tensor, filter) : Hdf5Handle();
        const Hdf5Handle made =
            writer.tensor(tensors, tensor, nullptr, has_chunks ? &list : nullptr);
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
    const Hdf5Handle attribute(H5Aopen_by_name(file.get(), ("/tensors/" + tensor.name).c_str(),
                                               "digests", H5P_DEFAULT, H5P_DEFAULT),
                               "H5Aopen_by_name", Kind::io);
    std::string table;
    for (const std::string& text : hdf5_digest_texts(tensor, &digests.at(t))) table += text;
    const Hdf5Handle type(H5Aget_type(attribute.get()), "H5Aget_type");
    hdf5_checked(H5Awrite(attribute.get(), type.get(), table.data()), "H5Awrite", Kind::io);
  }
  file.close_file(Kind::io);
}

void check_filtered_hdf5(const std::string& path, const Hdf5Spec& spec) {
  const FileIndex index = read_hdf5(path, path);
  std::map<std::string, const TensorEntry*> entries;
  for (const TensorEntry& entry : index.tensors) entries.emplace(entry.name, &entry);
  if (entries.size() != spec.tensors.size()) differ(path + ": the number of datasets");
  for (const Hdf5Spec::Tensor& tensor : spec.tensors) {
    const auto at = entries.find(tensor.name);
    const bool same = at != entries.end() && at->second->dtype == tensor.dtype &&
                      at->second->shape == tensor.shape;
    if (!same) differ(path + ": " + tensor.name);
  }
  const File file = File::open_read(path);
  const Json& metadata = index.facts.at("metadata");
  for (const Hdf5Spec::Content& content : spec.contents) {
    const std::string wanted = content_of(content);
    const Json place = metadata.value(content.name, Json({0, wanted.size() + 1}));
    std::string seen(wanted.size(), '\0');
    if (place[1] == wanted.size() && !seen.empty()) {
      file.read_at(place[0].get<std::uint64_t>(), std::as_writable_bytes(std::span(seen)));
    }
    if (place[1] != wanted.size() || seen != wanted) differ(path + ": /metadata/" + content.name);
  }
  for (const auto& [name, text] : spec.attributes.items()) {
    if (index.facts.at("attributes").value(name, Json()) != text) differ(path + ": " + name);
  }
}

Hdf5Tensors::Hdf5Tensors(const std::string& path, const Hdf5Spec& spec, bool writes,
                         Hdf5Lists lists)
    : spec_(&spec), lists_(lists) {
  const auto lock = hdf5_lock();
  file_ = hdf5_checked(H5Fopen(path.c_str(), writes ? H5F_ACC_RDWR : H5F_ACC_RDONLY, lists.access),
                       "H5Fopen", Kind::io);
}

Hdf5Tensors::~Hdf5Tensors() {
  const auto lock = hdf5_lock();
  if (file_ >= 0) H5Fclose(file_);
}

void Hdf5Tensors::write(std::uint32_t number, std::uint64_t first,
                        std::span<const std::byte> from) {
  const Hdf5Spec::Tensor& tensor = spec_->tensors[number];
  const std::uint64_t count = from.size() / bytes(tensor.dtype);
  const auto lock = hdf5_lock();
  const Hdf5Handle dataset(H5Dopen2(file_, ("/tensors/" + tensor.name).c_str(), H5P_DEFAULT),
                           "H5Dopen2", Kind::io);
  hdf5_checked(
      H5Dwrite(dataset.get(), hdf5_type_of(tensor.dtype).get(), row_of(count).get(),
               selected(tensor.shape, first, first + count).get(), lists_.transfer, from.data()),
      "H5Dwrite", Kind::io);
}

void Hdf5Tensors::read(std::uint32_t number, std::uint64_t first, std::span<std::byte> to) {
  const Hdf5Spec::Tensor& tensor = spec_->tensors[number];
  const std::uint64_t count = to.size() / bytes(tensor.dtype);
  const auto lock = hdf5_lock();
  const Hdf5Handle dataset(H5Dopen2(file_, ("/tensors/" + tensor.name).c_str(), H5P_DEFAULT),
                           "H5Dopen2", Kind::io);
  hdf5_checked(
      H5Dread(dataset.get(), hdf5_type_of(tensor.dtype).get(), row_of(count).get(),
              selected(tensor.shape, first, first + count).get(), lists_.transfer, to.data()),
      "H5Dread", Kind::verification);
}

void Hdf5Tensors::close() {
  const auto lock = hdf5_lock();
  hdf5_checked(H5Fflush(file_, H5F_SCOPE_GLOBAL), "H5Fflush", Kind::io);
  hdf5_checked(H5Fclose(std::exchange(file_, -1)), "H5Fclose", Kind::io);
}

}  // namespace reshard::formats
