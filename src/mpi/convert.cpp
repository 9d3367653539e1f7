#include "mpi/convert.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>

#include "core/plan.hpp"
#include "core/transform.hpp"
#include "formats/source_reader.hpp"
#include "mpi/filtered_files.hpp"
#include "mpi/hdf5_access.hpp"
#include "mpi/identity.hpp"
#include "mpi/manifest.hpp"
#include "mpi/prepare.hpp"
#include "mpi/replicas.hpp"
#include "mpi/rounds.hpp"
#include "mpi/schedule.hpp"
#include "mpi/staged_target.hpp"
#include "mpi/verify.hpp"

namespace reshard::mpi {
namespace {

/// Bytes of a source that may be kept from round to round, of a memory bound.
std::uint64_t kept_bytes(std::uint64_t memory) {
  return memory / 4;
}

/// Buffers of a round: read, change, 2 send, 2 receive, 3 tiles, spare.
constexpr std::uint64_t buffers = 10;

/// Bytes of each of a round's buffers within a memory bound.
std::uint64_t round_share(std::uint64_t memory) {
  return (memory - kept_bytes(memory)) / buffers;
}

using Clock = std::chrono::steady_clock;

/// Seconds of each phase, on the slowest rank's clock as seen from here.
class Phases {
 public:
  Phases(const Comm& comm, const ConvertOptions& options, ConvertReport& report)
      : comm_(comm), options_(options), report_(report) {}
  /// Collective.
  void done(std::string name) {
    agree(comm_, name, [&] {
      if (options_.after_phase) options_.after_phase(name);
      if (name != "publish") options_.check_stop();
    });
    const Clock::time_point now = Clock::now();
    report_.phases.push_back(
        {std::move(name), std::chrono::duration<double>(now - begin_).count()});
    begin_ = now;
  }

 private:
  const Comm& comm_;
  const ConvertOptions& options_;
  ConvertReport& report_;
  Clock::time_point begin_ = Clock::now();
};

/// Collective. One value of each rank, by rank.
std::vector<std::uint64_t> by_rank(const Comm& comm, std::uint64_t mine) {
  std::vector<std::uint64_t> values(static_cast<std::size_t>(comm.size()), 0);
  values[static_cast<std::size_t>(comm.rank())] = mine;
  sum(comm, std::span<std::uint64_t>(values));
  return values;
}

std::uint64_t peak_rss() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

/// First number in a small file of the kernel's; nothing for "max" or no file.
std::optional<std::uint64_t> kernel_number(const std::string& path, const std::string& key = "") {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    if (!key.empty() && word != key) continue;
    if (!key.empty() && !(file >> word)) return std::nullopt;
    const bool digits = !word.empty() && word.find_first_not_of("0123456789") == std::string::npos;
    return digits ? std::optional(std::stoull(word)) : std::nullopt;
  }
  return std::nullopt;
}

/// The pieces that are compared with replicas, or become other values. What is not to be verified
/// is digested, too: another run may go on with it that verifies.
std::vector<bool> digested_pieces(const Geometry& geometry) {
  std::vector<bool> digested(geometry.pieces.size(), false);
  const std::vector<bool> changed = changed_tensors(geometry);
  for (const SourcePiece& piece : geometry.pieces) {
    if (piece.replica_of != SourcePiece::no_replica) digested[piece.replica_of] = true;
    if (changed[piece.placement.tensor]) digested[piece.original] = true;
  }
  return digested;
}

/// Says what a rank has been waiting for when a round takes very long.
class Patience {
 public:
  Patience(const Comm& comm, const ConvertOptions& options) : comm_(comm), options_(options) {}
  void renew() { begin_ = Clock::now(); }
  void wait(const std::string& operation) {
    if (!options_.stalled || Clock::now() - begin_ < options_.patience) return;
    std::array<char, 256> host{};
    gethostname(host.data(), host.size() - 1);
    options_.stalled("rank " + std::to_string(comm_.rank()) + " on " + host.data() + ": " +
                     operation + " for more than " + std::to_string(options_.patience.count()) +
                     " s");
    renew();
  }

