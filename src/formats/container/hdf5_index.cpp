#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <set>

#include "formats/container/hdf5_dataset.hpp"
#include "formats/container/hdf5_file.hpp"
#include "formats/container/hdf5_layout.hpp"
#include "formats/container/hdf5_library.hpp"
#include "formats/container/isolated.hpp"

namespace reshard::formats {
namespace {

constexpr std::size_t most_objects = std::size_t{1} << 20;
constexpr std::size_t deepest = 32;

[[noreturn]] void refuse(const std::string& text) {
  throw Error(Kind::input, text);
}

/// A link of a group.
struct Link {
  std::string name;
  H5L_type_t type = H5L_TYPE_ERROR;
};

/// Error(input) when a text is not UTF-8, in which all messages are.
void check_text(const std::string& text) {
  try {
    static_cast<void>(Json(text).dump());
  } catch (const Json::exception&) {
    refuse("not UTF-8: " + Json(text).dump(-1, ' ', true, Json::error_handler_t::replace));
  }
}

/// The links of a group, by name.
std::vector<Link> links_of(hid_t group) {
  const auto add = [](hid_t, const char* name, const H5L_info_t* info, void* to) -> herr_t {
    auto& links = *static_cast<std::vector<Link>*>(to);
    if (links.size() >= most_objects) return 1;
    links.push_back({name, info->type});
    return 0;
  };
  std::vector<Link> links;
  hsize_t at = 0;
  if (hdf5_checked(H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, &at, add, &links), "H5Literate") !=
      0) {
    refuse("more than " + std::to_string(most_objects) + " links in a group");
  }
  for (const Link& link : links) check_text(link.name);
  return links;
}

/// The value of an attribute of the root: a text or an integer of one element.
Json value_of(const Hdf5Handle& attribute) {
  if (std::optional<std::string> text = hdf5_text_in(attribute)) {
    check_text(*text);
    return *std::move(text);
  }
  const Hdf5Handle type(H5Aget_type(attribute.get()), "H5Aget_type");
  const Hdf5Handle space(H5Aget_space(attribute.get()), "H5Aget_space");
  const bool single = H5Sget_simple_extent_npoints(space.get()) == 1;
  if (!single || H5Tget_class(type.get()) != H5T_INTEGER) refuse("wanted an integer or a text");
  std::int64_t number = 0;
  hdf5_checked(H5Aread(attribute.get(), H5T_NATIVE_INT64, &number), "H5Aread");
  return number;
}

/// Whether an object has an attribute.
bool has_attribute(hid_t object, const char* name) {
  return hdf5_checked(H5Aexists(object, name), "H5Aexists") > 0;
}

/// Where HDF5 begins in a file, behind a user block perhaps; nothing if it is none.
std::optional<std::uint64_t> hdf5_begin(const std::string& path) {
  constexpr std::uint64_t least = 512, most = std::uint64_t{1} << 20;  // of a user block
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  for (std::uint64_t at = 0; at <= most; at = std::max(least, 2 * at)) {
    std::string begin(8, '\0');
    if (!file.seekg(static_cast<std::streamoff>(at)).read(begin.data(), 8)) break;
    if (begin == "\x89HDF\r\n\x1a\n") return at;
  }
  return std::nullopt;
}

/// Goes through the objects of one file.
class Walk {
 public:
  Walk(const std::string& path, std::uint64_t bytes, const std::function<void()>& progress)
      : progress_(progress), file_bytes_(bytes) {
    const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate");
    hdf5_checked(H5Pset_fapl_sec2(access.get()), "H5Pset_fapl_sec2");
    hdf5_checked(H5Pset_file_locking(access.get(), false, true), "H5Pset_file_locking");
    file_ = {H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), "H5Fopen"};
  }

  void read(FileIndex& index) {
    const Hdf5Handle root(H5Gopen2(file_.get(), "/", H5P_DEFAULT), "H5Gopen2");
    enter(root.get(), "/");
    own_ = is_own(root.get());
    if (!own_) {
      index.facts = Json::object();
      add_group(root.get(), "", index.tensors);
      return;
    }
    index.facts = {{"attributes", attributes(root.get())},
                   {"metadata", Json::object()},
                   {"others", Json::array()}};
    for (const Link& link : links_of(root.get())) {
      if (link.name == "tensors") {
        const Hdf5Handle group = opened_group(root.get(), link);
        for (const Link& tensor : links_of(group.get())) {
          index.tensors.push_back(entry(group.get(), tensor, tensor.name));
        }
      } else if (link.name == "metadata") {
        add_metadata(opened_group(root.get(), link).get(), index.facts["metadata"]);
      } else {
        index.facts["others"].push_back(link.name);
      }
    }
  }

 private:
  static bool is_own(hid_t root) {
    if (!has_attribute(root, "format")) return false;
    const Hdf5Handle attribute(H5Aopen(root, "format", H5P_DEFAULT), "H5Aopen");
    return with_context("attribute format", [&] { return hdf5_text_in(attribute); }) == hdf5_format;
  }

