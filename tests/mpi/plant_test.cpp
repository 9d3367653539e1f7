#include <gtest/gtest.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>

#include "formats/manifest.hpp"
#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "mpi/verify_manifest.hpp"
#include "support/scratch.hpp"

// Faults planted into converted checkpoints of every format: verify finds each one and names the
// file, and the tensor where one is hit; checkpoints without a fault give no finding. So many
// faults as RESHARD_FAULTS says (default 600).

namespace reshard {
namespace {

namespace fs = std::filesystem;
using Random = std::mt19937_64;

/// A converted checkpoint in memory, and another one of the same shape with other numbers.
struct Planted {
  std::string unit;
  std::map<std::string, std::string> files, stale;
  formats::Manifest manifest;
};

/// What a fault hit: bytes of a file, and a name in it if a tensor's.
struct Fault {
  std::string file, tensor;
  std::string bytes;  ///< what the file now holds
};

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::size_t below(Random& random, std::size_t end) {
  return static_cast<std::size_t>(random() % end);
}

/// A tensor's bytes as rows of equal length.
struct Rows {
  std::string bytes;
  std::size_t count = 0, row = 0, width = 0;
  [[nodiscard]] std::string get(std::size_t i) const { return bytes.substr(i * row, row); }
  void put(std::size_t i, const std::string& content) { bytes.replace(i * row, row, content); }
  void swap(std::size_t i, std::size_t j) {
    const std::string first = get(i);
    put(i, get(j));
    put(j, first);
  }
};

/// Bytes of a file while HDF5's library changes or reads a dataset in chunks, with its filters.
class PackedFile {
 public:
  explicit PackedFile(const std::string& bytes)
      : path_(fs::temp_directory_path() / ("plant-" + std::to_string(getpid()) + ".h5")) {
    write(path_, bytes);
    file_ = H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  }
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;
  ~PackedFile() { fs::remove(path_); }

  /// The elements of a tensor; `to` has their size.
  void get(const std::string& tensor, std::string& to) const { transfer(tensor, to, true); }
  void put(const std::string& tensor, std::string from) const { transfer(tensor, from, false); }
  /// The bytes of the file at the end.
  [[nodiscard]] std::string bytes() {
    EXPECT_GE(H5Fclose(file_), 0);
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

 private:
  void transfer(const std::string& tensor, std::string& bytes, bool reads) const {
    const hid_t dataset = H5Dopen2(file_, ("/tensors/" + tensor).c_str(), H5P_DEFAULT);
    const hid_t type = H5Dget_type(dataset);
    const herr_t code = reads
                            ? H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data())
                            : H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data());
    EXPECT_GE(code, 0) << tensor;
    H5Tclose(type);
    H5Dclose(dataset);
  }

  std::string path_;
  hid_t file_;
};

Rows rows_of(const Planted& planted, const formats::Manifest::File& file,
             const formats::Manifest::Tensor& tensor) {
  Rows rows;
  const std::string& all = planted.files.at(file.path);
  if (tensor.chunks.empty()) {
    rows.bytes = all.substr(tensor.offset, tensor.bytes);
  } else {
    rows.bytes.resize(tensor.bytes);
    PackedFile packed(all);
    packed.get(tensor.name, rows.bytes);
    EXPECT_EQ(packed.bytes().size(), all.size());
  }
  rows.width = bytes(tensor.dtype);
  rows.count = tensor.shape.empty() ? 1 : tensor.shape[0];
  rows.row = rows.count == 0 ? 0 : rows.bytes.size() / rows.count;
  return rows;
}

/// Changes a tensor in one of the ways in which converters go wrong.
void damage(Rows& rows, int kind, Random& random) {
  const std::size_t columns = rows.row / rows.width;
  switch (kind) {
    case 0:  // one bit
      rows.bytes[below(random, rows.bytes.size())] ^= static_cast<char>(1 << below(random, 8));
      break;
    case 1:  // two rows
      rows.swap(below(random, rows.count), below(random, rows.count));
      break;
    case 2: {  // two columns
      const std::size_t a = below(random, columns), b = below(random, columns);
      for (std::size_t i = 0; i < rows.count; ++i) {
        std::string row = rows.get(i);
        std::swap_ranges(row.begin() + static_cast<std::ptrdiff_t>(a * rows.width),
                         row.begin() + static_cast<std::ptrdiff_t>((a + 1) * rows.width),
                         row.begin() + static_cast<std::ptrdiff_t>(b * rows.width));
        if (a != b) rows.put(i, row);
      }
      break;
    }
    case 3: {  // two heads of a quarter of the rows
      const std::size_t head = rows.count / 4, a = below(random, 4), b = below(random, 4);
      for (std::size_t i = 0; i < head; ++i) rows.swap(a * head + i, b * head + i);
      break;
    }
    case 4: {  // q, k, v in another order
      const std::size_t third = rows.bytes.size() / 3;
      std::rotate(rows.bytes.begin(), rows.bytes.begin() + static_cast<std::ptrdiff_t>(third),
                  rows.bytes.end());
      break;
    }
    case 5:  // rows shifted by one
      std::rotate(rows.bytes.begin(), rows.bytes.begin() + static_cast<std::ptrdiff_t>(rows.row),
                  rows.bytes.end());
      break;
    case 6: {  // a block of zeros
      const std::size_t first = below(random, rows.bytes.size());
      const std::size_t size = 1 + below(random, rows.bytes.size() - first);
      std::fill_n(rows.bytes.begin() + static_cast<std::ptrdiff_t>(first), size, '\0');
      break;
    }
    case 7: {  // transposed
      if (columns != rows.count) break;
      const std::string before = rows.bytes;
      for (std::size_t i = 0; i < columns; ++i) {
        for (std::size_t j = 0; j < columns; ++j) {
          rows.bytes.replace((i * columns + j) * rows.width, rows.width, before,
                             (j * columns + i) * rows.width, rows.width);
        }
      }
      break;
    }
    default:
      break;
  }
}

class Planter {
 public:
  Planter(const Planted& planted, Random& random) : planted_(planted), random_(random) {}

