#include "mpi/filtered_files.hpp"

namespace reshard::mpi {

FilteredFile::FilteredFile(const formats::FileIndex& index) : bytes(index.bytes) {
  for (const formats::TensorEntry& entry : index.tensors) entries_.emplace(entry.name, entry);
}

const formats::TensorEntry& FilteredFile::entry(const TargetTensor& tensor) const {
  const StoredTensor& stored = tensor.stored;
  const auto at = entries_.find(stored.name);
  const bool is_there =
      at != entries_.end() && at->second.dtype == stored.dtype && at->second.shape == stored.shape;
  if (!is_there) {
    throw Error(Kind::verification, stored.name + " is not in the file as it was written");
  }
  return at->second;
}

std::vector<ByteRange> FilteredFile::ranges_of(const TargetTensor& tensor) const {
  const formats::TensorEntry& found = entry(tensor);
  if (!found.chunks) return {{found.offset, found.offset + tensor.bytes}};
  std::vector<ByteRange> ranges;
  for (const Chunking::Place& place : found.chunks->places) {
    ranges.push_back({place.offset, place.offset + place.bytes});
  }
  return ranges;
}

FilteredFiles index_filtered(const Comm& comm, const formats::Target& target,
                             const formats::TargetWriter& writer, const Sums& sums) {
  FilteredFiles files;
  for (std::uint32_t f = 0; f < target.files.size(); ++f) {
    if (!target.files[f].is_filtered()) continue;
    std::string text;
    agree(comm, "seal", [&] {
      if (comm.rank() != 0) return;
      const std::vector<std::uint8_t> packed =
          Json::to_cbor(to_json(writer.check_filtered(f, sums)));
      text.assign(packed.begin(), packed.end());
    });
    text = broadcast(comm, text, 0);
    agree(comm, "seal",
          [&] { files.emplace(f, FilteredFile(formats::index_from_json(Json::from_cbor(text)))); });
  }
  return files;
}

}  // namespace reshard::mpi
