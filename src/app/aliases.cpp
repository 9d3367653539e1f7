#include "app/aliases.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string_view>

#include "core/error.hpp"

namespace reshard::app {
namespace {

/// A script: the command that does its work, and its target where it had only one.
struct Script {
  std::string_view name, command, to;
};
constexpr std::array scripts = {
    Script{"deepspeed_to_transformers", "convert", "merak"},  // what it wrote, whatever its name
    Script{"deepspeed_to_megatron", "convert", "megatron"},
    Script{"convert_merak_gpt2_checkpoint", "convert", ""},
    Script{"inspect_checkpoint", "inspect", ""},
    Script{"inspect_deepspeed_checkpoint", "inspect", ""},
    Script{"convert_megatron_to_hf", "submit", ""},
    Script{"converter", "submit", ""}};

/// An option of the scripts: what it became, "SRC" and "DST" being the words without option.
struct Alias {
  std::string_view old, now;
  std::string_view targets = "";  ///< it says nothing of others; empty: of all
  bool value = true;
};
constexpr std::array aliases = {Alias{"--load_path", "SRC"},
                                Alias{"--input_folder", "SRC"},
                                Alias{"--folder", "SRC"},
                                Alias{"--save_path", "DST"},
                                Alias{"--output_folder", "DST"},
                                Alias{"--json_path", "--config"},
                                Alias{"--convert_type", "--to"},
                                Alias{"--merak_tp", "--tp", "merak"},
                                Alias{"--merak_pp", "--pp", "merak"},
                                Alias{"--target_tp", "--tp", "megatron megatron-deepspeed"},
                                Alias{"--target_pp", "--pp", "megatron megatron-deepspeed"},
                                Alias{"--partition_method", "--partition-method", "merak"},
                                Alias{"--custom_partition", "--custom-partition", "merak"},
                                Alias{"--for_release", "--for-release", "", false}};

struct ConvertType {
  std::string_view word, to;
};
constexpr std::array convert_types = {ConvertType{"merak", "merak"},
                                      ConvertType{"transformers", "hf-bin"},
                                      ConvertType{"transformers_to_merak", "merak"}};

template <typename Rows, typename Key>
auto find_row(const Rows& rows, Key Rows::value_type::*key, std::string_view name) {
  const auto at =
      std::find_if(rows.begin(), rows.end(), [&](const auto& row) { return row.*key == name; });
  return at == rows.end() ? nullptr : &*at;
}

/// An option and its value, which stands behind "=" or is the next word.
struct Word {
  std::string name;
  std::optional<std::string> value;
};

std::string target_of(const std::string& word) {
  if (const ConvertType* type = find_row(convert_types, &ConvertType::word, word)) {
    return std::string(type->to);
  }
  const std::string kinds = "merak, transformers or transformers_to_merak";
  throw Error(Kind::usage, word.empty() ? "--convert_type is required: " + kinds
                                        : "--convert_type " + word + ": wanted " + kinds);
}

/// An option of the scripts as they spelled it, also where it is given with dashes and means
/// nothing else.
std::string old_spelling(const std::string& name) {
  std::string old = name;
  std::replace(old.begin() + std::min<std::ptrdiff_t>(2, std::ssize(old)), old.end(), '-', '_');
  const Alias* alias = find_row(aliases, &Alias::old, old);
  return alias != nullptr && alias->now != name ? old : name;
}

/// Words with each alias and its value in one, the others as they are.
std::vector<Word> taken_apart(const std::vector<std::string>& words) {
  std::vector<Word> apart;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::size_t equal = std::min(words[i].find('='), words[i].size());
    const std::string name = old_spelling(words[i].substr(0, equal));
    const Alias* alias = find_row(aliases, &Alias::old, name);
    if (alias == nullptr) {
      apart.push_back({words[i], std::nullopt});
    } else if (!alias->value) {
      apart.push_back({name, std::nullopt});
    } else if (equal < words[i].size()) {
      apart.push_back({name, words[i].substr(equal + 1)});
    } else if (++i < words.size()) {
      apart.push_back({name, words[i]});
    } else {
      throw Error(Kind::usage, name + ": wanted a value behind it");
    }
  }
  return apart;
}

/// The target that the words name, "" for none.
std::string named_target(const std::vector<Word>& words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i].name == "--convert_type") return target_of(*words[i].value);
    if (words[i].name.starts_with("--to=")) return words[i].name.substr(5);
    if (words[i].name == "--to" && i + 1 < words.size()) return words[i + 1].name;
  }
  return "";
}

