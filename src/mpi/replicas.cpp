#include "mpi/replicas.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <sstream>

#include "core/buffer.hpp"
#include "core/strides.hpp"
#include "core/transform.hpp"
#include "formats/canonical_reader.hpp"
#include "mpi/verify.hpp"

namespace reshard::mpi {
namespace {

std::vector<double> numbers(std::span<const std::byte> stored, Dtype dtype) {
  std::vector<double> wide(stored.size() / bytes(dtype));
  cast(reinterpret_cast<std::byte*>(wide.data()), Dtype::f64, stored.data(), dtype, wide.size());
  return wide;
}

/// Largest absolute difference of two lists of floating point numbers; NaNs are left out.
double largest_difference(std::span<const std::byte> a, std::span<const std::byte> b, Dtype dtype) {
  const std::vector<double> x = numbers(a, dtype), y = numbers(b, dtype);
  double largest = 0;
  for (std::size_t i = 0; i < x.size(); ++i) largest = std::fmax(largest, std::fabs(x[i] - y[i]));
  return largest;
}

/// How far two replicas are apart, in words.
std::string apart(formats::SourceReader& reader, const SourcePiece& first,
                  const SourcePiece& piece) {
  const std::uint64_t width = bytes(piece.dtype);
  std::uint64_t differing = 0;
  double largest = 0;
  Buffer buffer;
  for (const Box& box : formats::cut_box(piece.placement.box, std::uint64_t{1} << 20)) {
    const std::size_t half = box.elements() * width;
    const std::span<std::byte> both = buffer.take(2 * half);
    const auto a = both.first(half), b = both.last(half);
    const formats::ReadRequest requests[] = {formats::request_for(first, box, box, a.data()),
                                             formats::request_for(piece, box, box, b.data())};
    reader.read(requests);
    for (std::size_t at = 0; at < half; at += width) {
      if (std::memcmp(&a[at], &b[at], width) != 0) ++differing;
    }
    if (is_castable(piece.dtype))
      largest = std::max(largest, largest_difference(a, b, piece.dtype));
  }
  std::ostringstream text;
  text << differing << " of " << piece.placement.box.elements() << " elements differ";
  if (is_castable(piece.dtype)) text << ", by at most " << largest;
  return text.str();
}

/// The tensors that every tensor parallel rank stores whole under one name, with their pieces.
std::vector<std::vector<std::uint32_t>> whole_replicas(const formats::Source& source) {
  std::map<std::uint32_t, std::vector<std::uint32_t>> pieces;
  for (std::uint32_t i = 0; i < source.pieces.size(); ++i) {
    pieces[source.pieces[i].placement.tensor].push_back(i);
  }
  std::vector<std::vector<std::uint32_t>> groups;
  for (const auto& [tensor, list] : pieces) {
    const Box box = formats::whole(source.model[tensor]);
    const bool alike = std::all_of(list.begin(), list.end(), [&](std::uint32_t i) {
      return source.pieces[i].placement.box == box &&
             source.pieces[i].name == source.pieces[list.front()].name;
    });
    if (alike && list.size() > 1) groups.push_back(list);
  }
  return groups;
}

/// The mean of one tensor's replicas, and how far the first is from the others.
struct Mean {
  double apart = 0;
  std::vector<std::byte> stored;  ///< of equal replicas their own bits
};

Mean mean_of(const formats::Source& source, const std::vector<std::uint32_t>& replicas,
             formats::CanonicalReader& reader) {
  const SourcePiece& first = source.pieces[replicas.front()];
  const Dtype dtype = first.dtype, wide = dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const std::uint64_t count = first.placement.box.elements();
  std::vector<std::byte> original, other(count * bytes(dtype)), widened(count * bytes(wide));
  std::vector<double> sum(count, 0);
  Mean mean;
  bool equal = true;
  const auto round = [&](double value) {
    return wide == Dtype::f64 ? value : static_cast<double>(static_cast<float>(value));
  };
  for (const std::uint32_t i : replicas) {
    reader.read_piece(source.pieces[i], first.placement.box, other);
    if (original.empty()) original = other;
    equal = equal && original == other;
    mean.apart = std::max(mean.apart, largest_difference(original, other, dtype));
    const std::vector<double> values = numbers(other, dtype);
    for (std::size_t n = 0; n < count; ++n) sum[n] = round(sum[n] + values[n]);
  }
  if (equal) return {0, std::move(original)};
  const auto size = static_cast<double>(replicas.size());
  for (double& value : sum) value = round(value / size);
  mean.stored.resize(original.size());
  cast(widened.data(), wide, reinterpret_cast<const std::byte*>(sum.data()), Dtype::f64, count);
  cast(mean.stored.data(), dtype, widened.data(), wide, count);
  return mean;
}

/// Makes the means a source file in memory that the first replicas lie in; the others go.
void replace(const std::vector<std::vector<std::uint32_t>>& groups, const std::vector<Mean>& means,
             formats::Source& source) {
  SourceFile file{"the means of replicas"};
  std::vector<bool> gone(source.pieces.size(), false);
  const Mean* furthest = nullptr;
  std::string where;
  std::uint64_t drifted = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    SourcePiece& piece = source.pieces[groups[g].front()];
    if (means[g].apart > 0) ++drifted;
    if (furthest == nullptr || means[g].apart > furthest->apart) {
      furthest = &means[g];
      where = source.model[piece.placement.tensor].role;
    }
    piece.file = static_cast<std::uint32_t>(source.files.size());
    piece.base = file.content.size();
    piece.placement.offset = 0;
    piece.placement.stride = packed_strides(piece.placement.box.extent);
    file.content.insert(file.content.end(), means[g].stored.begin(), means[g].stored.end());
    for (std::size_t i = 1; i < groups[g].size(); ++i) gone[groups[g][i]] = true;
  }
  std::vector<SourcePiece> kept;
  for (std::size_t i = 0; i < gone.size(); ++i) {
    if (!gone[i]) kept.push_back(std::move(source.pieces[i]));
  }
  source.pieces = std::move(kept);
  file.bytes = file.content.size();
  if (!groups.empty()) source.files.push_back(std::move(file));
  std::ostringstream note;
  note << "--replicas average: " << drifted << " of " << groups.size()
       << " tensors that each tensor parallel rank stores whole differ";
  if (drifted > 0) note << ", by at most " << furthest->apart << " (" << where << ")";
  source.notes.push_back(note.str());
}

}  // namespace

