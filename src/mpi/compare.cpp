#include "mpi/compare.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <tuple>

#include "core/buffer.hpp"
#include "core/transform.hpp"
#include "families/record.hpp"
#include "formats/canonical_reader.hpp"
#include "mpi/open_source.hpp"

namespace reshard::mpi {
namespace {

constexpr std::uint64_t tile_bytes = std::uint64_t{4} << 20;

/// A tensor of both sides and the rows that both have.
struct Pair {
  std::uint32_t a = 0, b = 0;
  Box box;
};

std::string text_of(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(value));
  return text;
}

/// Hexadecimal, for dtypes without a value here.
std::string text_of(std::span<const std::byte> element) {
  std::string text = "0x";
  for (std::size_t i = element.size(); i-- > 0;) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", std::to_integer<unsigned>(element[i]));
    text += digits;
  }
  return text;
}

/// Tiles of one rank: every so many-th of all.
class Turns {
 public:
  explicit Turns(const Comm& comm) : size_(comm.size()), next_((size_ - comm.rank()) % size_) {}
  bool mine() { return next_++ % size_ == 0; }

 private:
  int size_, next_;
};

/// One side of a tile: its bytes as stored, and as fp32 canonical values when they are asked for.
class Side {
 public:
  explicit Side(const formats::Source& source) : source_(source), reader_(source) {}

  std::span<const std::byte> read(std::uint32_t tensor, const Box& box) {
    const std::span<std::byte> to = raw_.take(box.elements() * bytes(source_.dtypes[tensor]));
    reader_.read(tensor, box, to);
    return to;
  }
  std::span<const std::byte> read(const SourcePiece& piece, const Box& box) {
    const std::span<std::byte> to = raw_.take(box.elements() * bytes(piece.dtype));
    reader_.read_piece(piece, box, to);
    return to;
  }
  /// The values of the tile that was read last.
  std::span<const float> values(std::uint32_t tensor) {
    const Dtype dtype = source_.dtypes[tensor];
    const std::uint64_t count = raw_.bytes().size() / bytes(dtype);
    values_.resize(count);
    auto* to = reinterpret_cast<std::byte*>(values_.data());
    cast(to, Dtype::f32, raw_.bytes().data(), dtype, count);
    if (source_.adds[tensor] != 0) add_constant(to, Dtype::f32, count, -source_.adds[tensor]);
    return values_;
  }
  [[nodiscard]] const formats::Source& source() const { return source_; }

 private:
  const formats::Source& source_;
  formats::CanonicalReader reader_;
  Buffer raw_;
  std::vector<float> values_;
};

/// What a rank found in its tiles of one pair.
struct Found {
  std::uint64_t differing = 0, first = ~std::uint64_t{0};
  std::string a, b;
  double largest = 0;

  template <class Value>
  void add(std::uint64_t index, Value value_a, Value value_b) {
    if (index >= first) return;
    first = index;
    a = text_of(value_a);
    b = text_of(value_b);
  }
};

/// Row-major index, in a tensor of that shape, of element `n` of a box.
std::uint64_t index_in(const Shape& shape, const Box& box, std::uint64_t n) {
  std::uint64_t index = 0, stride = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    index += (box.offset[d] + n % box.extent[d]) * stride;
    n /= box.extent[d];
    stride *= shape[d];
  }
  return index;
}

class TileComparison {
 public:
  TileComparison(Side& a, Side& b, std::optional<double> tolerance)
      : a_(a), b_(b), tolerance_(tolerance) {}

  void compare(const Pair& pair, const Box& box, Found& found) {
    const Dtype dtype_a = a_.source().dtypes[pair.a], dtype_b = b_.source().dtypes[pair.b];
    const auto bytes_a = a_.read(pair.a, box), bytes_b = b_.read(pair.b, box);
    const bool same_kind =
        dtype_a == dtype_b && a_.source().adds[pair.a] == b_.source().adds[pair.b];
    const Shape& shape = a_.source().model[pair.a].shape;
    if (same_kind && std::equal(bytes_a.begin(), bytes_a.end(), bytes_b.begin())) return;
    if (is_castable(dtype_a) && is_castable(dtype_b)) {
      const auto values_a = a_.values(pair.a), values_b = b_.values(pair.b);
      const std::uint64_t width = same_kind && !tolerance_ ? bytes(dtype_a) : 0;
      for (std::uint64_t n = 0; n < values_a.size(); ++n) {
        const float x = values_a[n], y = values_b[n];
        const bool equal = width != 0 ? std::memcmp(bytes_a.data() + n * width,
                                                    bytes_b.data() + n * width, width) == 0
                                      : is_close(x, y);
        if (equal) continue;
        ++found.differing;
        found.largest = std::max(found.largest, distance(x, y));
        found.add(index_in(shape, box, n), x, y);
      }
    } else if (dtype_a == dtype_b) {
      const std::uint64_t width = bytes(dtype_a);
      for (std::uint64_t n = 0; n < box.elements(); ++n) {
        const auto x = bytes_a.subspan(n * width, width), y = bytes_b.subspan(n * width, width);
        if (std::equal(x.begin(), x.end(), y.begin())) continue;
        ++found.differing;
        found.add(index_in(shape, box, n), x, y);
      }
    }
  }