  /// A random fault that changes at least one byte; the kind is counted by name.
  Fault next(std::map<std::string, int>& counts) {
    static const char* const names[] = {"bit",           "rows",     "columns", "heads",
                                        "qkv order",     "shift",    "zeros",   "transposed",
                                        "other tensor",  "stale",    "any bit", "header bit",
                                        "cut or longer", "chunk bit"};
    for (;;) {
      const auto kind = static_cast<int>(below(random_, std::size(names)));
      Fault fault = kind < 9 ? in_tensor(kind) : in_file(kind);
      if (fault.file.empty() || fault.bytes == planted_.files.at(fault.file)) continue;
      ++counts[names[kind]];
      return fault;
    }
  }

 private:
  const formats::Manifest::File& any_file() {
    const auto& files = planted_.manifest.files;
    return files[below(random_, files.size())];
  }

  Fault in_tensor(int kind) {
    const formats::Manifest::File& file = any_file();
    if (file.tensors.empty()) return {};
    const formats::Manifest::Tensor& tensor = file.tensors[below(random_, file.tensors.size())];
    Rows rows = rows_of(planted_, file, tensor);
    if (rows.bytes.empty()) return {};
    if (kind == 8) {  // a layer or an expert doubled: another tensor of this shape
      const formats::Manifest::File& other_file = any_file();
      if (other_file.tensors.empty()) return {};
      const auto& other = other_file.tensors[below(random_, other_file.tensors.size())];
      if (other.bytes != tensor.bytes) return {};
      rows = rows_of(planted_, other_file, other);
    } else {
      damage(rows, kind, random_);
    }
    std::string bytes = planted_.files.at(file.path);
    if (tensor.chunks.empty()) {
      bytes.replace(tensor.offset, tensor.bytes, rows.bytes);
      return {file.path, tensor.name, std::move(bytes)};
    }
    PackedFile packed(bytes);
    packed.put(tensor.name, rows.bytes);
    std::string after = packed.bytes();
    // Of a file of another size none is read, so none is named.
    const bool same_size = after.size() == bytes.size();
    return {file.path, same_size ? tensor.name : "", std::move(after)};
  }

  /// A bit of a chunk as it is stored.
  Fault in_chunk(const formats::Manifest::File& file) {
    if (file.tensors.empty()) return {};
    const formats::Manifest::Tensor& tensor = file.tensors[below(random_, file.tensors.size())];
    if (tensor.chunks.empty()) return {};
    const ByteRange& chunk = tensor.chunks[below(random_, tensor.chunks.size())];
    std::string bytes = planted_.files.at(file.path);
    bytes[chunk.first + below(random_, chunk.size())] ^= static_cast<char>(1 << below(random_, 8));
    return {file.path, tensor.name, std::move(bytes)};
  }

  Fault in_file(int kind) {
    if (kind == 13) return in_chunk(any_file());
    if (kind == 9) {
      const std::string& path = any_file().path;
      return {path, "", planted_.stale.at(path)};
    }
    if (kind == 11) {
      const formats::Manifest::File& file = any_file();
      std::string bytes = planted_.files.at(file.path);
      const std::size_t at = below(random_, bytes.size());
      const auto number = static_cast<std::size_t>(&file - planted_.manifest.files.data());
      const auto extents = formats::extents_of(planted_.manifest);
      for (const auto& part : extents[number].parts) {
        if (at >= part.range.first && at < part.range.last) return {};
      }
      bytes[at] ^= static_cast<char>(1 << below(random_, 8));
      return {file.path, "", std::move(bytes)};
    }
    auto file = planted_.files.begin();  // the manifest too
    std::advance(file, below(random_, planted_.files.size()));
    std::string bytes = file->second;
    if (kind == 10) {
      bytes[below(random_, bytes.size())] ^= static_cast<char>(1 << below(random_, 8));
    } else if (random_() % 2 == 0) {
      bytes.resize(below(random_, bytes.size()));
    } else {
      bytes += '\0';
    }
    return {file->first, "", std::move(bytes)};
  }

