#include "formats/dialect/template.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "formats/dialect/huggingface.hpp"
#include "formats/file.hpp"

namespace reshard::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t largest_file = std::uint64_t{256} << 20;
constexpr std::array<const char*, 3> special_tokens = {"bos_token", "eos_token", "pad_token"};

const Companion* companion_named(const std::vector<Companion>& companions, std::string_view name) {
  const auto found = std::find_if(companions.begin(), companions.end(),
                                  [&](const Companion& each) { return each.name == name; });
  return found == companions.end() ? nullptr : &*found;
}

/// Finds the numbers of a few tokens in a tokenizer.json or a vocab.json of any size, keeping
/// nothing else: members of "added_tokens", of "model"."vocab", or of the whole file.
class TokenNumbers : public nlohmann::json_sax<Json> {
 public:
  TokenNumbers(const std::set<std::string>& tokens, std::map<std::string, std::uint64_t>& numbers)
      : tokens_(tokens), numbers_(numbers) {}

  bool null() override { return leaf(); }
  bool boolean(bool /*value*/) override { return leaf(); }
  bool number_integer(number_integer_t /*value*/) override { return leaf(); }
  bool number_unsigned(number_unsigned_t value) override {
    if (in_vocabulary()) found(path_.back(), value);
    if (in_added() && path_.back() == "id") id_ = value;
    return leaf();
  }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return leaf(); }
  bool string(string_t& value) override {
    if (in_added() && path_.back() == "content") content_ = value;
    return leaf();
  }
  bool binary(binary_t& /*value*/) override { return leaf(); }
  bool key(string_t& value) override {
    path_.back() = value;
    return true;
  }
  bool start_object(std::size_t /*elements*/) override { return open(); }
  bool start_array(std::size_t /*elements*/) override { return open(); }
  bool end_array() override { return close(); }
  bool end_object() override {
    if (in_added() && id_ && content_) found(*content_, *id_);
    id_.reset();
    content_.reset();
    return close();
  }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    throw Error(Kind::input, "not JSON at byte " + std::to_string(position));
  }

 private:
  [[nodiscard]] bool in_added() const { return path_.size() == 3 && path_[0] == "added_tokens"; }
  [[nodiscard]] bool in_vocabulary() const {
    return path_.size() == 1 || (path_.size() == 3 && path_[0] == "model" && path_[1] == "vocab");
  }
  void found(const std::string& token, std::uint64_t number) {
    if (tokens_.contains(token)) numbers_.emplace(token, number);
  }
  static bool leaf() { return true; }
  bool open() {
    constexpr std::size_t most_levels = 64;
    if (path_.size() == most_levels) throw Error(Kind::input, "nested too deep");
    path_.emplace_back();
    return true;
  }
  bool close() {
    path_.pop_back();
    return true;
  }

  const std::set<std::string>& tokens_;
  std::map<std::string, std::uint64_t>& numbers_;
  std::vector<std::string> path_;  ///< the key in each object or array around
  std::optional<std::uint64_t> id_;
  std::optional<std::string> content_;
};

/// The text of a token, which is a string or an object with it as "content".
std::optional<std::string> token_of(const Json& config, const char* name) {
  Json token = config.is_object() ? config.value(name, Json()) : Json();
  if (token.is_object()) token = token.value("content", Json());
  return token.is_string() ? std::optional(token.get<std::string>()) : std::nullopt;
}

/// Special token -> its text.
std::map<std::string, std::string> token_texts(const std::vector<Companion>& companions) {
  std::map<std::string, std::string> texts;
  for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const Companion* companion = companion_named(companions, file);
    if (companion == nullptr || companion->offset != 0) continue;
    const Json config = read_json(companion->path);
    for (const char* name : special_tokens) {
      if (const auto text = token_of(config, name)) texts.emplace(name, *text);
    }
  }
  return texts;
}

/// The classes that a member of auto_map names: one, or a slow and a fast one, which may be null.
std::vector<std::string> classes_of(const Json& named) {
  std::vector<std::string> classes;
  for (const Json& each : named.is_array() ? named : Json::array({named})) {
    if (each.is_string()) classes.push_back(each.get<std::string>());
  }
  return classes;
}

/// Error(input) for an auto_map of a form that Transformers does not load.
void check_classes(const Json& map) {
  if (map.is_null()) return;
  if (!map.is_object()) throw Error(Kind::input, "auto_map is " + map.dump() + ", no object");
  for (const auto& [role, named] : map.items()) {
    const std::vector<std::string> classes = classes_of(named);
    const bool is_sound =
        !classes.empty() && std::all_of(classes.begin(), classes.end(), [](const auto& name) {
          const std::size_t dot = name.rfind('.');
          return dot != std::string::npos && dot > 0 && dot + 1 < name.size();
        });
    if (is_sound) continue;
    throw Error(Kind::input,
                "auto_map." + printable(role) + " is " + named.dump() + ", wanted \"FILE.CLASS\"");
  }
}