void compare_replicas(const Comm& comm, const Geometry& geometry, const Plan& plan,
                      const std::vector<Digest>& read, formats::SourceReader& reader,
                      const std::function<void()>& check_stop) {
  std::vector<Digest> found(geometry.pieces.size());
  agree(comm, "compare replicas", [&] {
    Buffer buffer;
    for (const OwnedPiece& owned : plan.replicas) {
      if (owned.owner != comm.rank()) continue;
      check_stop();
      const SourcePiece& piece = owned.piece;
      const std::uint64_t width = bytes(piece.dtype);
      const Dims canonical = strides_of(geometry.model[piece.placement.tensor]);
      constexpr std::uint64_t most = std::uint64_t{4} << 20;
      const std::uint64_t last = piece.placement.offset + span(piece.placement);
      const bool nested = is_nested(piece.placement);
      for (std::uint64_t at = piece.placement.offset; at < last;) {
        const std::uint64_t end = nested ? std::min(last, at + most / width) : last;
        for (const Placement& part : cut(piece.placement, at, end)) {
          const Dims packed = packed_strides(part.box.extent);
          std::byte* to = buffer.take(part.box.elements() * width).data();
          const formats::ReadRequest request{piece.file,
                                             piece.base + part.offset * width,
                                             part.box.extent,
                                             part.stride,
                                             packed,
                                             width,
                                             to};
          reader.read({&request, 1});
          found[piece.original] +=
              digest_box(to, width, view(part.box.extent), view(packed), view(canonical),
                         element_at(part.box.offset, canonical));
        }
        at = end;
      }
    }
  });
  sum(comm, found);
  agree(comm, "compare replicas", [&] {
    for (const SourcePiece& piece : geometry.pieces) {
      if (piece.replica_of == SourcePiece::no_replica) continue;
      const CanonicalTensor& tensor = geometry.model[piece.placement.tensor];
      const SourcePiece& first = geometry.pieces[piece.replica_of];
      if (is_padding(tensor.role)) continue;
      if (found[piece.original] == read[first.original]) continue;
      throw Error(Kind::input,
                  tensor.role + ": " + piece.name + " in " + geometry.sources[piece.file].path +
                      " differs from " + first.name + " in " + geometry.sources[first.file].path +
                      ", which should be the same numbers: " + apart(reader, first, piece));
    }
  });
}

void average_replicas(const Comm& comm, formats::Source& source) {
  std::string mine;
  std::vector<std::vector<std::uint32_t>> groups;
  const auto ranks = static_cast<std::size_t>(comm.size());
  agree(comm, "average replicas", [&] {
    groups = whole_replicas(source);
    formats::CanonicalReader reader(source);
    for (auto g = static_cast<std::size_t>(comm.rank()); g < groups.size(); g += ranks) {
      const Mean mean = mean_of(source, groups[g], reader);
      mine.append(reinterpret_cast<const char*>(&mean.apart), sizeof mean.apart);
      mine.append(reinterpret_cast<const char*>(mean.stored.data()), mean.stored.size());
    }
  });
  std::vector<Mean> means(groups.size());
  std::vector<std::string> texts = gather_all(comm, mine);
  std::vector<std::size_t> read(ranks, 0);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const SourcePiece& piece = source.pieces[groups[g].front()];
    const char* const text = texts[g % ranks].data() + read[g % ranks];
    means[g].stored.resize(piece.placement.box.elements() * bytes(piece.dtype));
    std::memcpy(&means[g].apart, text, sizeof means[g].apart);
    std::memcpy(means[g].stored.data(), text + sizeof means[g].apart, means[g].stored.size());
    read[g % ranks] += sizeof means[g].apart + means[g].stored.size();
  }
  replace(groups, means, source);
}

}  // namespace reshard::mpi
