#include "mpi/staged_target.hpp"

#include <algorithm>

#include "core/json.hpp"

namespace reshard::mpi {

formats::Staging agree_on_staging(const Comm& comm, const std::string& target_path,
                                  const formats::Target& target, const std::string& source_unit,
                                  bool overwrite) {
  std::string text;
  agree(comm, "describe", [&] {
    if (comm.rank() != 0) return;
    const formats::Staging staging =
        formats::plan_staging(target_path, target, source_unit, overwrite);
    text = Json({staging.folder, staging.unit, staging.root, staging.makes_parent}).dump();
  });
  const Json shared = Json::parse(broadcast(comm, text, 0));
  return {shared[0].get<std::string>(), shared[1].get<std::string>(), shared[2].get<std::string>(),
          shared[3].get<bool>()};
}

StagedTarget::StagedTarget(const Comm& comm, const formats::Staging& staging,
                           const Geometry& geometry, const formats::Target& target,
                           const std::vector<formats::FileLayout>& layouts, bool overwrite,
                           std::uint64_t space, std::uint64_t threads)
    : comm_(comm),
      staging_(staging),
      geometry_(geometry),
      target_(target),
      overwrite_(overwrite),
      cleaner_(comm, staging),
      writer_(staging.folder, geometry, target, layouts, threads) {
  agree(comm, "create", [&] {
    if (comm.rank() == 0) formats::create_staging(staging, space);
  });
  agree(comm, "create", [&] {
    const auto ranks = static_cast<std::uint32_t>(comm.size());
    for (auto f = static_cast<std::uint32_t>(comm.rank()); f < target.files.size(); f += ranks) {
      writer_.create(f);
    }
  });
}

void StagedTarget::seal(std::uint64_t first, std::uint64_t last,
                        std::span<const std::uint32_t> crcs) {
  agree(comm_, "seal", [&] {
    const TileNumbers numbers(geometry_);
    for (std::uint32_t file = 0; file < numbers.files(); ++file) {
      const std::uint64_t begin = std::max(first, numbers.first(file));
      const std::uint64_t end = std::min(last, numbers.first(file + 1));
      if (begin >= end) continue;
      writer_.write_trailer(file, static_cast<std::uint32_t>(begin - numbers.first(file)),
                            static_cast<std::uint32_t>(end - numbers.first(file)), crcs);
    }
    writer_.finish();
  });
}

std::string StagedTarget::publish() {
  std::string note;
  agree(comm_, "publish", [&] {
    if (comm_.rank() == 0) note = formats::publish(staging_, target_, overwrite_);
  });
  return broadcast(comm_, note, 0);
}

}  // namespace reshard::mpi