/// The file of model code that has a class; one of another repository needs none.
void add_module(const std::string& name, std::set<std::string>& files) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos || name.find("--") != std::string::npos) return;
  std::string path = name.substr(0, dot);
  std::replace(path.begin(), path.end(), '.', '/');
  files.insert(path + ".py");
}

}  // namespace

std::vector<Companion> companions_of(const std::string& option, const std::string& folder,
                                     const std::string& what) {
  std::vector<Companion> found = companions_in(folder);
  if (!found.empty()) return found;
  throw Error(Kind::usage, option + " " + folder +
                               (fs::is_directory(folder) ? ": no " + what + " in this folder"
                                                         : ": no such folder"));
}

Json special_token_ids(const std::vector<Companion>& companions) {
  const std::map<std::string, std::string> texts = token_texts(companions);
  std::set<std::string> tokens;
  for (const auto& [name, text] : texts) tokens.insert(text);
  std::map<std::string, std::uint64_t> numbers;
  for (const char* file : {"tokenizer.json", "added_tokens.json", "vocab.json"}) {
    const Companion* companion = companion_named(companions, file);
    if (companion == nullptr || companion->offset != 0) continue;
    if (numbers.size() == tokens.size()) break;
    with_context(companion->path, [&] {
      const std::string text = read_text(companion->path, largest_file);
      TokenNumbers reader(tokens, numbers);
      Json::sax_parse(text.begin(), text.end(), &reader);
    });
  }
  Json ids = Json::object();
  for (const char* name : special_tokens) {
    const auto text = texts.find(name);
    if (text == texts.end()) continue;
    const auto number = numbers.find(text->second);
    ids[name + std::string("_id")] = number == numbers.end() ? Json() : Json(number->second);
  }
  return ids;
}

void add_template(const SourceOptions& options, Found& found) {
  std::vector<Companion> companions =
      companions_from_json(found.facts.value("companions", Json::array()));
  if (!options.hf_template.empty()) {
    std::vector<Companion> own =
        companions_of("--hf-template", options.hf_template, "model code or tokenizer files");
    if (!options.tokenizer.empty()) {  // whose files stand before the template's
      for (const Companion& each : companions) {
        std::erase_if(own, [&](const Companion& other) { return other.name == each.name; });
      }
      own.insert(own.end(), companions.begin(), companions.end());
      std::sort(own.begin(), own.end(),
                [](const Companion& a, const Companion& b) { return a.name < b.name; });
    }
    companions = std::move(own);
    found.facts["companions"] = to_json(companions);
    const std::string config = options.hf_template + "/config.json";
    const Json told = fs::exists(config) ? read_json(config) : Json::object();
    with_context(config, [&] { check_classes(told.value("auto_map", Json())); });
    found.facts["template"] = {{"model_type", told.value("model_type", Json())},
                               {"auto_map", told.value("auto_map", Json())}};
  }
  if (!found.facts.value("config", Json()).is_object()) {
    found.facts["token_ids"] = special_token_ids(companions);
  }
}

std::string wanted_family(const SourceOptions& options, const Found& found) {
  if (!options.family.empty()) return options.family;
  const Json type = found.facts.value("template", Json::object()).value("model_type", Json());
  return type.is_string() ? type.get<std::string>() : "";
}

void add_told(const Source& source, Json& config) {
  const Json& facts = source.found.facts;
  if (!facts.is_object()) return;
  const Json ids = facts.value("token_ids", Json::object());
  for (const auto& [name, id] : ids.items()) {
    if (!id.is_null()) config[name] = id;
  }
  const Json map = facts.value("template", Json::object()).value("auto_map", Json());
  if (map.is_object()) config["auto_map"] = map;
  const Json deviation =
      source.args.is_object() ? source.args.value("init_method_std", Json()) : Json();
  if (deviation.is_number() && config.contains("initializer_range")) {
    config["initializer_range"] = deviation;
  }
}

void check_auto_map(const Source& source, const Json& config, std::vector<std::string>& notes,
                    Problems& problems) {
  const Json map = config.value("auto_map", Json());
  if (!map.is_object()) return;
  std::set<std::string> files;
  for (const auto& [role, named] : map.items()) {
    for (const std::string& name : classes_of(named)) add_module(name, files);
  }
  std::string missing;
  for (const std::string& file : files) {
    if (companion_named(source.companions, file) != nullptr) continue;
    missing += (missing.empty() ? "" : ", ") + printable(file);
  }
  if (missing.empty()) return;
  const std::string text = "config.json: auto_map names model code that is not there: " + missing;
  if (source.found.facts.contains("template")) {
    problems.add("--hf-template: " + text);
  } else {
    notes.push_back(text + "; --hf-template brings it");
  }
}

}  // namespace reshard::formats
