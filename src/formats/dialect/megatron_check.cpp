#include <algorithm>
#include <map>
#include <optional>

#include "formats/dialect/megatron.hpp"

// Whether files belong to one run and lie under their own names.

namespace reshard::formats {
namespace {

/// Where a rank stands in Megatron's order tp-cp-ep-dp-pp, or tp-cp-ep-pp-dp where the run asked
/// for that (megatron.md section 1.3); the expert's tensor rank is not part of a name.
FileRank place_of(std::uint64_t rank, const Parallelism& p, std::uint64_t world,
                  bool stages_inner) {
  FileRank place;
  place.tp = rank % p.tp;
  place.ep = rank / p.etp % p.ep;
  place.pp = stages_inner ? rank / (p.tp * p.cp) % p.pp : rank / (world / p.pp);
  return place;
}

/// The rank that wrote a file, by its args.
std::optional<std::uint64_t> writer_of(const FileIndex& index) {
  const Json rank = index.facts.at("args").value("rank", Json());
  if (!rank.is_number_integer() || rank < 0) return std::nullopt;
  return rank.get<std::uint64_t>();
}

std::string text_of(const FileRank& place) {
  return "tp " + std::to_string(place.tp) + ", pp " + std::to_string(place.pp) + ", ep " +
         std::to_string(place.ep);
}

/// Files that name no writer of their own must at least not be the same file twice.
void check_contents(const std::vector<FileIndex>& indices, Problems& problems) {
  std::map<std::string, std::string> file_of;
  for (const FileIndex& index : indices) {
    const auto [at, is_new] = file_of.emplace(index.facts.at("content").dump(), index.path);
    if (!is_new) {
      problems.add(index.path + ": has the bytes of " + at->second +
                   ": one rank's file lies here twice");
    }
  }
}

}  // namespace

void check_iteration(const Found& found, const Json& iteration, const std::string& where,
                     Problems& problems) {
  const std::size_t slash = found.unit.find_last_of('/');
  const std::string folder = found.unit.substr(slash == std::string::npos ? 0 : slash + 1);
  if (folder.starts_with("iter_") && iteration.is_number_integer() &&
      whole_number(std::string_view(folder).substr(5)) != iteration.get<std::uint64_t>()) {
    problems.add(where + ": iteration is " + iteration.dump() + ", but its folder is " + folder);
  }
}

void check_same_run(const families::ArgumentTable& table, const Found& found,
                    const std::vector<FileIndex>& indices, Problems& problems) {
  const FileIndex& first = indices.front();
  const auto check = [&](const FileIndex& index, const std::string& name, const Json& mine,
                         const Json& theirs) {
    if (mine == theirs) return;
    problems.add(index.path + ": " + name + " is " + mine.dump() + ", but " + theirs.dump() +
                 " in " + first.path);
  };
  for (const FileIndex& index : indices) {
    for (const std::string& name : table.known) {
      check(index, "args." + name, index.facts.at("args").value(name, Json()),
            first.facts.at("args").value(name, Json()));
    }
    for (const char* name : {"iteration", "checkpoint_version"}) {
      check(index, name, index.facts.value(name, Json()), first.facts.value(name, Json()));
    }
  }
  check_iteration(found, first.facts.value("iteration", Json()), first.path, problems);
}

void check_writers(const Parallelism& parallelism, std::uint64_t world,
                   const std::vector<FileIndex>& indices,
                   const std::map<std::string, FileRank>& ranks, Source& source,
                   Problems& problems) {
  std::map<std::uint64_t, std::string> file_of;
  for (const FileIndex& index : indices) {
    if (const auto rank = writer_of(index)) file_of.emplace(*rank, index.path);
  }
  if (indices.size() == 1) return;
  if (file_of.size() <= 1) {  // Megatron's conversion tools run as rank 0 for all
    source.notes.push_back("files do not tell which rank wrote them: names are believed");
    check_contents(indices, problems);
    return;
  }
  const Json order = source.args.value("use_tp_pp_dp_mapping", Json(false));
  const bool even = world % parallelism.pp == 0 && world >= indices.size();
  for (const FileIndex& index : indices) {
    const std::optional<std::uint64_t> rank = writer_of(index);
    const auto name = ranks.find(index.path);
    if (!rank || name == ranks.end()) continue;
    const std::string by = index.path + ": written by rank " + std::to_string(*rank);
    if (file_of.at(*rank) != index.path) {
      problems.add(by + ", as is " + file_of.at(*rank) + ": one rank's file lies here twice");
      continue;
    }
    const FileRank wrote = place_of(*rank, parallelism, world, order == true);
    const FileRank& named = name->second;
    if (even && (wrote.tp != named.tp || wrote.pp != named.pp || wrote.ep != named.ep)) {
      problems.add(by + " of " + std::to_string(world) + ", which is " + text_of(wrote) +
                   "; its name says " + text_of(named));
    }
  }
}

}  // namespace reshard::formats
