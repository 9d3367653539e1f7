#include "mpi/staged_target.hpp"

#include <algorithm>
#include <filesystem>

#include "core/checked_json.hpp"
#include "mpi/hdf5_access.hpp"

namespace reshard::mpi {
namespace {

/// Values for all ranks, from one of them; paths in them need not be UTF-8.
std::string packed(const Json& json) {
  const std::vector<std::uint8_t> bytes = Json::to_cbor(json);
  return {bytes.begin(), bytes.end()};
}

/// What two identities differ in, in words; theirs may be anything.
std::string difference(const std::string& theirs, const std::string& mine) {
  const Json b = Json::parse(mine);
  Json a;
  try {
    a = json_of_text(theirs);
  } catch (const Error&) {  // then it is no object
  }
  if (!a.is_object() || !a.contains("source")) return ", without a journal of its own";
  if (a["source"] != b["source"])
    return ", of another source, or of one that was changed, put there or given other rights since";
  return a == b ? "" : ", with other options or by another reshard";
}

}  // namespace

formats::Staging agree_on_staging(const Comm& comm, const std::string& target_path,
                                  const formats::Target& target, const std::string& source_path) {
  std::string text;
  agree(comm, "describe", [&] {
    if (comm.rank() != 0) return;
    const formats::Staging staging = formats::plan_staging(target_path, target, source_path);
    text = packed({staging.folder, staging.unit, staging.root, staging.new_parents});
  });
  const Json shared = Json::from_cbor(broadcast(comm, text, 0));
  return {shared[0].get<std::string>(), shared[1].get<std::string>(), shared[2].get<std::string>(),
          shared[3].get<std::uint64_t>()};
}

StagedTarget::Cleaner::~Cleaner() {
  if (removes) formats::discard(staging);
  lock.reset();
  formats::discard_parents(staging);
}

StagedTarget::StagedTarget(const Comm& comm, formats::Staging staging, Growth growth)
    : comm_(comm), staging_(std::move(staging)), growth_(std::move(growth)) {
  Json shared;
  agree(comm, "lock", [&] {
    if (comm.rank() != 0) return;
    cleaner_.emplace(staging_);
    formats::create_parent(staging_);
    cleaner_->lock.emplace(staging_.lock());
    find_earlier();
    shared = {staging_.folder, found_, published_, notes_, journal_.moved.tiles, journal_.runs};
  });
  const std::string text = broadcast(comm, packed(shared), 0);
  if (comm.rank() != 0) {
    shared = Json::from_cbor(text);
    staging_.folder = shared[0].get<std::string>();
    found_ = shared[1].get<bool>();
    published_ = shared[2].get<bool>();
    notes_ = shared[3].get<std::vector<std::string>>();
    journal_.moved = Moved(growth_.geometry);
    journal_.moved.tiles = shared[4].get<std::vector<std::uint64_t>>();
    journal_.runs = shared[5].get<std::uint64_t>();
  }
  writer_.emplace(staging_.tree(), growth_.geometry, growth_.target, growth_.layouts,
                  growth_.io_threads);
  journal_writer_.emplace(staging_.journal(), journal_.runs, comm.rank(), comm.size());
}

void StagedTarget::find_earlier() {
  if (!cleaner_->lock->stale().empty()) {
    notes_.push_back("the lock of " + cleaner_->lock->stale() +
                     ", which has ended, was taken over");
  }
  journal_ = {Moved(growth_.geometry), 0};
  std::string others;
  for (const formats::Abandoned& left : formats::abandoned(staging_)) {
    const formats::Staging other{left.folder, staging_.unit, staging_.root, staging_.new_parents};
    if (growth_.resume && !left.is_begun &&
        !left.published) {  // was killed before it wrote anything
      formats::discard(other);
      continue;
    }
    const bool same = left.identity == growth_.identity;
    if (!same || !growth_.resume) {
      others = left.described + (same ? "" : difference(left.identity, growth_.identity));
      notes_.push_back("an unfinished conversion lies in " + others +
                       (same ? ": --resume goes on with it" : "") +
                       "; remove it if it is not wanted");
      continue;
    }
    formats::Journal journal = formats::read_journal(other.journal(), growth_.geometry);
    if (found_ && journal.moved.tiles.size() < journal_.moved.tiles.size()) continue;
    found_ = true;
    cleaner_->removes = false;  // until this run begins to work on it
    published_ = left.published;
    staging_.folder = left.folder;
    journal_ = std::move(journal);
  }
  published_ = published_ || growth_.is_converted;
  if (!published_) formats::check_place(staging_, growth_.overwrite);
  if (!growth_.resume || found_ || published_) return;
  if (!others.empty()) {
    throw Error(Kind::usage, "--resume: " + others + ": convert without --resume, or remove it");
  }
  notes_.push_back("--resume: nothing to go on with");
}

void StagedTarget::create(std::uint64_t space) {
  agree(comm_, "create", [&] {
    if (comm_.rank() != 0) return;
    cleaner_->removes = true;
    if (!found_) return formats::create_staging(staging_, growth_.identity, space);
    if (!has_filtered(growth_.target)) return;
    // Such files are written anew; ranks that were killed leave files of MPI's beside them.
    for (const auto& entry : std::filesystem::directory_iterator(staging_.tree())) {
      std::filesystem::remove_all(entry.path());
    }
  });
  agree(comm_, "create", [&] {
    const auto ranks = static_cast<std::uint32_t>(comm_.size());
    const auto files = static_cast<std::uint32_t>(growth_.target.files.size());
    for (auto f = static_cast<std::uint32_t>(comm_.rank()); f < files; f += ranks) {
      writer_->create(f);
    }
  });
}

void StagedTarget::append(const Moved& moved) {
  journal_writer_->append(moved);
  recorded_ = true;
}

void StagedTarget::seal(std::uint64_t first, std::uint64_t last, const Sums& sums) {
  agree(comm_, "seal", [&] {
    const TileNumbers numbers(growth_.geometry);
    for (std::uint32_t file = 0; file < numbers.files(); ++file) {
      const std::uint64_t begin = std::max(first, numbers.first(file));
      const std::uint64_t end = std::min(last, numbers.first(file + 1));
      const bool filtered = growth_.target.files[file].is_filtered();
      if (filtered && comm_.rank() == 0) writer_->seal_filtered(file, sums);
      if (begin >= end || filtered) continue;
      writer_->write_trailer(file, static_cast<std::uint32_t>(begin - numbers.first(file)),
                             static_cast<std::uint32_t>(end - numbers.first(file)), sums);
    }
    writer_->finish();
  });
}

void StagedTarget::add_manifest(const std::function<std::string()>& text) {
  agree(comm_, "manifest", [&] {
    if (comm_.rank() == 0) formats::write_manifest(staging_, text());
  });
}

std::string StagedTarget::publish() {
  std::string note;
  agree(comm_, "publish", [&] {
    if (comm_.rank() != 0) return;
    if (!published_) formats::publish_tree(staging_, growth_.overwrite);
    note = formats::raise_tracker(staging_, growth_.target);
    cleaner_->removes = true;
  });
  return broadcast(comm_, note, 0);
}

bool StagedTarget::keep() {
  std::uint64_t kept = recorded_ || !journal_.moved.tiles.empty() ? 1 : 0;
  maximum(comm_, {&kept, 1});
  if (cleaner_) cleaner_->removes = kept == 0;
  return kept != 0;
}

}  // namespace reshard::mpi
