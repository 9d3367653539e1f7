#include "formats/dialect/source.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <optional>

#include "core/error.hpp"
#include "families/pattern.hpp"
#include "formats/file.hpp"

namespace reshard::formats {
namespace {

/// Whether a name is that of a file, also when a folder has it.
bool is_file_name(const std::string& name) {
  constexpr std::array endings = {".json", ".txt", ".model", ".py", ".jinja"};
  return std::any_of(endings.begin(), endings.end(),
                     [&](const char* ending) { return name.ends_with(ending); });
}

/// Names of a list, the first few spelled out.
std::string first_few(const std::vector<std::string>& names) {
  constexpr std::size_t few = 3;
  std::string text;
  for (std::size_t i = 0; i < std::min(few, names.size()); ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  if (names.size() > few) text += " and " + std::to_string(names.size() - few) + " more";
  return text;
}

/// Whether a tensor or its storage is in a value, in the notation of pickle.hpp.
bool holds_tensor(const Json& value) {
  if (!value.is_structured()) return false;
  const Json tag = value.is_object() ? value.value("!", Json()) : Json();
  if (tag == "tensor" || tag == "storage") return true;
  return std::any_of(value.begin(), value.end(), holds_tensor);
}

/// Whether objects of a class are values, which nothing happens for when a pickle is loaded.
bool is_plain_class(const std::string& name) {
  constexpr std::array known = {
      "argparse.Namespace", "collections.OrderedDict", "signal.Signals",
      "builtins.set",       "builtins.frozenset",      "torch.device",
      "torch.Size",         "datetime.timedelta",      "datetime.datetime"};
  if (std::find(known.begin(), known.end(), name) != known.end()) return true;
  if (families::matches("pathlib.*Path", name)) return true;
  return families::matches("megatron.*enums.*", name) &&
         name.find('.', name.rfind("enums.") + 6) == std::string::npos;
}

/// The class or function in a value, in the notation of pickle.hpp, that no loader should be made
/// to run; "" if there is none.
std::string runnable_in(const Json& value) {
  if (!value.is_structured()) return "";
  const Json tag = value.is_object() ? value.value("!", Json()) : Json();
  if (tag == "object" || tag == "global") {
    const Json name = value.value(tag == "object" ? "class" : "name", Json());
    if (!name.is_string()) return "a class that is made";
    const auto text = name.get<std::string>();
    const bool is_named =
        tag == "global" && (families::matches("signal.SIG*", text) ||
                            (text.starts_with("torch.") && dtype_of_torch_name(text.substr(6))));
    if (!is_named && !is_plain_class(text)) return text;
  }
  for (const Json& each : value) {
    if (std::string found = runnable_in(each); !found.empty()) return found;
  }
  return "";
}

/// Leaves out the members in which `find` finds something, and tells what.
template <class Find>
void drop_members(Json& args, const std::string& name, std::vector<std::string>& dropped,
                  Find&& find) {
  if (!args.is_object()) return;
  for (auto member = args.begin(); member != args.end();) {
    const std::string found = find(member.value());
    if (found.empty()) {
      ++member;
      continue;
    }
    dropped.push_back(name + "." + member.key() + ", in which is " + found);
    member = args.erase(member);
  }
}

}  // namespace

void Problems::add(std::string text) {
  text = printable(text);
  if (known_.insert(text).second) texts_.push_back(std::move(text));
}

void Problems::raise() const {
  constexpr std::size_t most = 20;
  if (texts_.empty()) return;
  if (texts_.size() == 1) throw Error(Kind::input, texts_.front());
  std::vector<std::string> lines = {std::to_string(texts_.size()) + " problems:"};
  for (std::size_t i = 0; i < std::min(most, texts_.size()); ++i) lines.push_back("  " + texts_[i]);
  if (texts_.size() > most) {
    lines.push_back("  and " + std::to_string(texts_.size() - most) + " more");
  }
  throw Error::of_lines(Kind::input, lines);
}

std::vector<Companion> companions_in(const std::string& folder) {
  constexpr std::array patterns = {
      "generation_config.json",  "*tokenizer*", "special_tokens_map.json",
      "added_tokens.json",       "vocab.*",     "merges.txt",
      "chat_template.*",         "*.py",        "*.model",
      "preprocessor_config.json"};
  constexpr std::uint64_t largest_companion = std::uint64_t{1} << 30;
  std::vector<Companion> found;
  if (folder.empty() || !std::filesystem::is_directory(folder)) return found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool wanted = std::any_of(patterns.begin(), patterns.end(), [&](const char* pattern) {
      return families::matches(pattern, name);
    });
    const bool is_folder = !entry.is_symlink() && entry.is_directory();
    if (!wanted || (is_folder && !is_file_name(name))) continue;
    require_file(entry.path().string());
    const std::uint64_t bytes = entry.file_size();
    if (bytes > largest_companion) {
      throw Error(Kind::input, entry.path().string() + ": " + std::to_string(bytes) +
                                   " bytes, such a file is carried along up to " +
                                   std::to_string(largest_companion));
    }
    found.push_back({name, entry.path().string(), bytes, 0});
  }
  std::sort(found.begin(), found.end(),
            [](const Companion& a, const Companion& b) { return a.name < b.name; });
  return found;
}

Json to_json(const std::vector<Companion>& companions) {
  Json json = Json::array();
  for (const Companion& c : companions) json.push_back({c.name, c.path, c.bytes, c.offset});
  return json;
}

std::vector<Companion> companions_from_json(const Json& json) {
  std::vector<Companion> companions;
  for (const Json& c : json) {
    companions.push_back({c[0].get<std::string>(), c[1].get<std::string>(),
                          c[2].get<std::uint64_t>(), c[3].get<std::uint64_t>()});
  }
  return companions;
}

Json to_json(const Found& found) {
  Json optimizer = Json::array();
  for (const SourceFile& file : found.optimizer) optimizer.push_back({file.path, file.bytes});
  return {{"dialect", found.dialect},
          {"unit", found.unit},
          {"files", found.files},
          {"facts", found.facts},
          {"optimizer", std::move(optimizer)}};
}

Found found_from_json(const Json& json) {
  Found found{json.at("dialect").get<std::string>(), json.at("unit").get<std::string>(),
              json.at("files").get<std::vector<std::string>>(), json.at("facts")};
  for (const Json& file : json.at("optimizer")) {
    found.optimizer.push_back({file[0].get<std::string>(), file[1].get<std::uint64_t>()});
  }
  return found;
}

void add_pieces(std::span<const Placement> placements, double add, const TensorEntry& entry,
                std::uint32_t file, Source& source) {
  if (entry.chunks) {
    SourceFile tensor = source.files[file];
    tensor.bytes = elements(entry.shape) * bytes(entry.dtype);
    tensor.chunks = entry.chunks;
    file = static_cast<std::uint32_t>(source.files.size());
    source.files.push_back(std::move(tensor));
  }
  for (const Placement& placement : placements) {
    SourcePiece piece;
    piece.placement =
        entry.strides.empty() ? placement : in_memory(placement, entry.shape, entry.strides);
    piece.file = file;
    piece.base = entry.offset;
    piece.dtype = entry.dtype;
    piece.add = add;
    piece.name = entry.name;
    source.pieces.push_back(std::move(piece));
  }
}

void add_unmatched(const std::string& where, const std::vector<std::string>& missing,
                   const std::vector<std::string>& unexpected, Problems& problems) {
  if (!missing.empty()) {
    problems.add(where + ": missing " + std::to_string(missing.size()) +
                 " tensors of the model: " + first_few(missing));
  }
  if (!unexpected.empty()) {
    problems.add(where + ": " + std::to_string(unexpected.size()) +
                 " tensors that the model does not have: " + first_few(unexpected));
  }
}

void match_shard(const Shard& described, const FileIndex& index,
                 const std::function<std::string(const std::string&)>& spell,
                 const std::function<bool(std::string_view)>& ignored, Source& source,
                 Problems& problems) {
  const auto file = static_cast<std::uint32_t>(source.files.size());
  source.files.push_back({index.path, index.bytes});
  std::map<std::string, const TensorEntry*> entries;
  for (const TensorEntry& entry : index.tensors) {
    const std::string name = spell(entry.name);
    if (name.empty() || ignored(name)) continue;
    if (!entries.emplace(name, &entry).second) {
      problems.add(index.path + ": " + entry.name + ": two tensors of this name");
    }
  }
  std::vector<std::string> missing, unexpected;
  for (const StoredTensor& tensor : described.tensors) {
    const auto at = entries.find(tensor.name);
    if (at == entries.end()) {
      if (!tensor.optional) missing.push_back(tensor.name);
      continue;
    }
    const TensorEntry& entry = *at->second;
    entries.erase(at);
    problems.collect([&] {
      if (entry.shape != tensor.shape) {
        throw Error(Kind::input, index.path + ": " + entry.name + ": shape " +
                                     to_string(entry.shape) + ", wanted " +
                                     to_string(tensor.shape));
      }
      with_context(index.path + ": " + entry.name, [&] {
        bytes(entry.dtype);
        add_pieces(tensor.placements, tensor.add, entry, file, source);
      });
    });
  }
  for (const auto& [name, entry] : entries) {
    unexpected.push_back(entry->name + " " + to_string(entry->shape));
  }
  add_unmatched(index.path, missing, unexpected, problems);
}

std::vector<std::string> dropped_buffers(
    const std::vector<std::string>& patterns, const std::vector<FileIndex>& indices,
    const std::function<bool(const std::string&, const std::string&)>& fits) {
  std::vector<std::string> lines;
  for (const std::string& pattern : patterns) {
    std::size_t count = 0;
    for (const FileIndex& index : indices) {
      for (const TensorEntry& entry : index.tensors) {
        if (elements(entry.shape) > 0 && fits(pattern, entry.name)) ++count;
      }
    }
    if (count == 0) continue;
    lines.push_back(pattern + ": " + std::to_string(count) + (count == 1 ? " tensor" : " tensors") +
                    ", no weights but buffers that the model makes itself");
  }
  return lines;
}

void drop_tensors(Json& args, const std::string& name, std::vector<std::string>& dropped) {
  drop_members(args, name, dropped, [](const Json& value) {
    return std::string(holds_tensor(value) ? "a tensor" : "");
  });
}

void drop_runnable(Json& args, const std::string& name, std::vector<std::string>& dropped) {
  drop_members(args, name, dropped, [](const Json& value) {
    const std::string found = runnable_in(value);
    return found.empty() ? found : found + ": whoever loads it imports or runs that";
  });
}

void settle_dtypes(Source& source, Problems& problems) {
  std::vector<const SourcePiece*> first(source.model.tensors().size(), nullptr);
  std::map<Dtype, std::vector<const SourcePiece*>> others;
  source.dtypes.assign(first.size(), Dtype::f32);
  source.adds.assign(first.size(), 0);
  for (const SourcePiece& piece : source.pieces) {
    const std::uint32_t tensor = piece.placement.tensor;
    if (first[tensor] == nullptr) {
      if (!is_floating(piece.dtype)) others[piece.dtype].push_back(&piece);
      first[tensor] = &piece;
      source.dtypes[tensor] = piece.dtype;
      source.adds[tensor] = piece.add;
    } else if (piece.dtype != first[tensor]->dtype) {
      problems.add(source.model[tensor].role + ": " + piece.name + " in " +
                   source.files[piece.file].path + " is " + std::string(name(piece.dtype)) +
                   ", but " + first[tensor]->name + " in " +
                   source.files[first[tensor]->file].path + " is " +
                   std::string(name(first[tensor]->dtype)));
      first[tensor] = &piece;
    }
  }
  for (const auto& [dtype, pieces] : others) {
    const std::size_t more = pieces.size() - 1;
    problems.add(pieces.front()->name + " in " + source.files[pieces.front()->file].path +
                 (more == 0 ? " is " : " and " + std::to_string(more) + " more are ") +
                 std::string(name(dtype)) + ", wanted floating point numbers");
  }
}

CanonicalModel canonical_model(const families::Family& family, const families::Record& record) {
  CanonicalModel model;
  for (families::RoleTensor& tensor : families::canonical_tensors(family, record)) {
    model.add(
        {std::move(tensor.role), "weight", std::move(tensor.factors), std::move(tensor.shape)});
  }
  return model;
}

std::uint64_t iteration_of(const Source& source) {
  const auto at = source.training.find("iteration");
  const bool known = at != source.training.end() && at->is_number_integer() && *at >= 0;
  return known ? at->get<std::uint64_t>() : 0;
}

std::string reset_counters(const Source& source, Json& args) {
  std::string reset = "for a release: iteration " + std::to_string(iteration_of(source)) + " -> 0";
  for (const char* name :
       {"consumed_train_samples", "consumed_valid_samples", "consumed_train_tokens",
        "skipped_train_samples", "num_floating_point_operations_so_far", "curr_iteration"}) {
    const auto old = args.find(name);
    if (old == args.end() || !old->is_number() || *old == 0) continue;
    reset += ", " + std::string(name) + " " + old->dump() + " -> 0";
    *old = 0;
  }
  return reset;
}

}  // namespace reshard::formats
