#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "formats/dialect/dialect.hpp"
#include "formats/dialect/rows.hpp"
#include "formats/file.hpp"

namespace reshard::formats {

/// Megatron-LM's `torch` format (megatron.md sections 1 to 4, 7):
///
///     latest_checkpointed_iteration.txt         "1000" or "release"
///     iter_0001000/mp_rank_TT[_PPP][_EEE]/model_optim_rng.pt
///         {args, checkpoint_version, iteration, model | model0, model1, ...}
///
/// Read with mcore names (local and Transformer Engine spellings) and the legacy names before them,
/// checkpoint_version 0 to 3; written with version 3.0. The folder hf_config/ in the unit is ours:
/// config.json and tokenizer files of a Hugging Face source, for the way back.
class Megatron final : public Dialect {
 public:
  [[nodiscard]] std::string_view name() const override { return "megatron"; }
  [[nodiscard]] std::optional<Found> detect(const SourceOptions& options) const override;
  [[nodiscard]] FileIndex index(const Found& found, const std::string& file) const override;
  [[nodiscard]] Source open(const Found& found, const std::vector<FileIndex>& indices,
                            const SourceOptions& options, Problems& problems) const override;
  [[nodiscard]] Target describe(const Source& source, const TargetOptions& options,
                                Problems& problems) const override;
};

/// Name of the folder with the Hugging Face files inside a Megatron unit.
inline constexpr std::string_view hf_config_folder = "hf_config";

/// The rows of a Megatron table, held against a model and its degrees.
struct MegatronRows {
  families::DialectTable table;
  Rows rows;

  /// `choices` of the table; padded_vocab is the stored number of vocabulary rows;
  /// repeat_last: see Rows.
  MegatronRows(std::string_view table_name, const families::Record& record, const Json& choices,
               const Parallelism& parallelism, std::uint64_t padded_vocab,
               const CanonicalModel& model, bool repeat_last = false);
};

/// What shards have used of a table and of a model.
struct TableUse {
  std::vector<bool> covered;     ///< canonical tensors that have a place
  std::set<std::string> unseen;  ///< names of rows that no file of the framework has shown us yet

  /// One warning about the rows that are known from the framework's code alone; "" if there are
  /// none.
  [[nodiscard]] std::string warning() const;
};

/// Gives a tensor the constant that the table adds, and notes the canonical tensors that it holds.
void note_use(const MegatronRows& rows, StoredTensor& tensor, TableUse& use);

/// What the file of one rank stores, under "model." or "model0.", "model1.", ...; `use`
/// is added to.
Shard megatron_shard(const MegatronRows& rows, const Parallelism& parallelism, const FileRank& rank,
                     TableUse& use);

/// Whether a folder is a unit of one format.
using HoldsUnit = std::function<bool(const std::string& folder)>;
/// The unit of Megatron that a path means: itself, or below it by the tracker or --from-iteration;
/// it may lack what `holds` wants when the tracker names it. Error(incomplete) for units without
/// tracker, Error(usage) for an iteration that the path is not.
std::optional<std::string> megatron_unit(const SourceOptions& options, const HoldsUnit& holds);
/// config.json (or --config) and the tokenizer files that lie in hf_config, as facts.
void find_kept_files(const SourceOptions& options, Found& found);
/// What the top of a file tells of the run: its keys, small values, and `args` as a plain object.
Json run_facts(const Json& top, const std::string& name);

/// What args tell of the run that wrote a source.
struct SourceRun {
  families::MegatronArguments arguments;
  std::uint64_t padded_vocab = 0;  ///< rows of vocabulary that the files hold
  std::uint64_t world = 1;
};
/// make_vocab_size_divisible_by of args; Megatron's default where they tell no such number.
std::uint64_t vocabulary_multiple(const Json& args);

/// Reads the args of a file, `facts` as of run_facts; sets what the source has of found, and its
/// args and degrees. Arguments in no table become warnings or, by --strict-args, problems.
SourceRun read_run(const Found& found, const Json& facts, const std::string& where,
                   const SourceOptions& options, Source& source, Problems& problems);
/// Sets the source's family, record, choices and training state.
void settle_run(const SourceOptions& options, SourceRun& run, Source& source);

/// Files of one run say the same arguments, iteration and version; the folder's name too.
void check_same_run(const families::ArgumentTable& table, const Found& found,
                    const std::vector<FileIndex>& indices, Problems& problems);

/// The iteration in a file is that of the folder's name.
void check_iteration(const Found& found, const Json& iteration, const std::string& where,
                     Problems& problems);

/// A file's args say which rank wrote it: that must be the rank of its name, `ranks` by path.
void check_writers(const Parallelism& parallelism, std::uint64_t world,
                   const std::vector<FileIndex>& indices,
                   const std::map<std::string, FileRank>& ranks, Source& source,
                   Problems& problems);

/// Error(input) when the dict at the top of a file has more keys, of no tensors, than any run
/// saves.
void check_keys(const Json& top, const std::string& name);

/// A checksum of what lies in a few places of a file: enough to tell two ranks' files apart.
std::uint32_t content_of(const File& file);

/// The parallel linear layer whose weight a tensor is, "" for others: these ask for `_extra_state`
/// beside it when they load strictly (megatron.md sections 2.9, 7.1).
std::string_view linear_layer(std::string_view name);

/// A text that is one number and nothing else.
std::optional<std::uint64_t> whole_number(std::string_view text);
/// The number of a rank or a layer in a file's name; none has a million.
std::optional<std::uint64_t> rank_number(std::string_view text);

/// "iter_0001000" (megatron.md section 1.1).
std::string iteration_folder(std::uint64_t iteration);

/// "mp_rank_01_003/model_optim_rng.pt" (megatron.md section 1.1).
std::string megatron_path(const Parallelism& parallelism, const FileRank& rank);

}  // namespace reshard::formats
