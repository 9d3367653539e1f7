#include "formats/dialect/options.hpp"

#include "core/error.hpp"

namespace reshard::formats {

void check_options(const SourceOptions& source, const TargetOptions& o, std::string_view from) {
  if (source.average_replicas && from != "megatron-deepspeed") {
    throw Error(Kind::usage,
                "--replicas average: only megatron-deepspeed lets replicas drift, SRC "
                "is " +
                    std::string(from));
  }
  struct Row {
    const char* name;
    bool given;
    std::string_view dialects;  ///< that can follow it
    const char* instead = "";   ///< what the others have
  };
  constexpr std::string_view mega = "megatron", megads = "megatron-deepspeed", merak = "merak";
  constexpr std::string_view layered = "megatron, megatron-deepspeed, merak";
  const Row rows[] = {
      {"--tp", o.tp.has_value(), layered},
      {"--pp", o.pp.has_value(), layered},
      {"--vpp", o.vpp.has_value(), mega},
      {"--ep", o.ep.has_value(), mega},
      {"--etp", o.etp.has_value(), mega},
      {"--stage-layers", !o.stage_layers.empty(), mega, "; stages of merak: --custom-partition"},
      {"--vocab-multiple", o.vocab_multiple.has_value(), layered},
      {"--vocab-fill", o.vocab_fill.has_value(), layered},
      {"--transformer-impl", !o.transformer_impl.empty(), mega},
      {"--megatron-names", !o.megatron_names.empty(), mega},
      {"--iteration", o.iteration.has_value(), layered},
      {"--max-shard-size", o.max_shard_bytes.has_value(), "hf, hf-bin"},
      {"--mds-qkv-layout", !o.mds_qkv_layout.empty() && from != megads, megads},
      {"--lineage", !o.lineage.empty(), megads},
      {"--no-pipeline-files", o.no_pipeline_files, megads},
      {"--merak-era", !o.merak_era.empty(), merak},
      {"--vocab-parallel", !o.vocab_parallel.empty(), merak},
      {"--partition-method", !o.partition_method.empty(), merak},
      {"--custom-partition", !o.custom_partition.empty(), merak},
      {"--merak-buffers", !o.merak_buffers.empty(), merak},
      {"--merak-tied-keys", !o.merak_tied_keys.empty(), merak},
      {"--hdf5-names", !o.hdf5_names.empty(), "hdf5"},
      {"--hdf5-filter", !o.hdf5_filter.empty(), "hdf5"}};
  for (const Row& row : rows) {
    const std::string list = ", " + std::string(row.dialects) + ",";
    if (!row.given || list.find(", " + o.to + ",") != std::string::npos) continue;
    throw Error(Kind::usage, std::string(row.name) + ": --to " + o.to +
                                 " has no such thing, only: " + std::string(row.dialects) +
                                 row.instead);
  }
}

}  // namespace reshard::formats
