#include "families/table.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "families/embedded.hpp"

namespace reshard::families {

Json embedded_table(std::string_view path) {
  for (const EmbeddedFile& file : embedded_files()) {
    if (file.path == path) return Json::parse(file.text);
  }
  throw Error(Kind::internal, "no table " + std::string(path) + " is embedded");
}

const Json& required_member(const Json& object, std::string_view name) {
  if (!object.is_object()) throw Error(Kind::input, "an object is wanted, not " + shown(object));
  const auto found = object.find(name);
  if (found == object.end()) throw Error(Kind::input, "lacks \"" + std::string(name) + "\"");
  return *found;
}

std::string text_member(const Json& object, std::string_view name) {
  const auto found = object.find(name);
  if (found == object.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  throw Error(Kind::input, "\"" + std::string(name) + "\" is " + shown(*found) + ", not a string");
}

bool flag_member(const Json& object, std::string_view name, bool otherwise) {
  const auto found = object.find(name);
  if (found == object.end()) return otherwise;
  if (found->is_boolean()) return found->get<bool>();
  throw Error(Kind::input,
              "\"" + std::string(name) + "\" is " + shown(*found) + ", not true or false");
}

std::vector<std::string> texts(const Json& array, std::string_view what) {
  const auto is_text = [](const Json& each) { return each.is_string(); };
  if (!array.is_array() || !std::all_of(array.begin(), array.end(), is_text)) {
    throw Error(Kind::input,
                "\"" + std::string(what) + "\" is " + shown(array) + ", not a list of strings");
  }
  return array.get<std::vector<std::string>>();
}

void allow_members(const Json& object, std::initializer_list<std::string_view> names) {
  if (!object.is_object()) throw Error(Kind::input, "an object is wanted, not " + shown(object));
  for (const auto& [name, value] : object.items()) {
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    std::vector<std::string> allowed(names.begin(), names.end());
    throw Error(Kind::input, "unknown member \"" + name + "\", there are " + joined(allowed));
  }
}

std::string shown(const Json& value) {
  constexpr std::size_t longest = 200;
  const auto tag = value.is_object() ? value.find("!") : value.end();
  if (tag != value.end() && (*tag == "float" || *tag == "int")) {
    return shown(value.value("value", Json()));
  }
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > longest) text.replace(longest, std::string::npos, "...");
  return text;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace reshard::families