 private:
  [[nodiscard]] bool is_close(float x, float y) const {
    if (x == y || (std::isnan(x) && std::isnan(y))) return true;
    return tolerance_ && std::abs(static_cast<double>(x) - static_cast<double>(y)) <= *tolerance_;
  }
  static double distance(float x, float y) {
    if (std::isnan(x) != std::isnan(y)) return std::numeric_limits<double>::infinity();
    if (x == y || std::isnan(x)) return 0;
    return std::abs(static_cast<double>(x) - static_cast<double>(y));
  }
  Side& a_;
  Side& b_;
  std::optional<double> tolerance_;
};

std::string row_text(const CanonicalTensor& tensor, std::uint64_t rows, const char* side) {
  return tensor.role + ": " + std::to_string(rows) + " rows only in " + side;
}

/// What both sides have, and in the report what only one has.
std::vector<Pair> pair_up(const formats::Source& a, const formats::Source& b,
                          CompareReport& report) {
  std::vector<Pair> pairs;
  for (std::uint32_t i = 0; i < a.model.tensors().size(); ++i) {
    const CanonicalTensor& tensor = a.model[i];
    if (is_padding(tensor.role)) {
      report.padding.push_back(row_text(tensor, tensor.shape[0], "A"));
      continue;
    }
    const std::uint32_t j = b.model.find(tensor.role);
    if (j == CanonicalModel::none) {
      report.only_a.push_back(tensor.role);
      continue;
    }
    const CanonicalTensor& other = b.model[j];
    if (a.dtypes[i] != b.dtypes[j]) {
      report.dtypes.push_back(tensor.role + ": " + std::string(name(a.dtypes[i])) + " in A, " +
                              std::string(name(b.dtypes[j])) + " in B");
    }
    Shape common = other.shape;
    const bool vocabulary = !common.empty() && tensor.factors.front() == "vocab" &&
                            !tensor.shape.empty() && common[0] != tensor.shape[0];
    if (vocabulary) common[0] = tensor.shape[0];
    if (common != tensor.shape || tensor.factors != other.factors) {
      report.shapes.push_back(tensor.role + ": shape " + to_string(tensor.shape) + " in A, " +
                              to_string(other.shape) + " in B");
      continue;
    }
    Pair pair{i, j, formats::whole(tensor)};
    if (vocabulary) {
      const std::uint64_t rows = std::min(tensor.shape[0], other.shape[0]);
      pair.box.extent[0] = rows;
      const std::uint64_t more = std::max(tensor.shape[0], other.shape[0]) - rows;
      report.padding.push_back(row_text(tensor, more, rows < tensor.shape[0] ? "A" : "B"));
    }
    report.elements += pair.box.elements();
    pairs.push_back(pair);
  }
  for (const CanonicalTensor& tensor : b.model.tensors()) {
    if (is_padding(tensor.role)) {
      report.padding.push_back(row_text(tensor, tensor.shape[0], "B"));
    } else if (a.model.find(tensor.role) == CanonicalModel::none) {
      report.only_b.push_back(tensor.role);
    }
  }
  report.tensors = pairs.size();
  return pairs;
}

Shape index_of(const Shape& shape, std::uint64_t index) {
  Shape found(shape.size(), 0);
  for (std::size_t d = shape.size(); d-- > 0; index /= shape[d]) found[d] = index % shape[d];
  return found;
}

/// Collective. Adds up what the ranks found, pair by pair.
std::map<std::size_t, Found> gather(const Comm& comm, const std::map<std::size_t, Found>& mine) {
  Json list = Json::array();
  for (const auto& [pair, f] : mine) {
    const bool endless = std::isinf(f.largest);
    list.push_back({pair, f.differing, f.first, f.a, f.b, endless ? -1.0 : f.largest});
  }
  std::map<std::size_t, Found> all;
  for (const std::string& text : gather_all(comm, list.dump())) {
    for (const Json& item : Json::parse(text)) {
      Found& found = all[item[0].get<std::size_t>()];
      found.differing += item[1].get<std::uint64_t>();
      const auto largest = item[5].get<double>();
      found.largest =
          largest < 0 ? std::numeric_limits<double>::infinity() : std::max(found.largest, largest);
      if (item[2].get<std::uint64_t>() >= found.first) continue;
      found.first = item[2].get<std::uint64_t>();
      found.a = item[3].get<std::string>();
      found.b = item[4].get<std::string>();
    }
  }
  return all;
}