  static Json attributes(hid_t root) {
    Json values = Json::object();
    for (const char* name : {"format_version", "names", "family", "model_type", "hyperparameters",
                             "training", "producer"}) {
      if (!has_attribute(root, name)) continue;
      const Hdf5Handle attribute(H5Aopen(root, name, H5P_DEFAULT), "H5Aopen");
      values[name] =
          with_context(std::string("attribute ") + name, [&] { return value_of(attribute); });
    }
    if (values.value("format_version", Json()) != hdf5_format_version) {
      refuse("format_version " + values.value("format_version", Json()).dump() + " of " +
             hdf5_format + ", this reshard reads " + std::to_string(hdf5_format_version));
    }
    return values;
  }

  /// One more object; `where` is its place in the file.
  void count() {
    progress_();
    if (++objects_ > most_objects) refuse("more than " + std::to_string(most_objects) + " objects");
  }

  /// A group that was not entered before: else links would lead round and round.
  void enter(hid_t group, const std::string& name) {
    count();
    H5O_info_t info = {};
    hdf5_checked(H5Oget_info2(group, &info, H5O_INFO_BASIC), "H5Oget_info2");
    if (!groups_.insert(info.addr).second) {
      refuse(name + ": this group has another name too, or lies within itself");
    }
  }

  H5O_type_t type_of(hid_t group, const Link& link, const std::string& name) {
    if (link.type != H5L_TYPE_HARD) {
      refuse(name + (link.type == H5L_TYPE_SOFT ? ": a soft" : ": an external") +
             " link, wanted a group or dataset of this file");
    }
    H5O_info_t info = {};
    hdf5_checked(H5Oget_info_by_name2(group, link.name.c_str(), &info, H5O_INFO_BASIC, H5P_DEFAULT),
                 "H5Oget_info_by_name2");
    return info.type;
  }

  Hdf5Handle opened_group(hid_t parent, const Link& link) {
    return with_context(link.name, [&] {
      if (type_of(parent, link, link.name) != H5O_TYPE_GROUP) refuse("wanted a group");
      Hdf5Handle group(H5Gopen2(parent, link.name.c_str(), H5P_DEFAULT), "H5Gopen2");
      enter(group.get(), link.name);
      return group;
    });
  }

  TensorEntry entry(hid_t group, const Link& link, const std::string& name) {
    count();
    if (type_of(group, link, name) != H5O_TYPE_DATASET) refuse(name + ": wanted a dataset");
    return with_context(name, [&] {
      const Hdf5Handle dataset(H5Dopen2(group, link.name.c_str(), H5P_DEFAULT), "H5Dopen2");
      return hdf5_entry(dataset.get(), name, own_, file_bytes_, progress_);
    });
  }

  /// All datasets below a group whose names begin with `prefix`.
  void add_group(hid_t group, const std::string& prefix, std::vector<TensorEntry>& entries) {
    if (++depth_ > deepest) {
      refuse(prefix + ": groups are nested deeper than " + std::to_string(deepest));
    }
    for (const Link& link : links_of(group)) {
      const std::string name = prefix + link.name;
      const H5O_type_t type = type_of(group, link, name);
      if (type == H5O_TYPE_DATASET) {
        entries.push_back(entry(group, link, name));
      } else if (type == H5O_TYPE_GROUP) {
        const Hdf5Handle inner(H5Gopen2(group, link.name.c_str(), H5P_DEFAULT), "H5Gopen2");
        enter(inner.get(), name);
        add_group(inner.get(), name + ".", entries);
      } else {
        refuse(name + ": a committed type or another object, wanted a group or dataset");
      }
    }
    --depth_;
  }

  void add_metadata(hid_t group, Json& metadata) {
    for (const Link& link : links_of(group)) {
      const TensorEntry found = entry(group, link, "metadata/" + link.name);
      if (found.dtype != Dtype::u8 || found.shape.size() != 1 || found.chunks != nullptr) {
        refuse(found.name + ": wanted a contiguous row of bytes");
      }
      metadata[link.name] = {found.offset, found.shape[0]};
    }
  }

  const std::function<void()>& progress_;
  std::uint64_t file_bytes_;
  Hdf5Handle file_;
  bool own_ = false;
  std::size_t objects_ = 0, depth_ = 0;
  std::set<haddr_t> groups_;
};

}  // namespace

bool is_hdf5(const std::string& path) {
  return hdf5_begin(path).has_value();
}

FileIndex read_hdf5_here(const std::string& path, const std::string& name,
                         const std::function<void()>& progress) {
  const auto lock = hdf5_lock();
  FileIndex index{name, "hdf5", std::filesystem::file_size(path), {}, Json::object()};
  Walk(path, index.bytes, progress).read(index);
  return index;
}

FileIndex read_hdf5(const std::string& path, const std::string& name) {
  const std::optional<std::uint64_t> begin = hdf5_begin(path);
  if (!begin) throw Error(Kind::input, name + ": not an HDF5 file");
  if (*begin != 0) {
    throw Error(Kind::input, name + ": has a user block of " + std::to_string(*begin) +
                                 " bytes in front, which h5unjam takes away");
  }
  const std::string packed = with_context(name, [&] {
    return run_isolated([&](const std::function<void()>& progress) {
      const std::vector<std::uint8_t> bytes =
          Json::to_cbor(to_json(read_hdf5_here(path, name, progress)));
      return std::string(bytes.begin(), bytes.end());
    });
  });
  return index_from_json(Json::from_cbor(packed));
}

}  // namespace reshard::formats
