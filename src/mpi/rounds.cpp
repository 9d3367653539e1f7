#include "mpi/rounds.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <thread>

#include "core/buffer.hpp"
#include "core/strides.hpp"
#include "core/transform.hpp"
#include "mpi/exchange.hpp"

namespace reshard::mpi {
namespace {

/// Casts and adds a constant, in the wider of the two types, so that values are rounded once.
void change(std::byte* to, Dtype to_dtype, std::byte* from, Dtype from_dtype, std::uint64_t count,
            double add) {
  const bool add_first = bytes(from_dtype) > bytes(to_dtype);
  if (add != 0 && add_first) add_constant(from, from_dtype, count, add);
  cast(to, to_dtype, from, from_dtype, count);
  if (add != 0 && !add_first) add_constant(to, to_dtype, count, add);
}

bool joins(const Round& round, std::uint64_t slot, std::uint64_t rank) {
  return slot >= round.first && slot < round.last &&
         rank % static_cast<std::uint64_t>(round.modulus) ==
             static_cast<std::uint64_t>(round.residue);
}

}  // namespace

/// A slice that this rank gives in a round.
struct Rounds::Served {
  Slice slice;
  std::byte* to = nullptr;       ///< first element where it is to lie, in the target's dtype
  Dims to_stride;                ///< there, in elements
  std::byte* read_to = nullptr;  ///< where it is read, if it must be changed on the way
};

/// All of one round on this rank.
struct Rounds::Work {
  struct OwnTile {
    std::uint64_t number = 0;
    std::vector<Slice> slices;
    std::span<std::byte> bytes;
  };
  std::vector<OwnTile> tiles;
  std::vector<Served> served;
  std::vector<formats::ReadRequest> requests;
  Buffer tile_memory, send_memory, receive_memory, change_memory;
  Parcel send, receive;
  std::vector<std::pair<std::size_t, Digest>> read, arrived;  ///< see Moved; of what was served
};

Rounds::Rounds(const Comm& comm, const Geometry& geometry, const Plan& plan,
               const Schedule& schedule, const std::vector<bool>& digested,
               formats::SourceReader& reader, formats::TargetWriter& writer, const Commits& commits,
               WriteTogether write_together)
    : comm_(comm),
      geometry_(geometry),
      plan_(plan),
      schedule_(schedule),
      digested_(digested),
      reader_(reader),
      writer_(writer),
      numbers_(geometry),
      commits_(commits),
      write_together_(std::move(write_together)),
      moved_(geometry),
      since_(geometry) {
  for (const CanonicalTensor& tensor : geometry.model.tensors()) {
    canonical_strides_.push_back(strides_of(tensor));
  }
}

void Rounds::prepare(const Round& round, Work& work) {
  const auto ranks = static_cast<std::size_t>(comm_.size());
  const auto me = static_cast<std::uint64_t>(comm_.rank());
  work.tiles.clear();
  work.served.clear();
  work.read.clear();
  work.arrived.clear();
  work.receive.sizes.assign(ranks, 0);
  work.send.sizes.assign(ranks, 0);
  std::uint64_t size = 0;
  for (std::uint64_t slot = round.first;
       slot < std::min<std::uint64_t>(round.last, schedule_.tiles.size()); ++slot) {
    if (!joins(round, slot, me)) continue;
    const std::uint64_t number = schedule_.tiles[slot];
    work.tiles.push_back({number, slices_of(geometry_, plan_, numbers_[number]), {}});
    for (const Slice& slice : work.tiles.back().slices) {
      const int owner = plan_.pieces[slice.piece].owner;
      if (owner == comm_.rank()) continue;
      work.receive.sizes[static_cast<std::size_t>(owner)] += bytes_moved(geometry_, slice);
    }
    size += bytes_of(geometry_, numbers_[number]).size();
  }
  std::span<std::byte> memory = work.tile_memory.take(size);
  for (Work::OwnTile& tile : work.tiles) {
    const std::uint64_t bytes = bytes_of(geometry_, numbers_[tile.number]).size();
    tile.bytes = memory.first(bytes);
    memory = memory.subspan(bytes);
    std::uint64_t covered = 0;
    for (const Slice& slice : tile.slices) covered += bytes_moved(geometry_, slice);
    if (covered != bytes) std::memset(tile.bytes.data(), 0, bytes);  // fill and gaps are zero
  }
  std::uint64_t received = 0;
  for (const std::uint64_t n : work.receive.sizes) received += n;
  work.receive.bytes = work.receive_memory.take(received);

  const auto first = std::lower_bound(
      schedule_.services.begin(), schedule_.services.end(), round.first,
      [](const Schedule::Service& s, std::uint64_t slot) { return s.slot < slot; });
  std::vector<Schedule::Service> services;
  for (auto s = first; s != schedule_.services.end() && s->slot < round.last; ++s) {
    if (!joins(round, s->slot, s->rank)) continue;
    services.push_back(*s);
    if (s->rank != me) work.send.sizes[s->rank] += s->bytes;
  }
  std::uint64_t sent = 0;
  for (const std::uint64_t n : work.send.sizes) sent += n;
  bytes_sent_ += sent;
  work.send.bytes = work.send_memory.take(sent);
  // Parcels lie by rank, and for one rank in the order of its slots: so the receiver finds them.
  std::stable_sort(services.begin(), services.end(),
                   [](const auto& a, const auto& b) { return a.rank < b.rank; });
  std::byte* at = work.send.bytes.data();
  for (const Schedule::Service& service : services) {
    const std::size_t begin = work.served.size();
    serve(service, work);
    if (service.rank == me) continue;
    for (std::size_t i = begin; i < work.served.size(); ++i) {
      work.served[i].to = at;
      work.served[i].to_stride = packed_strides(work.served[i].slice.box.extent);
      at += bytes_moved(geometry_, work.served[i].slice);
    }
  }
  read_slices(work);
  for (const Served& served : work.served) pack(served, work);
}

void Rounds::serve(const Schedule::Service& service, Work& work) {
  if (service.rank != static_cast<std::uint64_t>(comm_.rank())) {
    for (Slice& slice : slices_of(geometry_, plan_, numbers_[service.tile])) {
      if (plan_.pieces[slice.piece].owner != comm_.rank()) continue;
      work.served.push_back({slice, nullptr, {}, nullptr});
    }
    return;
  }
  const auto tile = std::find_if(work.tiles.begin(), work.tiles.end(),
                                 [&](const Work::OwnTile& t) { return t.number == service.tile; });
  const ByteRange range = bytes_of(geometry_, numbers_[tile->number]);
  for (const Slice& slice : tile->slices) {
    if (plan_.pieces[slice.piece].owner != comm_.rank()) continue;
    const TargetTensor& target = geometry_.tensors[slice.target];
    std::byte* to =
        tile->bytes.data() + (target.base + slice.to * bytes(target.stored.dtype) - range.first);
    work.served.push_back({slice, to, slice.to_stride, nullptr});
  }
}

void Rounds::read_slices(Work& work) {
  const auto changes = [&](const Slice& slice) {
    const SourcePiece& piece = plan_.pieces[slice.piece].piece;
    const StoredTensor& target = geometry_.tensors[slice.target].stored;
    return piece.dtype != target.dtype || piece.add != target.add;
  };
  std::uint64_t size = 0;
  for (const Served& served : work.served) {
    if (!changes(served.slice)) continue;
    const StoredTensor& target = geometry_.tensors[served.slice.target].stored;
    const std::uint64_t width =
        bytes(plan_.pieces[served.slice.piece].piece.dtype) + bytes(target.dtype);
    size += (served.slice.elements() * width + 63) / 64 * 64;
  }
  std::byte* at = work.change_memory.take(size).data();
  work.requests.clear();
  for (Served& served : work.served) {
    const SourcePiece& piece = plan_.pieces[served.slice.piece].piece;
    const std::uint64_t width = bytes(piece.dtype);
    const std::uint64_t first = piece.base + served.slice.from * width;
    formats::ReadRequest request{piece.file,
                                 first,
                                 served.slice.box.extent,
                                 served.slice.from_stride,
                                 served.to_stride,
                                 width,
                                 served.to,
                                 plan_.stripes.copies(piece.file, first) - 1};
    if (changes(served.slice)) {
      served.read_to = at;
      request.to = at;
      request.to_stride = packed_strides(served.slice.box.extent);
      const StoredTensor& target = geometry_.tensors[served.slice.target].stored;
      at += (served.slice.elements() * (width + bytes(target.dtype)) + 63) / 64 * 64;
    }
    work.requests.push_back(request);
  }
  reader_.read(work.requests);
}

void Rounds::pack(const Served& served, Work& work) {
  const Slice& slice = served.slice;
  const SourcePiece& piece = plan_.pieces[slice.piece].piece;
  const TargetTensor& target = geometry_.tensors[slice.target];
  const std::uint32_t tensor = piece.placement.tensor;
  const Dims& canonical = canonical_strides_[tensor];
  const std::uint64_t canonical_first = element_at(slice.box.offset, canonical);
  const Dims packed = packed_strides(slice.box.extent);
  const auto digest = [&](const std::byte* data, Dtype dtype, const Dims& stride) {
    return digest_box(data, bytes(dtype), view(slice.box.extent), view(stride), view(canonical),
                      canonical_first);
  };
  const bool primary = target.primary[slice.placement];
  const bool wants_read = primary && digested_[piece.original];
  const bool changed = served.read_to != nullptr;
  const std::uint64_t count = slice.elements();
  Digest after;
  if (changed) {
    if (wants_read) {
      work.read.emplace_back(piece.original, digest(served.read_to, piece.dtype, packed));
    }
    std::byte* to = served.read_to + count * bytes(piece.dtype);
    change(to, target.stored.dtype, served.read_to, piece.dtype, count,
           target.stored.add - piece.add);
    after = digest(to, target.stored.dtype, packed);
    copy_strided(served.to, view(served.to_stride), to, view(packed), view(slice.box.extent),
                 bytes(target.stored.dtype));
  } else {
    after = digest(served.to, piece.dtype, served.to_stride);
    if (wants_read) work.read.emplace_back(piece.original, after);
  }
  work.arrived.emplace_back(target.first_placement + slice.placement, after);
}

void Rounds::finish(Work& work) {
  std::vector<std::uint64_t> places(work.receive.sizes.size(), 0);
  for (std::size_t r = 1; r < places.size(); ++r) {
    places[r] = places[r - 1] + work.receive.sizes[r - 1];
  }
  for (Work::OwnTile& tile : work.tiles) {
    const Tile which = numbers_[tile.number];
    const ByteRange range = bytes_of(geometry_, which);
    for (const Slice& slice : tile.slices) {
      const int owner = plan_.pieces[slice.piece].owner;
      if (owner == comm_.rank()) continue;
      const TargetTensor& target = geometry_.tensors[slice.target];
      const std::uint64_t width = bytes(target.stored.dtype);
      std::uint64_t& place = places[static_cast<std::size_t>(owner)];
      copy_strided(tile.bytes.data() + (target.base + slice.to * width - range.first),
                   view(slice.to_stride), work.receive.bytes.data() + place,
                   view(packed_strides(slice.box.extent)), view(slice.box.extent), width);
      place += slice.elements() * width;
    }
    writer_.put_other_bytes(which, tile.bytes);
  }
  writer_.write(tiles_of(work), since_.crcs);
  for (const auto& [piece, digest] : work.read) since_.read[piece] += digest;
  for (const auto& [placement, digest] : work.arrived) since_.arrived[placement] += digest;
  for (const Work::OwnTile& tile : work.tiles) {
    since_.tiles.push_back(tile.number);
    bytes_since_ += tile.bytes.size();
  }
}

std::vector<formats::TargetWriter::TileBytes> Rounds::tiles_of(const Work& work) const {
  std::vector<formats::TargetWriter::TileBytes> tiles;
  for (const Work::OwnTile& tile : work.tiles) tiles.push_back({numbers_[tile.number], tile.bytes});
  return tiles;
}

void Rounds::commit() {
  writer_.sync();
  commits_.append(since_);
  moved_ += since_;
  since_ = Moved(geometry_);
  bytes_since_ = 0;
  committed_ = std::chrono::steady_clock::now();
}

bool Rounds::wants_commit() const {
  return bytes_since_ >= commits_.bytes ||
         std::chrono::steady_clock::now() - committed_ >= commits_.seconds;
}

Moved Rounds::run(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                  const std::function<void(const std::string&)>& waiting,
                  const std::function<void()>& check_stop) {
  // What is written together is so a step later: when all ranks are known to have it.
  const std::size_t lag = write_together_ ? 3 : 2;
  std::vector<Work> works(lag + 1);
  const std::size_t all = schedule_.rounds.size();
  const auto start = [&](auto&& work) {
    return std::async(std::launch::async, [work] { return attempt(work); });
  };
  const auto result = [&](std::future<std::optional<Error>>& future, const auto& operation) {
    using namespace std::chrono_literals;
    if (!future.valid()) return std::optional<Error>();
    do {
      waiting(operation());
    } while (future.wait_for(1s) != std::future_status::ready);
    return future.get();
  };
  const auto finished = [&](auto& request, const std::string& operation) {
    while (!request.test()) {
      waiting(operation);
      std::this_thread::yield();
    }
  };
  // Step s prepares round s, exchanges round s - 1 and finishes round s - 2; whether all ranks
  // prepared theirs, and wish to commit or to stop, is asked while the next step's work is under
  // way. So all commit at the same step, when each has finished the same rounds.
  enum Wish { go_on, want_commit, want_stop };
  std::optional<Agreement> agreement;
  std::optional<Error> stop;
  int wish = go_on;
  const auto settle = [&] {
    if (!agreement) return;
    finished(*agreement, "waiting for other ranks");
    wish = agreement->wait("move");
    agreement.reset();
  };
  const auto work_of = [&](std::size_t round) -> Work& { return works[round % works.size()]; };
  for (std::size_t step = 0; step < all + lag; ++step) {
    std::future<std::optional<Error>> reading, writing;
    if (step < all) {
      reading = start([&, step] { prepare(schedule_.rounds[step], work_of(step)); });
    }
    const bool commits = wish == want_commit;
    if (commits) settle();  // for what a rank failed to write must not be committed by others
    if (step >= 2 && step - 2 < all) {
      writing = start([&, step, commits] {
        if (commits) commit();
        finish(work_of(step - 2));
      });
    }
    settle();
    if (step >= 1 && step - 1 < all && comm_.size() > 1 && wish != want_stop) {
      Work& work = work_of(step - 1);
      Exchange exchange(comm_, work.send, work.receive);
      finished(exchange, "exchanging");
    }
    if (write_together_ && step >= 3 && wish != want_stop) {  // all ranks throw, or none
      write_together_(schedule_.rounds[step - 3], tiles_of(work_of(step - 3)));
    }
    std::optional<Error> mine = result(reading, [&] { return "reading " + reader_.busy_with(); });
    const std::optional<Error> other =
        result(writing, [&] { return "writing " + writer_.busy_with(); });
    if (!mine) mine = other;
    if (!stop) stop = attempt(check_stop);
    agreement.emplace(comm_, mine, stop ? want_stop : wants_commit() ? want_commit : go_on);
    if (wish == want_stop) break;
    if (step >= lag) progress(step - lag + 1, all);
  }
  agreement->wait("move");
  agree(comm_, "move", [&] { commit(); });
  agree(comm_, "move", [&] {
    if (stop) throw Error(*stop);
  });
  return std::move(moved_);
}

}  // namespace reshard::mpi
