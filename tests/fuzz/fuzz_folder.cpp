#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "core/error.hpp"
#include "formats/container/pickle.hpp"
#include "formats/container/safetensors_header.hpp"
#include "formats/dialect/dialect.hpp"

// A checkpoint whose small files come from the input: detection, headers and opening of all
// dialects, and what would be written. The input is
//
//     u8 framework | (u32 bytes | content) of each part
//
// and the parts are the files below, where a pickle gets an archive around it whose storages are
// holes, and a header of safetensors the data that it describes.

namespace {

namespace fs = std::filesystem;
using namespace reshard;
using namespace reshard::formats;

constexpr std::uint64_t most_data = std::uint64_t{1} << 32;

enum class As { plain, pickle, header };

struct Part {
  const char* path;
  As as;
};

/// The files of each framework.
const std::vector<std::vector<Part>>& frameworks() {
  static const std::vector<std::vector<Part>> all = {
      {{"config.json", As::plain},
       {"model.safetensors.index.json", As::plain},
       {"model-00001-of-00002.safetensors", As::header},
       {"model-00002-of-00002.safetensors", As::header}},
      {{"config.json", As::plain}, {"pytorch_model.bin", As::pickle}},
      {{"latest_checkpointed_iteration.txt", As::plain},
       {"iter_0000003/mp_rank_00/model_optim_rng.pt", As::pickle},
       {"iter_0000003/mp_rank_01/model_optim_rng.pt", As::pickle},
       {"iter_0000003/hf_config/config.json", As::plain}},
      {{"latest", As::plain},
       {"global_step3/mp_rank_00_model_states.pt", As::pickle},
       {"global_step3/layer_01-model_00-model_states.pt", As::pickle},
       {"global_step3/hf_config/config.json", As::plain}},
      {{"latest_checkpointed_iteration.txt", As::plain},
       {"iter_0000003/mp_rank_00_pp_rank_000/partial_model_optim.pt", As::pickle},
       {"iter_0000003/hf_config/config.json", As::plain}},
  };
  return all;
}

void put(std::string& text, std::uint64_t value, std::size_t width) {
  text.append(reinterpret_cast<const char*>(&value), width);
}

/// Local header of a stored record, or its entry in the directory.
void add_record(std::string& text, const std::string& name, std::uint64_t bytes,
                const std::uint64_t* at) {
  text += at == nullptr ? "PK\3\4" : "PK\1\2";
  text.append(at == nullptr ? 14 : 16, '\0');
  put(text, bytes, 4);
  put(text, bytes, 4);
  put(text, name.size(), 2);
  text.append(2, '\0');
  if (at != nullptr) {
    text.append(10, '\0');
    put(text, *at, 4);
  }
  text += name;
}

/// An archive with the pickle and its storages, as long as those are not too large.
std::string archive(const std::string& pickle) {
  std::vector<std::pair<std::string, std::uint64_t>> records = {{"a/data.pkl", pickle.size()}};
  std::uint64_t total = 0;
  try {
    const auto value = read_pickle(std::as_bytes(std::span(pickle)));
    for (const auto& [key, use] : value.storages) {
      total += std::min(use.bytes, most_data);
      if (total < (1 << 20)) records.emplace_back("a/data/" + key, use.bytes);
    }
  } catch (const Error&) {  // the archive alone then
  }
  records.emplace_back("a/version", 2);
  std::string file, directory;
  for (const auto& [name, bytes] : records) {
    const std::uint64_t at = file.size();
    add_record(file, name, bytes, nullptr);
    add_record(directory, name, bytes, &at);
    file += name == "a/data.pkl" ? pickle : name == "a/version" ? "3\n" : std::string(bytes, '\0');
  }
  const std::uint64_t at = file.size();
  file += directory + std::string("PK\5\6\0\0\0\0", 8);
  put(file, records.size(), 2);
  put(file, records.size(), 2);
  put(file, directory.size(), 4);
  put(file, at, 4);
  return file + std::string(2, '\0');
}

void write(const fs::path& path, const std::string& content, As as) {
  fs::create_directories(path.parent_path());
  std::uint64_t more = 0;
  std::string file = content;
  if (as == As::pickle) file = archive(content);
  if (as == As::header) {
    file.clear();
    put(file, content.size(), 8);
    file += content;
    try {
      const ByteSource source = memory_source(std::as_bytes(std::span(content)));
      for (const HeaderTensor& tensor :
           read_safetensors_header(source, 0, content.size()).tensors) {
        more = std::max(more, std::min(tensor.end, most_data));
      }
    } catch (const Error&) {  // the header alone then
    }
  }
  std::ofstream(path, std::ios::binary) << file;
  if (more > 0) fs::resize_file(path, file.size() + more);
}

/// What a dialect finds, opens, and would write in each format.
void open_all(const std::string& path) {
  SourceOptions options;
  options.path = path;
  const Found found = detect(options);
  const Dialect& dialect = dialect_named(found.dialect);
  std::vector<FileIndex> indices;
  for (const std::string& file : found.files) indices.push_back(dialect.index(found, file));
  Problems problems;
  const Source source = dialect.open(found, indices, options, problems);
  problems.raise();
  for (const Dialect* to : dialects()) {
    try {
      Problems refused;
      TargetOptions wish;
      wish.to = to->name();
      Source copy = source;
      Target target = to->describe(copy, wish, refused);
      refused.raise();
      std::vector<FileLayout> layouts;
      for (const FileDescription& file : target.files) layouts.push_back(layout_of(file));
      make_geometry(copy, target, layouts);
    } catch (const Error& error) {
      if (error.kind() == Kind::internal) throw;
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fs::path folder =
      (fs::exists("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path()) /
      ("fuzz-folder-" + std::to_string(::getpid()));
  if (size == 0) return 0;
  fs::remove_all(folder);
  fs::create_directory(folder);
  const std::vector<Part>& parts = frameworks()[data[0] % frameworks().size()];
  std::size_t at = 1;
  for (const Part& part : parts) {
    if (size - at < 4) break;
    std::uint32_t bytes = 0;
    std::memcpy(&bytes, data + at, 4);
    at += 4;
    const std::size_t taken = std::min<std::size_t>(bytes, size - at);
    const auto* begin = reinterpret_cast<const char*>(data + at);
    if (taken > 0) write(folder / part.path, std::string(begin, taken), part.as);
    at += taken;
  }
  try {
    open_all(folder.string());
  } catch (const Error& error) {
    if (error.kind() == Kind::internal) __builtin_trap();
  } catch (const fs::filesystem_error&) {  // the input chooses names for the system
  }
  return 0;
}