bool follows(std::string_view targets, std::string_view to) {
  const std::string list = " " + std::string(targets) + " ";
  return targets.empty() || list.find(" " + std::string(to) + " ") != std::string::npos;
}

/// The scripts' defaults where they differ from ours and were right, and what differs now.
void add_defaults(const std::string& script, const std::string& to, CommandLine& line) {
  const auto given = [&](std::string_view option) {
    return std::any_of(line.words.begin(), line.words.end(), [&](const std::string& word) {
      return word == option || word.starts_with(std::string(option) + "=");
    });
  };
  const auto add = [&](const char* option, const char* value) {
    if (!given(option)) line.words.insert(line.words.end(), {option, value});
  };
  if (to == "merak" && !given("--merak-era")) add("--merak-default-era", "1");
  if (to == "hf-bin") {
    add("--max-shard-size", "1000000TB");  // one pytorch_model.bin
    if (!given("--dtype")) {
      line.notes.emplace_back("dtypes are kept; the older script wrote fp32: --dtype fp32");
    }
  }
  if (to == "megatron" && script == "deepspeed_to_megatron") add("--megatron-names", "legacy");
  const Script* row = find_row(scripts, &Script::name, script);
  if (row != nullptr && row->command == "submit") add("--layout", "original");
  if (to == "merak" && script == "deepspeed_to_transformers") {
    line.notes.emplace_back(
        "writes Merak, as the older script of this name did; --convert_type transformers writes "
        "Hugging Face's format");
  }
}

}  // namespace

std::string older_options() {
  std::string text = "Options of the older scripts:";
  for (const Alias& alias : aliases) {
    text += "\n  " + std::string(alias.old);
    text.append(22 - alias.old.size(), ' ') += alias.now;
    if (alias.now == "--to") text += ": merak, transformers (hf-bin) or transformers_to_merak";
    if (!alias.targets.empty()) text += " of " + std::string(alias.targets);
  }
  return text;
}

CommandLine translate(const std::string& program, const std::vector<std::string>& words) {
  std::filesystem::path called = std::filesystem::path(program).filename();
  if (called.extension() == ".py") called.replace_extension();
  const Script* script = find_row(scripts, &Script::name, called.string());
  const std::vector<Word> apart = taken_apart(words);
  const bool old = std::any_of(apart.begin(), apart.end(), [](const Word& word) {
    return find_row(aliases, &Alias::old, word.name) != nullptr;
  });
  if (script == nullptr && !old) return {words, {}};

  CommandLine line;
  std::string to = named_target(apart), source, target;
  const bool named = !to.empty();
  if (script != nullptr) {
    line.words.emplace_back(script->command);
    if (!named) to = script->to;
    const bool help = std::find(words.begin(), words.end(), "--help") != words.end();
    if (to.empty() && script->command == "convert" && !help) target_of("");
  }
  if (!named && !to.empty()) line.words.insert(line.words.end(), {"--to", to});
  for (const Word& word : apart) {
    const Alias* alias = find_row(aliases, &Alias::old, word.name);
    if (alias == nullptr) {
      line.words.push_back(word.name);
    } else if (alias->now == "SRC") {
      source = *word.value;
    } else if (alias->now == "DST") {
      target = *word.value;
    } else if (!follows(alias->targets, to)) {
      line.notes.push_back(
          word.name + " " + *word.value + " is ignored: " +
          (to.empty() ? "a source is shown as it lies" : "it says nothing of --to " + to));
    } else {
      line.words.emplace_back(alias->now);
      if (alias->now == "--to") {
        line.words.push_back(to);
      } else if (word.value) {
        line.words.push_back(*word.value);
      }
    }
  }
  add_defaults(script == nullptr ? "" : std::string(script->name), to, line);
  const bool plain = std::any_of(apart.begin(), apart.end(), [](const Word& word) {
    return !word.name.starts_with("-") && word.name != "convert";
  });
  if (source.empty() && !target.empty() && !plain) {
    throw Error(Kind::usage, "--load_path or --input_folder, the source, is required");
  }
  // SRC comes before all other words without option, DST behind them.
  if (!source.empty()) line.words.insert(line.words.begin() + 1, source);
  if (!target.empty()) line.words.push_back(target);
  return line;
}

}  // namespace reshard::app
