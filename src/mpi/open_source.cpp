#include "mpi/open_source.hpp"

#include <filesystem>
#include <fstream>

#include "core/checked_json.hpp"

namespace reshard::mpi {
namespace {

std::string packed(const Json& json) {
  const std::vector<std::uint8_t> bytes = Json::to_cbor(json);
  return {bytes.begin(), bytes.end()};
}

/// JSON of another rank's, which may be large and nested, but comes from this program.
Json unpacked(const std::string& text) {
  constexpr JsonLimits limits{2000, ~std::uint64_t{0}};
  return json_of_cbor(std::as_bytes(std::span(text)), limits);
}

/// Collective. Headers that ranks read, file f by rank f % size; only others' go through JSON.
std::vector<formats::FileIndex> share(const Comm& comm, std::vector<formats::FileIndex> mine,
                                      std::size_t files) {
  if (comm.size() == 1) return mine;
  Json json = Json::array();
  for (const formats::FileIndex& index : mine) json.push_back(to_json(index));
  const auto ranks = static_cast<std::size_t>(comm.size());
  std::vector<formats::FileIndex> indices(files);
  std::vector<std::string> texts = gather_all(comm, packed(json));
  agree(comm, "index", [&] {
    for (std::size_t r = 0; r < ranks; ++r) {
      const Json theirs = unpacked(texts[r]);
      texts[r] = {};
      for (std::size_t i = 0; i < theirs.size(); ++i) {
        indices[r + i * ranks] = formats::index_from_json(theirs[i]);
      }
    }
  });
  return indices;
}

/// The header of a file; of what Git LFS left in its place the message says so.
formats::FileIndex index_of(const formats::Found& found, const std::string& file) {
  try {
    return formats::dialect_named(found.dialect).index(found, file);
  } catch (const Error& error) {
    constexpr std::string_view pointer = "version https://git-lfs.github.com/spec/";
    const std::string path = found.unit + "/" + file;
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored)) throw;
    std::string begin(pointer.size(), '\0');
    std::ifstream(path, std::ios::binary).read(begin.data(), pointer.size());
    if (begin != pointer) throw;
    throw error.with(": this is a pointer of Git LFS, git lfs pull fetches the file");
  }
}

}  // namespace

Headers read_headers(const Comm& comm, const formats::SourceOptions& options) {
  std::string text;
  agree(comm, "detect", [&] {
    if (comm.rank() == 0) text = packed(to_json(formats::detect(options)));
  });
  Headers headers;
  headers.found = formats::found_from_json(unpacked(broadcast(comm, text, 0)));
  const formats::Found& found = headers.found;
  std::vector<formats::FileIndex> mine;
  agree(comm, "index", [&] {
    const auto ranks = static_cast<std::size_t>(comm.size());
    for (auto f = static_cast<std::size_t>(comm.rank()); f < found.files.size(); f += ranks) {
      mine.push_back(index_of(found, found.files[f]));
    }
  });
  headers.indices = share(comm, std::move(mine), found.files.size());
  return headers;
}

formats::Source open_source(const Comm& comm, const formats::SourceOptions& options,
                            formats::Problems& problems) {
  const Headers headers = read_headers(comm, options);
  formats::Source source;
  agree(comm, "index", [&] {
    source = formats::dialect_named(headers.found.dialect)
                 .open(headers.found, headers.indices, options, problems);
  });
  return source;
}

}  // namespace reshard::mpi
