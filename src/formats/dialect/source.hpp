#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "core/geometry.hpp"
#include "core/json.hpp"
#include "families/arguments.hpp"
#include "families/family.hpp"
#include "formats/container/file_index.hpp"
#include "formats/dialect/options.hpp"
#include "formats/dialect/stages.hpp"

namespace reshard::formats {

/// Everything that headers can refuse, collected so that the user sees it at once.
class Problems {
 public:
  /// Once each.
  void add(std::string text);
  /// Runs work; its Error(input) becomes a problem.
  template <class Work>
  void collect(Work&& work) {
    try {
      work();
    } catch (const Error& error) {
      if (error.kind() != Kind::input) throw;
      add(error.what());
    }
  }
  [[nodiscard]] bool empty() const { return texts_.empty(); }
  [[nodiscard]] const std::vector<std::string>& texts() const { return texts_; }
  /// Error(input) with the first 20, if there are any.
  void raise() const;

 private:
  std::vector<std::string> texts_;
  std::set<std::string> known_;
};

/// A small file that travels along unchanged: tokenizer, generation config, model code.
struct Companion {
  std::string name, path;
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;  ///< in the file at `path`, of one that lies in it
};
/// The companions in a folder of Hugging Face files, by name; Error(input) when one of their names
/// is that of something else than a file.
std::vector<Companion> companions_in(const std::string& folder);
Json to_json(const std::vector<Companion>& companions);
std::vector<Companion> companions_from_json(const Json& json);

/// A checkpoint as detection finds it, before any tensor file is opened.
struct Found {
  std::string dialect;
  std::string unit;                ///< folder of the files below
  std::vector<std::string> files;  ///< files with tensors, relative to it
  Json facts;                      ///< content of small files: config, tracker, weight map, ...
  std::vector<SourceFile> optimizer = {};  ///< files of the optimizer alone; never opened
};
Json to_json(const Found& found);
Found found_from_json(const Json& json);

/// A source, opened: its model, where every canonical element lies, and all else that travels.
struct Source {
  Found found;
  families::Family family;
  families::Record record;         ///< all lines, of the tensors that the source has
  families::Record config_record;  ///< what the family's config.json says (CompleteRecord::config)
  std::string model_type;
  CanonicalModel model;       ///< with vocabulary padding where the files have it
  std::vector<Dtype> dtypes;  ///< of each canonical tensor, as stored
  std::vector<double> adds;   ///< of each: stored value = canonical value + add
  Parallelism parallelism;
  Json choices = Json::object();        ///< of the dialect's table
  Json args;                            ///< the framework's arguments, null if it has none
  Json function_args = Json::object();  ///< those of them that change the function, plain
  Json config;                          ///< config.json beside the weights, null if there is none
  Json training = Json::object();       ///< iteration, consumed samples, ...
  std::vector<SourceFile> files;
  std::vector<SourcePiece> pieces;
  std::map<std::string, FileRank> ranks;  ///< who wrote a file; empty without parallelism
  std::vector<Companion> companions;      ///< tokenizer, generation config, ...
  std::vector<std::string> warnings;      ///< doubts that the report repeats
  std::vector<std::string> notes;         ///< what was taken, and the flag that takes another
  std::vector<std::string> dropped;       ///< content that is not carried
};

/// Adds what a file holds of the model in one of its tensors to the source; `add` is between
/// canonical and stored values. A tensor in chunks becomes a file of its own.
void add_pieces(std::span<const Placement> placements, double add, const TensorEntry& entry,
                std::uint32_t file, Source& source);

/// What a description lacks of what is there, and the other way round.
void add_unmatched(const std::string& where, const std::vector<std::string>& missing,
                   const std::vector<std::string>& unexpected, Problems& problems);

/// Holds the description of one file against its header and adds its pieces to the source.
/// `spell` maps a name in the file to the description's; `ignored` tells names without weights.
void match_shard(const Shard& described, const FileIndex& index,
                 const std::function<std::string(const std::string&)>& spell,
                 const std::function<bool(std::string_view)>& ignored, Source& source,
                 Problems& problems);

/// One line for each pattern of names without weights that files hold; `fits(pattern, name)`.
std::vector<std::string> dropped_buffers(
    const std::vector<std::string>& patterns, const std::vector<FileIndex>& indices,
    const std::function<bool(const std::string&, const std::string&)>& fits);

/// Leaves out the members of args, or of what lies beside them under a name, that have a tensor in
/// them: no argument that the tables know does, and the targets have no place for its data.
void drop_tensors(Json& args, const std::string& name, std::vector<std::string>& dropped);

/// The same for members that have an object in them of a class that is not known to be a plain
/// value. When all has been read that is to be known: targets are free of them then.
void drop_runnable(Json& args, const std::string& name, std::vector<std::string>& dropped);

/// After all shards: sets `dtypes` and `adds`; every stored copy of a tensor must have one dtype,
/// of floating point numbers.
void settle_dtypes(Source& source, Problems& problems);

/// Adds the family's canonical tensors to the model.
CanonicalModel canonical_model(const families::Family& family, const families::Record& record);

/// Iteration of the source's training state, 0 if none is told.
std::uint64_t iteration_of(const Source& source);

/// Sets to 0 what counts a run's progress among the arguments of a release; returns which, old ->
/// new, the iteration too.
std::string reset_counters(const Source& source, Json& args);

}  // namespace reshard::formats
