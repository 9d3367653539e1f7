#include "formats/journal.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>
#include <stdexcept>

#include "core/checked_json.hpp"
#include "core/error.hpp"
#include "formats/container/crc32.hpp"

namespace reshard::formats {
namespace {

constexpr std::size_t header_bytes = 12;
constexpr std::uint64_t largest_record = std::uint64_t{64} << 20;

Json sparse(const std::vector<Digest>& digests) {
  Json json = Json::array();
  for (std::size_t i = 0; i < digests.size(); ++i) {
    if (digests[i] == Digest{}) continue;
    json.insert(json.end(), {i, digests[i].low, digests[i].high});
  }
  return json;
}

Json sparse(const std::vector<std::uint32_t>& crcs) {
  Json json = Json::array();
  for (std::size_t i = 0; i < crcs.size(); ++i) {
    if (crcs[i] != 0) json.insert(json.end(), {i, crcs[i]});
  }
  return json;
}

/// The numbers of a list, so many to an item.
std::vector<std::uint64_t> numbers_of(const Json& list, std::size_t to_an_item) {
  std::vector<std::uint64_t> numbers;
  for (const Json& number : list) {
    if (!number.is_number_unsigned()) throw std::out_of_range("value " + number.dump());
    numbers.push_back(number.get<std::uint64_t>());
  }
  if (numbers.size() % to_an_item != 0) throw std::out_of_range("a list that is cut off");
  return numbers;
}

void add(const Json& json, std::vector<Digest>& digests) {
  const std::vector<std::uint64_t> numbers = numbers_of(json, 3);
  for (std::size_t i = 0; i < numbers.size(); i += 3) {
    digests.at(numbers[i]) += {numbers[i + 1], numbers[i + 2]};
  }
}

void add(const Json& json, std::vector<std::uint32_t>& crcs) {
  const std::vector<std::uint64_t> numbers = numbers_of(json, 2);
  for (std::size_t i = 0; i < numbers.size(); i += 2) {
    if (numbers[i + 1] > UINT32_MAX) throw std::out_of_range("a checksum");
    crcs.at(numbers[i]) ^= static_cast<std::uint32_t>(numbers[i + 1]);
  }
}

/// Adds one record to what is known; numbers beyond the geometry throw std::out_of_range.
void add(const std::vector<std::byte>& payload, std::uint64_t tiles, Moved& moved) {
  const Json json = json_of_cbor(payload, {4, largest_record});
  for (const std::uint64_t tile : numbers_of(json.at("tiles"), 1)) {
    if (tile >= tiles) throw std::out_of_range("tile " + std::to_string(tile));
    moved.tiles.push_back(tile);
  }
  add(json.at("read"), moved.read);
  add(json.at("arrived"), moved.arrived);
  add(json.at("crcs"), moved.crcs);
}

/// The payloads of a file's whole records.
std::vector<std::vector<std::byte>> whole_records(const std::string& path) {
  const File file = File::open_read(path);
  const std::uint64_t end = file.size();
  std::vector<std::vector<std::byte>> records;
  for (std::uint64_t at = 0; end - at >= header_bytes;) {
    std::array<std::byte, header_bytes> header{};
    file.read_at(at, header);
    std::uint64_t size = 0;
    std::uint32_t crc = 0;
    std::memcpy(&size, header.data(), sizeof size);
    std::memcpy(&crc, header.data() + sizeof size, sizeof crc);
    at += header_bytes;
    if (size > end - at || size > largest_record) break;
    std::vector<std::byte> payload(size);
    file.read_at(at, payload);
    if (crc32_of(payload) != crc) break;
    records.push_back(std::move(payload));
    at += size;
  }
  return records;
}

/// The files of one run, by rank; as many as the run had ranks.
struct Run {
  std::uint64_t ranks = 0;
  std::map<std::uint64_t, std::string> files;
};

/// RUN, RANK and RANKS of a file's name; nothing of any other name.
std::optional<std::array<std::uint64_t, 3>> numbers_in(std::string_view name) {
  constexpr std::uint64_t most = INT32_MAX;
  std::array<std::uint64_t, 3> numbers{};
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (i > 0 && !name.starts_with('-')) return std::nullopt;
    name.remove_prefix(i > 0 ? 1 : 0);
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), numbers[i]);
    if (error != std::errc() || numbers[i] > most) return std::nullopt;
    name.remove_prefix(static_cast<std::size_t>(end - name.data()));
  }
  return name.empty() ? std::optional(numbers) : std::nullopt;
}

std::map<std::uint64_t, Run> runs_in(const std::string& folder) {
  std::map<std::uint64_t, Run> runs;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::optional<std::array<std::uint64_t, 3>> name =
        numbers_in(entry.path().filename().string());
    if (!name) continue;
    const auto [run, rank, ranks] = *name;
    runs[run].ranks = ranks;
    runs[run].files[rank] = entry.path().string();
  }
  return runs;
}

}  // namespace

JournalWriter::JournalWriter(std::string folder, std::uint64_t run, int rank, int ranks)
    : path_(std::move(folder) + "/" + std::to_string(run) + "-" + std::to_string(rank) + "-" +
            std::to_string(ranks)) {}

void JournalWriter::append(const Moved& moved) {
  const std::vector<std::uint8_t> payload = Json::to_cbor({{"tiles", moved.tiles},
                                                           {"read", sparse(moved.read)},
                                                           {"arrived", sparse(moved.arrived)},
                                                           {"crcs", sparse(moved.crcs)}});
  const std::uint64_t size = payload.size();
  const std::uint32_t crc = crc32_of(std::as_bytes(std::span(payload)));
  std::vector<std::byte> record(header_bytes + size);
  std::memcpy(record.data(), &size, sizeof size);
  std::memcpy(record.data() + sizeof size, &crc, sizeof crc);
  std::memcpy(record.data() + header_bytes, payload.data(), size);
  const bool is_first = !file_;
  if (is_first) file_ = File::create(path_);
  file_->write_at(end_, record);
  file_->sync();
  if (is_first) sync_folder(std::filesystem::path(path_).parent_path().string());
  end_ += record.size();
}

Journal read_journal(const std::string& folder, const Geometry& geometry) {
  Journal journal{Moved(geometry), 0};
  const std::uint64_t tiles = TileNumbers(geometry).size();
  for (const auto& [number, run] : runs_in(folder)) {
    journal.runs = number + 1;
    if (run.files.size() != run.ranks) continue;
    std::vector<std::vector<std::vector<std::byte>>> records;
    std::size_t whole = ~std::size_t{0};
    for (const auto& [rank, path] : run.files) {
      records.push_back(whole_records(path));
      whole = std::min(whole, records.back().size());
    }
    for (std::size_t rank = 0; rank < records.size(); ++rank) {
      for (std::size_t n = 0; n < whole; ++n) {
        try {
          add(records[rank][n], tiles, journal.moved);
        } catch (const std::exception& error) {
          throw Error(Kind::input, folder + ": record " + std::to_string(n) + " of run " +
                                       std::to_string(number) +
                                       " is none of this conversion: " + error.what());
        }
      }
    }
  }
  std::vector<std::uint64_t>& all = journal.moved.tiles;
  std::sort(all.begin(), all.end());
  const auto twice = std::adjacent_find(all.begin(), all.end());
  if (twice != all.end()) {
    throw Error(Kind::input, folder + ": tile " + std::to_string(*twice) + " was written twice");
  }
  return journal;
}

}  // namespace reshard::formats
