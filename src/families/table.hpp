#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.hpp"

namespace reshard::families {

/// One of the embedded tables, parsed; Error(internal) if there is none at this path.
Json embedded_table(std::string_view path);

/// A member of an object; Error(input) if the object is none or lacks it.
const Json& required_member(const Json& object, std::string_view name);
/// A member that must be a string if it is there; empty otherwise.
std::string text_member(const Json& object, std::string_view name);
/// A member that must be a truth value if it is there.
bool flag_member(const Json& object, std::string_view name, bool otherwise);
/// The strings of an array; Error(input) names `what` if it is no array of strings.
std::vector<std::string> texts(const Json& array, std::string_view what);
/// Error(input) if the value is no object or has members beyond these.
void allow_members(const Json& object, std::initializer_list<std::string_view> names);
/// JSON on one line, for messages; invalid UTF-8 replaced, long values cut.
std::string shown(const Json& value);
/// "a, b, c"
std::string joined(const std::vector<std::string>& names);

}  // namespace reshard::families
