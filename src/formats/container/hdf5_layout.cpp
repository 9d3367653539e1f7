#include "formats/container/hdf5_layout.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <system_error>

#include "core/shape.hpp"
#include "formats/container/hdf5_library.hpp"

namespace reshard::formats {
namespace {

constexpr std::uint64_t alignment = 4096;  // of a page, and of what is not smaller than one
constexpr const char* no_digest = "not computed";
constexpr std::size_t digest_digits = 32;

/// A file in memory that takes pages for those bytes only that are written.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("reshard-hdf5", MFD_CLOEXEC)) {
    if (descriptor_ < 0) fail("memfd_create");
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(descriptor_); }

  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }
  [[nodiscard]] std::uint64_t size() const {
    struct stat status = {};
    if (::fstat(descriptor_, &status) != 0) fail("fstat");
    return static_cast<std::uint64_t>(status.st_size);
  }
  /// The next range from `at` on that has pages; empty at the end of the file.
  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> pages(std::uint64_t at) const {
    const off_t first = ::lseek(descriptor_, static_cast<off_t>(at), SEEK_DATA);
    if (first < 0 && errno == ENXIO) return {size(), size()};
    const off_t last = first < 0 ? first : ::lseek(descriptor_, first, SEEK_HOLE);
    if (last < 0) fail("lseek");
    return {static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(last)};
  }
  [[nodiscard]] std::string read(std::uint64_t first, std::uint64_t last) const {
    std::string bytes(last - first, '\0');
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t got = ::pread(descriptor_, bytes.data() + done, bytes.size() - done,
                                  static_cast<off_t>(first + done));
      if (got <= 0) fail("pread");
      done += static_cast<std::size_t>(got);
    }
    return bytes;
  }

 private:
  [[noreturn]] static void fail(const char* call) {
    throw Error(Kind::io, std::string("the header of an HDF5 file is made in memory: ") + call +
                              ": " + std::error_code(errno, std::generic_category()).message());
  }
  int descriptor_;
};

Hdf5Handle property_list(hid_t type) {
  return {H5Pcreate(type), "H5Pcreate"};
}

/// Untimed, and with an index of the order in which links were made.
void make_group_like(hid_t list) {
  hdf5_checked(H5Pset_obj_track_times(list, false), "H5Pset_obj_track_times");
  hdf5_checked(H5Pset_link_creation_order(list, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED),
               "H5Pset_link_creation_order");
}

/// No link of HDF5 can have another name.
void check_name(const std::string& name) {
  const bool holds = !name.empty() && name != "." && name.find('/') == std::string::npos &&
                     name.find('\0') == std::string::npos;
  if (!holds) throw Error(Kind::input, "'" + name + "': HDF5 cannot have a dataset of this name");
}

std::string padded(std::string text) {
  text.resize(std::max(text.size(), digest_digits), ' ');
  return text;
}