 private:
  const Comm& comm_;
  const ConvertOptions& options_;
  Clock::time_point begin_ = Clock::now();
};

/// The bytes of tiles that earlier runs wrote.
std::uint64_t bytes_of(const Geometry& geometry, const std::vector<std::uint64_t>& tiles) {
  const TileNumbers numbers(geometry);
  std::uint64_t bytes = 0;
  for (const std::uint64_t number : tiles) bytes += bytes_of(geometry, numbers[number]).size();
  return bytes;
}

/// Collective. Rounds, with what earlier runs moved; the sums are those of all ranks.
Moved move(const Comm& comm, const ConvertOptions& options, const Geometry& geometry,
           const formats::Target& target, const Plan& plan, const Schedule& schedule,
           formats::SourceReader& reader, StagedTarget& staged, ConvertReport& report) {
  const std::vector<bool> digested = digested_pieces(geometry);
  Commits commits{[&](const Moved& since) { staged.append(since); }, options.journal_bytes,
                  std::chrono::seconds(30)};
  std::optional<FilteredWriter> filtered;
  WriteTogether write_together;
  if (has_filtered(target)) {  // a file that is half packed cannot be gone on with: no journal
    commits.append = [](const Moved&) {};
    filtered.emplace(comm, geometry, target, staged.writer());
    write_together = [&](const Round& round, auto tiles) { filtered->write(round, tiles); };
  }
  Rounds rounds(comm, geometry, plan, schedule, digested, reader, staged.writer(), commits,
                write_together);
  Patience patience(comm, options);
  const std::uint64_t left = report.target_bytes - report.resumed_bytes;
  Moved moved = rounds.run(
      [&](std::uint64_t done, std::uint64_t all) {
        patience.renew();
        if (comm.rank() != 0 || !options.progress) return;
        const double share = static_cast<double>(done) / static_cast<double>(all);
        const auto bytes = static_cast<std::uint64_t>(share * static_cast<double>(left));
        options.progress(report.resumed_bytes + bytes, report.target_bytes);
      },
      [&](const std::string& operation) { patience.wait(operation); }, options.check_stop);
  if (filtered) filtered->close();
  report.bytes_sent = by_rank(comm, rounds.bytes_sent());
  report.bytes_written = by_rank(comm, staged.writer().bytes_written());
  if (comm.rank() == 0) moved += staged.before();
  exclusive_or(comm, moved.crcs);
  sum(comm, moved.read);
  sum(comm, moved.arrived);
  return moved;
}

/// Collective. All that comes after planning, up to publication.
void grow(const Comm& comm, const ConvertOptions& options, const Wish& wish, const Prepared& p,
          const Plan& plan, const Schedule& schedule, StagedTarget& staged, Phases& phases,
          ConvertReport& report) {
  const Geometry& geometry = p.geometry;
  staged.create(report.target_bytes - report.resumed_bytes);
  formats::SourceReader reader(p.source.found.unit, geometry.sources, options.io_threads,
                               kept_bytes(report.memory));
  phases.done("create");
  const Moved moved =
      move(comm, options, geometry, p.target, plan, schedule, reader, staged, report);
  phases.done("move");
  compare_replicas(comm, geometry, plan, moved.read, reader, options.check_stop);
  const std::vector<Stamp> now = stamps_of(comm, p);
  agree(comm, "source", [&] { check_unchanged(p.stamps, now); });
  phases.done("replicas");
  const auto me = static_cast<std::size_t>(comm.rank());
  Sums sums{moved.crcs};
  if (options.verify) sums.arrived = moved.arrived;
  staged.seal(plan.share_begin[me], plan.share_begin[me + 1], sums);
  const FilteredFiles filtered = index_filtered(comm, p.target, staged.writer(), sums);
  phases.done("seal");
  formats::ByteSums bytes;
  if (options.verify) {
    bytes = verify(comm,
                   {geometry, p.target, sums, staged.writer(), filtered,
                    formats::FileSums(extents_of(geometry, filtered))},
                   plan, options.io_threads, options.check_stop);
    report.verified = true;
    phases.done("verify");
  }
  const std::vector<Digest> samples = samples_of(comm, p);
  staged.add_manifest([&] {
    formats::Manifest manifest = describe_manifest(p, wish, samples, filtered);
    if (options.verify) prove(manifest, geometry, moved, bytes);
    return manifest_text(manifest);
  });
  phases.done("manifest");
  report.bytes_read = by_rank(comm, reader.bytes_read());
}

/// Whether another run may go on after such a failure: not when the source or what was written is
/// at fault.
bool leaves_resumable(Kind kind) {
  return kind != Kind::input && kind != Kind::verification;
}

}  // namespace

