#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.hpp"
#include "core/json.hpp"

namespace reshard::formats {

/// What the user says of a source.
struct SourceOptions {
  std::string path;
  std::string from;                         ///< dialect's name; empty: found out
  std::optional<std::uint64_t> iteration;   ///< of several under one root; default: the tracker's
  std::string family;                       ///< name of a family or of a table, FILE.json
  std::string config;                       ///< a config.json to be used for or instead of one
  std::vector<std::string> ignore_config;   ///< config keys to be left unread
  bool strict_args = false;                 ///< arguments in no table are an error
  std::optional<std::uint64_t> vocab_size;  ///< true vocabulary, where the source does not tell
  std::string tokenizer;                    ///< folder whose tokenizer files travel instead
  std::string hf_template;                  ///< the same, with model code; its config.json counts
  std::string mds_qkv_layout;  ///< Megatron-DeepSpeed: "grouped", "blocked"; empty: grouped
  /// Tensors that tensor parallel ranks hold whole become their mean where they differ.
  bool average_replicas = false;
};

/// What elements hold that only the target has.
enum class VocabFill { zero, last };

/// What the user says of a target.
struct TargetOptions {
  std::string path;
  std::string to;  ///< dialect's name
  std::optional<std::uint64_t> tp, pp, vpp, ep, etp;
  std::vector<std::uint64_t> stage_layers;  ///< layers of each pipeline stage
  std::optional<Dtype> dtype;
  std::optional<VocabFill> vocab_fill;           ///< default: the framework's own way
  std::optional<std::uint64_t> vocab_multiple;   ///< make_vocab_size_divisible_by
  std::optional<std::uint64_t> max_shard_bytes;  ///< of Hugging Face files; default: 5 GB
  std::string transformer_impl;                  ///< "transformer_engine", "local"; empty: source's
  std::string megatron_names;                    ///< "mcore", "legacy"; empty: mcore
  std::optional<std::uint64_t> iteration;        ///< of the folder written; default: the source's
  bool for_release = false;                      ///< folder `release`, counters reset
  std::string mds_qkv_layout;  ///< of a source that has none: "grouped", "blocked"; empty: grouped
  std::string lineage;         ///< Megatron-DeepSpeed: "bigscience", "deepspeed"; empty: source's
  std::optional<std::uint64_t> dist_files;  ///< torch_dist: files of a rank; default: 1
  bool no_pipeline_files = false;           ///< Megatron-DeepSpeed: the model in mp_rank files
  std::string merak_era;  ///< "1", "1-flat", "2"; empty: the source's, else the default
  std::string merak_default_era = "2";
  std::string vocab_parallel;    ///< "yes", "no"; empty: the source's, yes in era 1
  std::string partition_method;  ///< "uniform", "uniform_floor", "custom"; empty: era's
  std::vector<std::uint64_t> custom_partition;  ///< borders of stages over Merak's modules
  std::string merak_buffers;    ///< "masks", "traced", "none"; empty: the source's, masks
  std::string merak_tied_keys;  ///< "yes", "no"; empty: the source's, no
  std::string hdf5_names;       ///< "hf", "canonical"; empty: hf
  std::string hdf5_filter;      ///< "deflate", ..., of datasets; empty, "none": contiguous
  std::optional<std::uint64_t> hdf5_chunk_bytes;  ///< of those with a filter; default: 1 MiB
};

/// What the user said, flag -> value, without paths of the checkpoint itself.
Json to_json(const SourceOptions& options);
Json to_json(const TargetOptions& options);

/// Error(usage) for an option that neither the target's dialect nor, where it tells of both sides,
/// the source's (`from`) can follow: it would be without effect.
void check_options(const SourceOptions& source, const TargetOptions& options,
                   std::string_view from);

}  // namespace reshard::formats