/// Collective. Compares the values of all pairs.
void compare_values(const Comm& comm, const std::vector<Pair>& pairs, Side& a, Side& b,
                    std::optional<double> tolerance, CompareReport& report) {
  std::map<std::size_t, Found> mine;
  agree(comm, "compare", [&] {
    TileComparison comparison(a, b, tolerance);
    Turns turns(comm);
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const std::uint64_t width =
          std::max(bytes(a.source().dtypes[pairs[i].a]), bytes(b.source().dtypes[pairs[i].b]));
      for (const Box& box : formats::cut_box(pairs[i].box, tile_bytes / width)) {
        if (!turns.mine()) continue;
        Found found;
        comparison.compare(pairs[i], box, found);
        if (found.differing == 0) continue;
        Found& all = mine[i];
        all.differing += found.differing;
        all.largest = std::max(all.largest, found.largest);
        if (found.first < all.first)
          std::tie(all.first, all.a, all.b) = std::tie(found.first, found.a, found.b);
      }
    }
  });
  for (auto& [i, found] : gather(comm, mine)) {
    const CanonicalTensor& tensor = a.source().model[pairs[i].a];
    report.values.push_back({tensor.role, pairs[i].box.elements(), found.differing,
                             index_of(tensor.shape, found.first), found.a, found.b, found.largest});
  }
}

/// Collective. An opened side without problems.
formats::Source open_side(const Comm& comm, const char* side, const formats::SourceOptions& options,
                          CompareReport::Side& summary) {
  formats::Problems problems;
  formats::Source source = open_source(comm, options, problems);
  agree(comm, side, [&] {
    problems.raise();
    find_replicas(source.pieces);
  });
  summary = {source.found.unit,  source.found.dialect, source.model_type,
             source.parallelism, source.warnings,      0};
  return source;
}

}  // namespace

std::vector<std::string> differing_replicas(const Comm& comm, const formats::Source& source,
                                            std::uint64_t& held) {
  std::vector<std::uint64_t> differs(source.pieces.size(), 0);
  agree(comm, "compare replicas", [&] {
    Side copy(source), original(source);
    Turns turns(comm);
    for (std::size_t i = 0; i < source.pieces.size(); ++i) {
      const SourcePiece& piece = source.pieces[i];
      if (piece.replica_of == SourcePiece::no_replica ||
          is_padding(source.model[piece.placement.tensor].role)) {
        continue;
      }
      ++held;
      for (const Box& box :
           formats::cut_box(piece.placement.box, tile_bytes / bytes(piece.dtype))) {
        if (!turns.mine()) continue;
        const auto x = copy.read(piece, box);
        const auto y = original.read(source.pieces[piece.replica_of], box);
        if (!std::equal(x.begin(), x.end(), y.begin(), y.end())) differs[i] = 1;
      }
    }
  });
  sum(comm, differs);
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < differs.size(); ++i) {
    if (differs[i] == 0) continue;
    const SourcePiece& piece = source.pieces[i];
    const SourcePiece& first = source.pieces[piece.replica_of];
    lines.push_back(source.model[piece.placement.tensor].role + ": " + piece.name + " in " +
                    source.files[piece.file].path + " differs from " + first.name + " in " +
                    source.files[first.file].path);
  }
  return lines;
}

CompareReport compare(const Comm& comm, const formats::SourceOptions& a,
                      const formats::SourceOptions& b, std::optional<double> tolerance) {
  CompareReport report;
  report.dtypes_count = !tolerance;
  const formats::Source source_a = open_side(comm, "A", a, report.a);
  const formats::Source source_b = open_side(comm, "B", b, report.b);
  report.hyperparameters = families::differing_lines(source_a.record, source_b.record);
  const std::vector<Pair> pairs = pair_up(source_a, source_b, report);
  Side side_a(source_a), side_b(source_b);
  compare_values(comm, pairs, side_a, side_b, tolerance, report);
  for (const auto& [name, source, side] :
       {std::tuple("A: ", &source_a, &report.a), std::tuple("B: ", &source_b, &report.b)}) {
    for (const std::string& line : differing_replicas(comm, *source, side->replicas)) {
      report.replicas.push_back(name + line);
    }
  }
  return report;
}

}  // namespace reshard::mpi