/// Writes the file's structure, dataset by dataset.
class Writer {
 public:
  explicit Writer(const MemoryFile& file) {
    const Hdf5Handle access = property_list(H5P_FILE_ACCESS);
    // Not sec2: it wants to know the real path, which a file in memory has not.
    hdf5_checked(H5Pset_fapl_stdio(access.get()), "H5Pset_fapl_stdio");
    hdf5_checked(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V110),
                 "H5Pset_libver_bounds");
    hdf5_checked(H5Pset_alignment(access.get(), alignment, alignment), "H5Pset_alignment");
    constexpr hsize_t together = 1 << 16;  // structure in blocks, not strewn between tensors
    hdf5_checked(H5Pset_meta_block_size(access.get(), together), "H5Pset_meta_block_size");
    hdf5_checked(H5Pset_small_data_block_size(access.get(), together),
                 "H5Pset_small_data_block_size");
    const Hdf5Handle creation = property_list(H5P_FILE_CREATE);
    make_group_like(creation.get());
    file_ = {H5Fcreate(file.path().c_str(), H5F_ACC_TRUNC, creation.get(), access.get()),
             "H5Fcreate", Kind::internal};
    dataset_ = property_list(H5P_DATASET_CREATE);
    hdf5_checked(H5Pset_layout(dataset_.get(), H5D_CONTIGUOUS), "H5Pset_layout");
    hdf5_checked(H5Pset_alloc_time(dataset_.get(), H5D_ALLOC_TIME_EARLY), "H5Pset_alloc_time");
    hdf5_checked(H5Pset_fill_time(dataset_.get(), H5D_FILL_TIME_NEVER), "H5Pset_fill_time");
    hdf5_checked(H5Pset_obj_track_times(dataset_.get(), false), "H5Pset_obj_track_times");
    link_ = property_list(H5P_LINK_CREATE);
    hdf5_checked(H5Pset_char_encoding(link_.get(), H5T_CSET_UTF8), "H5Pset_char_encoding");
    scalar_ = hdf5_space_of({});
  }

  [[nodiscard]] hid_t root() const { return file_.get(); }
  void close() { file_.close_file(Kind::internal); }

  [[nodiscard]] Hdf5Handle group(const char* name) const {
    const Hdf5Handle creation = property_list(H5P_GROUP_CREATE);
    make_group_like(creation.get());
    return {H5Gcreate2(file_.get(), name, H5P_DEFAULT, creation.get(), H5P_DEFAULT), "H5Gcreate2"};
  }

  /// A dataset that has no name yet.
  [[nodiscard]] Hdf5Handle dataset(hid_t type, const Shape& shape) const {
    return {
        H5Dcreate_anon(file_.get(), type, hdf5_space_of(shape).get(), dataset_.get(), H5P_DEFAULT),
        "H5Dcreate_anon"};
  }

  void name(const Hdf5Handle& dataset, const Hdf5Handle& group, const std::string& name) const {
    hdf5_checked(H5Olink(dataset.get(), group.get(), name.c_str(), link_.get(), H5P_DEFAULT),
                 "H5Olink");
  }

  void attribute(hid_t object, const char* name, const std::string& text) const {
    write_attribute(object, name, hdf5_text_type(text.size()), scalar_, text.data());
  }
  void attribute(hid_t object, const char* name, std::int64_t number) const {
    write_attribute(object, name, {H5Tcopy(H5T_STD_I64LE), "H5Tcopy"}, scalar_, &number);
  }
  void attribute(hid_t object, const char* name, const std::vector<std::string>& texts) const {
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

 private:
  static void write_attribute(hid_t object, const char* name, const Hdf5Handle& type,
                              const Hdf5Handle& space, const void* value) {
    const Hdf5Handle attribute(
        H5Acreate2(object, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), "H5Acreate2");
    if (H5Sget_simple_extent_npoints(space.get()) == 0) return;
    hdf5_checked(H5Awrite(attribute.get(), type.get(), value), "H5Awrite");
  }

  Hdf5Handle file_, dataset_, link_, scalar_;
};

/// Ranges of bytes that are datasets' data, not structure.
struct Known {
  std::uint64_t offset = 0, bytes = 0;
};

/// Offset of a dataset's data, which must fit elements of so many bytes.
std::uint64_t offset_of(const Hdf5Handle& dataset, std::uint64_t width) {
  const haddr_t offset = H5Dget_offset(dataset.get());
  if (offset == HADDR_UNDEF || offset % width != 0) {
    throw Error(Kind::internal, "HDF5 gave a dataset no place that fits its elements");
  }
  return offset;
}

/// Small datasets share blocks without regard to their alignment: those of the widest elements
/// come first, so that all lie right. The others come in the model's order.
std::vector<std::uint32_t> order_of(const std::vector<Hdf5Spec::Tensor>& tensors) {
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto rank = [&](std::uint32_t t) -> std::uint64_t {
    const std::uint64_t width = bytes(tensors[t].dtype);
    return checked_product(elements(tensors[t].shape), width) < alignment ? 100 - width : 100;
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return rank(a) < rank(b); });
  return order;
}

void add_tensors(const Writer& writer, const Hdf5Spec& spec, const Hdf5Digests* digests,
                 FileLayout& layout) {
  const Hdf5Handle group = writer.group("tensors");
  std::vector<Hdf5Handle> datasets(spec.tensors.size());
  for (const std::uint32_t t : order_of(spec.tensors)) {
    const Hdf5Spec::Tensor& tensor = spec.tensors[t];
    with_context(tensor.name, [&] {
      check_name(tensor.name);
      const std::uint64_t width = bytes(tensor.dtype);
      datasets[t] = writer.dataset(hdf5_type_of(tensor.dtype).get(), tensor.shape);
      const hid_t dataset = datasets[t].get();
      writer.attribute(dataset, "dtype", std::string(name(tensor.dtype)));
      writer.attribute(dataset, "roles", tensor.roles);
      std::vector<std::string> texts(tensor.roles.size(), padded(no_digest));
      for (std::size_t i = 0; digests != nullptr && i < texts.size(); ++i) {
        const std::vector<Digest>& known = digests->at(t);  // none of a tensor without elements
        texts[i] = (known.empty() ? Digest() : known.at(i)).hex();
      }
      writer.attribute(dataset, "digests", texts);
      const std::uint64_t size = checked_product(elements(tensor.shape), width);
      if (size > 0) layout.data.push_back({t, offset_of(datasets[t], width), size});
    });
  }
  for (std::size_t t = 0; t < datasets.size(); ++t) {
    with_context(spec.tensors[t].name,
                 [&] { writer.name(datasets[t], group, spec.tensors[t].name); });
  }
}