  const Planted& planted_;
  Random& random_;
};

struct Target {
  const char* family;
  formats::TargetOptions options;
};

formats::TargetOptions target_of(const char* to, std::uint64_t tp = 0, std::uint64_t pp = 0) {
  formats::TargetOptions target;
  target.to = to;
  if (tp != 0) target.tp = tp;
  if (pp != 0) target.pp = pp;
  return target;
}

/// HDF5 in many small chunks.
formats::TargetOptions filtered(const char* filter) {
  formats::TargetOptions target = target_of("hdf5");
  target.hdf5_filter = filter;
  target.hdf5_chunk_bytes = 4096;
  return target;
}

/// Another checkpoint with the lowest bit of every byte of every tensor flipped.
void flip_all(const std::string& file) {
  std::string bytes = test::tree(fs::path(file).parent_path())[fs::path(file).filename()];
  std::uint64_t header = 0;
  for (int i = 7; i >= 0; --i)
    header = header * 256 + static_cast<unsigned char>(bytes[static_cast<std::size_t>(i)]);
  for (std::size_t i = 8 + header; i < bytes.size(); ++i)
    bytes[i] = static_cast<char>(bytes[i] ^ 1);
  write(file, bytes);
}

class Plant : public testing::Test {
 protected:
  Planted grow(const Target& target) {
    scratch_.clear();
    mpi::SampleOptions sample;
    sample.model.family = target.family;
    sample.model.hyperparameters = {{"layers", 2}, {"vocab", 37}};
    sample.target.to = "hf";
    sample.target.path = scratch_ / "source";
    sample.target.dtype = Dtype::f32;
    mpi::sample(comm_, sample);
    mpi::ConvertOptions options;
    options.source.path = scratch_ / "source";
    options.target = target.options;
    options.target.path = scratch_ / "target";
    const mpi::ConvertReport report = mpi::convert(comm_, options);
    flip_all(scratch_ / "source/model.safetensors");
    options.target.path = scratch_ / "stale";
    const mpi::ConvertReport stale = mpi::convert(comm_, options);
    Planted planted{report.unit, test::tree(report.unit), test::tree(stale.unit), {}};
    std::string found;
    planted.manifest = formats::find_manifest(report.unit, found);
    return planted;
  }

  /// What verify finds, in one text; "" for nothing.
  std::string found_in(const Planted& planted) {
    mpi::ProofOptions options;
    options.path = planted.unit;
    options.io_threads = 1;
    try {
      std::string text;
      for (const std::string& finding : mpi::verify_manifest(comm_, options).findings) {
        text += finding + "\n";
      }
      return text;
    } catch (const Error& error) {
      return error.what();
    }
  }

  const mpi::Comm comm_{MPI_COMM_SELF};
  const test::Scratch scratch_{comm_};
};

TEST_F(Plant, EveryFaultIsFoundAndNamed) {
  const char* const wish = std::getenv("RESHARD_FAULTS");
  const int faults = wish == nullptr ? 600 : std::atoi(wish);
  formats::TargetOptions half = target_of("hf-bin");
  half.dtype = Dtype::bf16;
  formats::TargetOptions canonical = target_of("hdf5");
  canonical.hdf5_names = "canonical";
  const Target targets[] = {{"llama", target_of("hf")},
                            {"gpt2", half},
                            {"mixtral", target_of("megatron", 2, 2)},
                            {"mixtral", target_of("megatron-dist", 2, 2)},
                            {"gpt2", target_of("megatron-deepspeed", 2, 2)},
                            {"llama", target_of("megatron-deepspeed", 2, 1)},
                            {"gpt2", target_of("merak", 2, 2)},
                            {"llama", target_of("hdf5")},
                            {"mixtral", canonical},
                            {"gpt2", filtered("fletcher32")},
                            {"llama", filtered("deflate")}};
  Random random(20240901);
  std::map<std::string, int> counts;
  int planted_faults = 0, missed = 0;
  for (const Target& target : targets) {
    SCOPED_TRACE(std::string(target.family) + " as " + target.options.to);
    const Planted planted = grow(target);
    ASSERT_EQ(found_in(planted), "");
    Planter planter(planted, random);
    for (int i = 0; i < faults / static_cast<int>(std::size(targets)); ++i) {
      const Fault fault = planter.next(counts);
      write(planted.unit + "/" + fault.file, fault.bytes);
      const std::string found = found_in(planted);
      const bool named = found.find(fault.file) != std::string::npos &&
                         found.find(fault.tensor) != std::string::npos;
      EXPECT_TRUE(named) << fault.file << ": " << fault.tensor << " is not in: " << found;
      if (!named) ++missed;
      ++planted_faults;
      write(planted.unit + "/" + fault.file, planted.files.at(fault.file));
    }
    EXPECT_EQ(found_in(planted), "");
    fs::remove(planted.unit + "/" + planted.manifest.files.front().path);
    EXPECT_NE(found_in(planted).find(planted.manifest.files.front().path + ": is missing"),
              std::string::npos);
  }
  std::string text;
  for (const auto& [kind, count] : counts) text += ", " + std::to_string(count) + " x " + kind;
  std::printf("%d faults planted, %d not found%s\n", planted_faults, missed, text.c_str());
}

}  // namespace
}  // namespace reshard
