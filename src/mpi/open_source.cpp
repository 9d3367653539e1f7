#include "mpi/open_source.hpp"

namespace reshard::mpi {
namespace {

std::string packed(const Json& json) {
  const std::vector<std::uint8_t> bytes = Json::to_cbor(json);
  return {bytes.begin(), bytes.end()};
}

}  // namespace

formats::Source open_source(const Comm& comm, const formats::SourceOptions& options,
                            formats::Problems& problems) {
  std::string text;
  agree(comm, "detect", [&] {
    if (comm.rank() == 0) text = packed(to_json(formats::detect(options)));
  });
  const formats::Found found = formats::found_from_json(Json::from_cbor(broadcast(comm, text, 0)));
  const formats::Dialect& dialect = formats::dialect_named(found.dialect);

  const auto ranks = static_cast<std::size_t>(comm.size());
  Json mine = Json::array();
  agree(comm, "index", [&] {
    for (auto f = static_cast<std::size_t>(comm.rank()); f < found.files.size(); f += ranks) {
      mine.push_back(to_json(dialect.index(found, found.files[f])));
    }
  });
  std::vector<Json> all;
  for (const std::string& bytes : gather_all(comm, packed(mine))) {
    all.push_back(Json::from_cbor(bytes));
  }
  std::vector<formats::FileIndex> indices;
  formats::Source source;
  agree(comm, "index", [&] {
    for (std::size_t f = 0; f < found.files.size(); ++f) {
      indices.push_back(formats::index_from_json(all[f % ranks][f / ranks]));
    }
    source = dialect.open(found, indices, options, problems);
  });
  return source;
}

}  // namespace reshard::mpi
