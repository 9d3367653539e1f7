#include "families/pattern.hpp"

#include <algorithm>

namespace reshard::families {

namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// The length of a leading `{word}`, 0 if there is none.
std::size_t index_length(std::string_view pattern) {
  if (pattern.empty() || pattern[0] != '{') return 0;
  const std::size_t end = pattern.find('}');
  return end == std::string_view::npos || end < 2 ? 0 : end + 1;
}

}  // namespace

bool matches(std::string_view pattern, std::string_view name) {
  while (!pattern.empty()) {
    if (pattern[0] == '*') {
      pattern.remove_prefix(std::min(pattern.find_first_not_of('*'), pattern.size()));
      for (std::size_t skipped = 0; skipped <= name.size(); ++skipped) {
        if (matches(pattern, name.substr(skipped))) return true;
      }
      return false;
    }
    if (name.empty()) return false;
    if (const std::size_t index = index_length(pattern)) {
      const auto digits = std::find_if_not(name.begin(), name.end(), is_digit) - name.begin();
      if (digits == 0) return false;
      name.remove_prefix(static_cast<std::size_t>(digits));
      pattern.remove_prefix(index);
    } else {
      if (pattern[0] != name[0]) return false;
      pattern.remove_prefix(1);
      name.remove_prefix(1);
    }
  }
  return name.empty();
}

}  // namespace reshard::families
