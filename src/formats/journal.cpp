#include "formats/journal.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>

#include "core/error.hpp"
#include "core/json.hpp"
#include "formats/container/crc32.hpp"

namespace reshard::formats {
namespace {

constexpr std::size_t header_bytes = 12;

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

void add(const Json& json, std::vector<Digest>& digests) {
  for (std::size_t i = 0; i + 2 < json.size(); i += 3) {
    digests.at(json[i].get<std::size_t>()) +=
        {json[i + 1].get<std::uint64_t>(), json[i + 2].get<std::uint64_t>()};
  }
}

void add(const Json& json, std::vector<std::uint32_t>& crcs) {
  for (std::size_t i = 0; i + 1 < json.size(); i += 2) {
    crcs.at(json[i].get<std::size_t>()) ^= json[i + 1].get<std::uint32_t>();
  }
}

/// Adds one record to what is known; numbers beyond the geometry throw std::out_of_range.
void add(const std::vector<std::byte>& payload, std::uint64_t tiles, Moved& moved) {
  const Json json = Json::from_cbor(payload);
  for (const Json& tile : json.at("tiles")) {
    if (tile.get<std::uint64_t>() >= tiles) throw std::out_of_range("tile " + tile.dump());
    moved.tiles.push_back(tile.get<std::uint64_t>());
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
    if (size > end - at) break;
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
  int ranks = 0;
  std::map<int, std::string> files;
};

std::map<std::uint64_t, Run> runs_in(const std::string& folder) {
  std::map<std::uint64_t, Run> runs;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    unsigned long long run = 0;
    int rank = 0, ranks = 0, end = 0;
    const std::string name = entry.path().filename().string();
    if (std::sscanf(name.c_str(), "%llu-%d-%d%n", &run, &rank, &ranks, &end) != 3) continue;
    if (static_cast<std::size_t>(end) != name.size()) continue;
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
    if (run.files.size() != static_cast<std::size_t>(run.ranks)) continue;
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
  std::sort(journal.moved.tiles.begin(), journal.moved.tiles.end());
  return journal;
}

}  // namespace reshard::formats
