#include "app/profile.hpp"

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "core/checked_json.hpp"
#include "core/error.hpp"
#include "formats/file.hpp"

namespace reshard::app {
namespace {

std::string word_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer()) return value.dump();
  if (value.is_boolean()) return value.get<bool>() ? "true" : "false";
  throw Error(Kind::usage, "wanted a text, a whole number, true, false or a list of texts");
}

void apply(CLI::App& command, const std::string& key, const Json& value) {
  CLI::Option* option = command.get_option_no_throw("--" + key);
  const bool is_option = option != nullptr && key != "profile" && key != "help";
  if (!is_option) throw Error(Kind::usage, "no option of submit");
  if (option->count() > 0) return;
  std::vector<std::string> words;
  if (value.is_array()) {
    for (const Json& one : value) words.push_back(word_of(one));
  } else {
    words.push_back(word_of(value));
  }
  if (words.size() == 1 && words[0] == "false") return;
  try {
    for (const std::string& word : words) option->add_result(word);
    option->run_callback();
  } catch (const CLI::Error& error) {
    throw Error(Kind::usage, error.what());
  }
}

}  // namespace

std::string profile_path(const std::string& given) {
  if (given == "none") return "";
  if (!given.empty()) return given;
  if (const char* named = std::getenv("RESHARD_PROFILE"); named != nullptr && *named != 0) {
    return named;
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr) return "";
  const std::string path = std::string(home) + "/.config/reshard/profile.json";
  std::error_code error;
  return std::filesystem::exists(path, error) ? path : "";
}

void apply_profile(CLI::App& command, const std::string& path) {
  if (path.empty()) return;
  with_context("profile " + path, [&] {
    if (!std::filesystem::exists(path)) throw Error(Kind::usage, "no such file");
    Json profile;
    try {
      profile = json_of_text(formats::read_text(path, 1 << 20));
    } catch (const Error& error) {
      throw Error(Kind::usage, error.what());
    }
    if (!profile.is_object()) throw Error(Kind::usage, "wanted a JSON object");
    for (const auto& [key, value] : profile.items()) {
      with_context(key, [&, &name = key, &what = value] { apply(command, name, what); });
    }
  });
}

}  // namespace reshard::app
