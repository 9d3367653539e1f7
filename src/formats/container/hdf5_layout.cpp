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
#include "formats/container/hdf5_writer.hpp"

namespace reshard::formats {
namespace {

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
    return checked_product(elements(tensors[t].shape), width) < Hdf5Writer::alignment ? 100 - width
                                                                                      : 100;
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return rank(a) < rank(b); });
  return order;
}

void add_tensors(Hdf5Writer& writer, const Hdf5Spec& spec, const Hdf5Digests* digests,
                 FileLayout& layout) {
  const Hdf5Handle group = writer.group("tensors");
  for (const std::uint32_t t : order_of(spec.tensors)) {
    const Hdf5Spec::Tensor& tensor = spec.tensors[t];
    with_context(tensor.name, [&] {
      const std::uint64_t width = bytes(tensor.dtype);
      const std::uint64_t size = checked_product(elements(tensor.shape), width);
      const Hdf5Handle dataset =
          writer.tensor(group, tensor, digests != nullptr ? &digests->at(t) : nullptr);
      if (size > 0) layout.data.push_back({t, offset_of(dataset, width), size});
    });
  }
}

void add_contents(Hdf5Writer& writer, const Hdf5Spec& spec, FileLayout& layout) {
  const Hdf5Handle group = writer.group("metadata");
  for (const Hdf5Spec::Content& content : spec.contents) {
    const bool copied = !content.copy.from.empty();
    const std::uint64_t size = copied ? content.copy.bytes : content.bytes.size();
    with_context(content.name, [&] {
      const Hdf5Handle dataset = writer.dataset(group, content.name, Dtype::u8, {size});
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
    Hdf5Writer writer(file.path(), spec);
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