std::uint64_t default_memory(const Comm& comm) {
  std::uint64_t left = kernel_number("/proc/meminfo", "MemAvailable:").value_or(4 << 20) * 1024;
  const auto limit = kernel_number("/sys/fs/cgroup/memory.max");
  const auto used = kernel_number("/sys/fs/cgroup/memory.current");
  if (limit && used) left = std::min(left, *limit - std::min(*limit, *used));
  MPI_Comm node = MPI_COMM_NULL;
  check(MPI_Comm_split_type(comm.handle(), MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
        "MPI_Comm_split_type");
  int ranks = 1;
  check(MPI_Comm_size(node, &ranks), "MPI_Comm_size");
  check(MPI_Comm_free(&node), "MPI_Comm_free");
  constexpr std::uint64_t most = std::uint64_t{2} << 30;
  std::uint64_t mine = ~std::min(most, left / 2 / static_cast<std::uint64_t>(ranks));
  maximum(comm, {&mine, 1});  // the least of all
  return ~mine;
}

std::uint64_t memory_bound(const Comm& comm, std::uint64_t memory, const Geometry& geometry,
                           ConversionFacts& facts) {
  if (memory == 0) memory = default_memory(comm);
  const std::uint64_t tile = geometry.most_tile_bytes();
  if (round_share(memory) >= tile) return memory;
  const std::uint64_t needed = (buffers * tile * 4 + 2) / 3;
  facts.notes.push_back("buffers of a rank take " + std::to_string(needed) +
                        " bytes, more than their bound of " + std::to_string(memory) +
                        ": ten of the target's largest tile, of " + std::to_string(tile) +
                        " bytes, and a third of that for what is read");
  return needed;
}

std::uint64_t round_bytes(std::uint64_t memory, int ranks) {
  constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
  const std::uint64_t wanted = static_cast<std::uint64_t>(std::clamp(ranks, 8, 64)) * mebibyte;
  return std::clamp<std::uint64_t>(round_share(memory), 4096, wanted);
}

ConvertReport convert(const Comm& comm, const ConvertOptions& options) {
  ConvertReport report;
  Phases phases(comm, options, report);
  const Wish wish{options.source, options.target, options.overwrite, options.resume};
  Prepared p = prepare(comm, wish, [&](const std::string& phase) { phases.done(phase); });
  if (options.tile_bytes != 0) p.geometry.tile_bytes = options.tile_bytes;
  const Geometry& geometry = p.geometry;
  static_cast<ConversionFacts&>(report) = facts_of(p, wish);
  for (auto* bytes : {&report.bytes_read, &report.bytes_sent, &report.bytes_written}) {
    bytes->assign(static_cast<std::size_t>(comm.size()), 0);
  }
  report.memory = memory_bound(comm, options.memory, geometry, report);

  std::string identity;
  agree(comm, "describe", [&] {
    if (comm.rank() == 0) identity = identity_of(p);
  });
  StagedTarget staged(comm, p.staging,
                      {geometry, p.target, p.layouts, identity, options.overwrite, options.resume,
                       p.is_converted, options.io_threads});
  report.notes.insert(report.notes.end(), staged.notes().begin(), staged.notes().end());
  const auto publish = [&] {
    const std::string note = staged.publish();
    if (!note.empty()) report.notes.push_back(note);
    phases.done("publish");
  };
  report.resumed_bytes = bytes_of(geometry, staged.before().tiles);
  if (options.resume && has_filtered(p.target) && !staged.is_published()) {
    report.notes.emplace_back(
        "--resume: a file with --hdf5-filter is written from its begin, not gone on with");
  }
  if (!staged.is_published()) {
    Plan plan;
    agree(comm, "plan", [&] {
      plan = make_plan(geometry, comm.size());
      plan.done.resize(TileNumbers(geometry).size(), false);
      for (const std::uint64_t tile : staged.before().tiles) plan.done[tile] = true;
      const std::vector<bool> changed = changed_tensors(geometry);
      const bool casts = std::find(changed.begin(), changed.end(), true) != changed.end();
      if (casts) load_casts();  // fails before anything is written
    });
    const Schedule schedule =
        make_schedule(comm, geometry, plan, round_bytes(report.memory, comm.size()));
    report.rounds = schedule.rounds.size();
    phases.done("plan");
    try {
      grow(comm, options, wish, p, plan, schedule, staged, phases, report);
      publish();
    } catch (const Error& error) {
      if (!leaves_resumable(error.kind()) || !staged.keep()) throw;
      throw error.with("; what was done is kept in " + staged.folder() +
                       ": --resume goes on with it");
    }
  } else {
    report.already = true;
    publish();
  }
  report.peak_rss = by_rank(comm, peak_rss());
  return report;
}

}  // namespace reshard::mpi