void add_contents(const Writer& writer, const Hdf5Spec& spec, FileLayout& layout) {
  const Hdf5Handle group = writer.group("metadata");
  for (const Hdf5Spec::Content& content : spec.contents) {
    const bool copied = !content.copy.from.empty();
    const std::uint64_t size = copied ? content.copy.bytes : content.bytes.size();
    with_context(content.name, [&] {
      check_name(content.name);
      const Hdf5Handle dataset = writer.dataset(hdf5_type_of(Dtype::u8).get(), {size});
      writer.name(dataset, group, content.name);
      if (size == 0) return;
      const std::uint64_t offset = offset_of(dataset, 1);
      if (copied) {
        layout.copies.push_back(content.copy);
        layout.copies.back().offset = offset;
      } else {
        layout.literals.push_back({offset, content.bytes});
      }
    });
  }
}

/// The pages of a range, as literals.
void add_literals(const MemoryFile& file, std::uint64_t first, std::uint64_t last,
                  std::vector<FileLayout::Literal>& literals) {
  while (first < last) {
    const auto [begin, end] = file.pages(first);
    if (begin >= last) return;
    const std::uint64_t from = std::max(begin, first);
    first = std::min(end, last);
    literals.push_back({from, file.read(from, first)});
  }
}

/// All bytes that are no dataset's data.
void add_structure(const MemoryFile& file, FileLayout& layout) {
  std::vector<Known> known;
  for (const auto& data : layout.data) known.push_back({data.offset, data.bytes});
  for (const auto& copy : layout.copies) known.push_back({copy.offset, copy.bytes});
  for (const auto& literal : layout.literals)
    known.push_back({literal.offset, literal.bytes.size()});
  const auto by_offset = [](const auto& a, const auto& b) { return a.offset < b.offset; };
  std::sort(known.begin(), known.end(), by_offset);
  std::uint64_t at = 0;
  for (const Known& range : known) {
    add_literals(file, at, range.offset, layout.literals);
    at = range.offset + range.bytes;
  }
  layout.bytes = file.size();
  add_literals(file, at, layout.bytes, layout.literals);
  std::sort(layout.literals.begin(), layout.literals.end(), by_offset);
  std::sort(layout.data.begin(), layout.data.end(), by_offset);
  std::sort(layout.copies.begin(), layout.copies.end(), by_offset);
}

FileLayout made(const Hdf5Spec& spec, const Hdf5Digests* digests) {
  const auto lock = hdf5_lock();
  const MemoryFile file;
  FileLayout layout;
  {
    Writer writer(file);
    writer.attribute(writer.root(), "format", hdf5_format);
    writer.attribute(writer.root(), "format_version", hdf5_format_version);
    for (const auto& [name, text] : spec.attributes.items()) {
      writer.attribute(writer.root(), name.c_str(), text.get<std::string>());
    }
    add_tensors(writer, spec, digests, layout);
    add_contents(writer, spec, layout);
    writer.close();
  }
  add_structure(file, layout);
  return layout;
}

}  // namespace

FileLayout hdf5_layout(const Hdf5Spec& spec) {
  return made(spec, nullptr);
}

std::vector<FileLayout::Literal> hdf5_trailer(const Hdf5Spec& spec, const FileLayout& layout,
                                              const Hdf5Digests& digests) {
  const FileLayout after = made(spec, &digests);
  std::vector<FileLayout::Literal> changed;
  for (std::size_t i = 0; i < after.literals.size(); ++i) {
    const auto& [offset, bytes] = after.literals[i];
    const bool same_place = i < layout.literals.size() && layout.literals[i].offset == offset &&
                            layout.literals[i].bytes.size() == bytes.size();
    if (!same_place) throw Error(Kind::internal, "digests move the structure of an HDF5 file");
    const std::string& old = layout.literals[i].bytes;
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      if (bytes[at] == old[at]) continue;
      const bool follows =
          !changed.empty() && changed.back().offset + changed.back().bytes.size() == offset + at;
      if (!follows) changed.push_back({offset + at, ""});
      changed.back().bytes += bytes[at];
    }
  }
  return changed;
}

}  // namespace reshard::formats
