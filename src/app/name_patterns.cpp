#include "app/name_patterns.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <utility>

namespace reshard::app {
namespace {

/// In a form, the place of a number.
constexpr char mark = '\0';

/// A number of a name: its value and how many digits it is written with.
using Number = std::pair<std::uint64_t, std::size_t>;

std::string digits_of(const Number& number) {
  const std::string digits = std::to_string(number.first);
  return std::string(number.second - std::min(number.second, digits.size()), '0') + digits;
}

/// A name with a mark for each number in it, and the numbers; more digits than a number takes are
/// part of the form.
std::pair<std::string, std::vector<Number>> numbered(const std::string& name) {
  std::string form;
  std::vector<Number> numbers;
  for (std::size_t i = 0; i < name.size();) {
    const std::size_t end = std::min(name.find_first_not_of("0123456789", i), name.size());
    const std::string digits = name.substr(i, end - i);
    if (digits.empty()) {
      form += name[i++];
      continue;
    }
    const bool fits = digits.size() <= std::numeric_limits<std::uint64_t>::digits10;
    form += fits ? std::string(1, mark) : digits;
    if (fits) numbers.emplace_back(std::stoull(digits), digits.size());
    i = end;
  }
  return {form, numbers};
}

/// "3", "{00,02}", "{1..4,7}"
std::string braced(const std::set<Number>& set) {
  const std::vector<Number> numbers(set.begin(), set.end());
  if (numbers.size() == 1) return digits_of(numbers.front());
  const auto follows = [&](std::size_t i) {  // i is written as the one after i - 1
    return digits_of(numbers[i]) == digits_of({numbers[i - 1].first + 1, numbers[i - 1].second});
  };
  std::string text = "{";
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && follows(last + 1)) ++last;
    if (last == i + 1) last = i;  // "0,1" is as short as "0..1"
    text += (text.size() > 1 ? "," : "") + digits_of(numbers[i]);
    if (last > i) text += ".." + digits_of(numbers[last]);
    i = last + 1;
  }
  return text + "}";
}

using NumberLists = std::set<std::vector<Number>>;

/// Names of one form as patterns: one when they are all combinations of their numbers, else those
/// of each value of the first number that varies.
void fold(const std::string& form, const NumberLists& lists, std::vector<std::string>& patterns) {
  std::vector<std::set<Number>> values(lists.begin()->size());
  for (const std::vector<Number>& list : lists) {
    for (std::size_t n = 0; n < list.size(); ++n) values[n].insert(list[n]);
  }
  std::size_t combinations = 1, varying = values.size();
  for (std::size_t n = values.size(); n-- > 0;) {
    combinations = std::min(lists.size() + 1, combinations * values[n].size());
    if (values[n].size() > 1) varying = n;
  }
  if (combinations == lists.size()) {
    std::string pattern;
    std::size_t n = 0;
    for (const char c : form) pattern += c == mark ? braced(values[n++]) : std::string(1, c);
    patterns.push_back(std::move(pattern));
    return;
  }
  for (const Number& value : values[varying]) {
    NumberLists part;
    for (const std::vector<Number>& list : lists) {
      if (list[varying] == value) part.insert(list);
    }
    fold(form, part, patterns);
  }
}

}  // namespace

std::vector<std::string> folded(const std::vector<std::string>& names) {
  std::map<std::string, NumberLists> forms;
  for (const std::string& name : names) {
    const auto [form, numbers] = numbered(name);
    forms[form].insert(numbers);
  }
  std::vector<std::string> patterns;
  for (const auto& [form, lists] : forms) fold(form, lists, patterns);
  return patterns;
}

}  // namespace reshard::app
