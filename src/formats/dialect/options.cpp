#include "formats/dialect/options.hpp"

#include "core/error.hpp"

namespace reshard::formats {
namespace {

template <class Value>
Json given(const std::optional<Value>& value) {
  return value ? Json(*value) : Json();
}
Json given(const std::string& text) {
  return text.empty() ? Json() : Json(text);
}
template <class Value>
Json given(const std::vector<Value>& list) {
  return list.empty() ? Json() : Json(list);
}
Json given(bool flag) {
  return flag ? Json(true) : Json();
}

Json without_nulls(Json all) {
  Json told = Json::object();
  for (auto& [flag, value] : all.items()) {
    if (!value.is_null()) told[flag] = std::move(value);
  }
  return told;
}

}  // namespace

Json to_json(const SourceOptions& o) {
  return without_nulls({{"--family", given(o.family)},
                        {"--config", given(o.config)},
                        {"--ignore-config", given(o.ignore_config)},
                        {"--vocab-size", given(o.vocab_size)},
                        {"--tokenizer", given(o.tokenizer)},
                        {"--hf-template", given(o.hf_template)},
                        {"--mds-qkv-layout", given(o.mds_qkv_layout)},
                        {"--replicas", o.average_replicas ? Json("average") : Json()}});
}

Json to_json(const TargetOptions& o) {
  const Json dtype = o.dtype ? Json(name(*o.dtype)) : Json();
  const Json fill =
      o.vocab_fill ? Json(*o.vocab_fill == VocabFill::zero ? "zero" : "last") : Json();
  return without_nulls({{"--tp", given(o.tp)},
                        {"--pp", given(o.pp)},
                        {"--vpp", given(o.vpp)},
                        {"--ep", given(o.ep)},
                        {"--etp", given(o.etp)},
                        {"--stage-layers", given(o.stage_layers)},
                        {"--dtype", dtype},
                        {"--vocab-fill", fill},
                        {"--vocab-multiple", given(o.vocab_multiple)},
                        {"--max-shard-size", given(o.max_shard_bytes)},
                        {"--transformer-impl", given(o.transformer_impl)},
                        {"--megatron-names", given(o.megatron_names)},
                        {"--dist-files", given(o.dist_files)},
                        {"--iteration", given(o.iteration)},
                        {"--for-release", given(o.for_release)},
                        {"--mds-qkv-layout", given(o.mds_qkv_layout)},
                        {"--lineage", given(o.lineage)},
                        {"--no-pipeline-files", given(o.no_pipeline_files)},
                        {"--merak-era", given(o.merak_era)},
                        {"--vocab-parallel", given(o.vocab_parallel)},
                        {"--partition-method", given(o.partition_method)},
                        {"--custom-partition", given(o.custom_partition)},
                        {"--merak-buffers", given(o.merak_buffers)},
                        {"--merak-tied-keys", given(o.merak_tied_keys)},
                        {"--hdf5-names", given(o.hdf5_names)},
                        {"--hdf5-filter", given(o.hdf5_filter)},
                        {"--hdf5-chunk-size", given(o.hdf5_chunk_bytes)}});
}

void check_options(const SourceOptions& source, const TargetOptions& o, std::string_view from) {
  if (source.average_replicas && from != "megatron-deepspeed") {
    throw Error(Kind::usage,
                "--replicas average: only megatron-deepspeed lets replicas drift, SRC "
                "is " +
                    std::string(from));
  }
  struct Row {
    const char* flag;
    std::string_view dialects;  ///< that can follow it
    const char* instead = "";   ///< what the others have
  };
  constexpr std::string_view torch = "megatron", dist = "megatron-dist",
                             mega = "megatron, megatron-dist", megads = "megatron-deepspeed",
                             merak = "merak";
  constexpr std::string_view layered = "megatron, megatron-dist, megatron-deepspeed, merak";
  constexpr Row rows[] = {{"--tp", layered},
                          {"--pp", layered},
                          {"--vpp", mega},
                          {"--ep", mega},
                          {"--etp", mega},
                          {"--stage-layers", mega, "; stages of merak: --custom-partition"},
                          {"--vocab-multiple", layered},
                          {"--vocab-fill", layered},
                          {"--transformer-impl", mega},
                          {"--megatron-names", torch},
                          {"--dist-files", dist},
                          {"--iteration", layered},
                          {"--max-shard-size", "hf, hf-bin"},
                          {"--mds-qkv-layout", megads},
                          {"--lineage", megads},
                          {"--no-pipeline-files", megads},
                          {"--merak-era", merak},
                          {"--vocab-parallel", merak},
                          {"--partition-method", merak},
                          {"--custom-partition", merak},
                          {"--merak-buffers", merak},
                          {"--merak-tied-keys", merak},
                          {"--hdf5-names", "hdf5"},
                          {"--hdf5-filter", "hdf5"},
                          {"--hdf5-chunk-size", "hdf5"}};
  Json told = to_json(o);
  if (from == megads) told.erase("--mds-qkv-layout");  // then it tells of the source
  for (const Row& row : rows) {
    const std::string list = ", " + std::string(row.dialects) + ",";
    if (!told.contains(row.flag) || list.find(", " + o.to + ",") != std::string::npos) continue;
    throw Error(Kind::usage, std::string(row.flag) + ": --to " + o.to +
                                 " has no such thing, only: " + std::string(row.dialects) +
                                 row.instead);
  }
}

}  // namespace reshard::formats
