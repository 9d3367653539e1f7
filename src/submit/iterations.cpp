#include "submit/iterations.hpp"

#include <algorithm>
#include <charconv>

#include "core/error.hpp"

namespace reshard::submit {
namespace {

std::vector<std::string> parts_of(const std::string& text, char between) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == between) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

[[noreturn]] void refuse(const std::string& text) {
  throw Error(Kind::usage, "--iteration " + text +
                               ": wanted latest, all, numbers as 1000,2000 or a range as "
                               "1000:5000:1000");
}

std::uint64_t number_of(const std::string& word, const std::string& text) {
  std::uint64_t number = 0;
  const char* end = word.data() + word.size();
  const auto [at, error] = std::from_chars(word.data(), end, number);
  if (error != std::errc() || at != end || number > std::uint64_t{1} << 40) refuse(text);
  return number;
}

}  // namespace

IterationWish iteration_wish(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ",") + word;
  IterationWish wish;
  if (text == "latest") return wish;
  if (text == "all") {
    wish.kind = IterationWish::Kind::all;
    return wish;
  }
  if (text.find(':') == std::string::npos) {
    wish.kind = IterationWish::Kind::list;
    for (const std::string& word : parts_of(text, ',')) wish.list.push_back(number_of(word, text));
    std::sort(wish.list.begin(), wish.list.end());
    wish.list.erase(std::unique(wish.list.begin(), wish.list.end()), wish.list.end());
    return wish;
  }
  const std::vector<std::string> parts = parts_of(text, ':');
  if (parts.size() > 3) refuse(text);
  wish.kind = IterationWish::Kind::range;
  wish.first = number_of(parts[0], text);
  wish.last = number_of(parts[1], text);
  if (parts.size() == 3) wish.step = number_of(parts[2], text);
  if (wish.last < wish.first || wish.step == 0) refuse(text);
  return wish;
}

std::vector<std::uint64_t> chosen(const IterationWish& wish,
                                  const std::vector<std::uint64_t>& complete) {
  switch (wish.kind) {
    case IterationWish::Kind::latest:
      return complete.empty() ? complete
                              : std::vector{*std::max_element(complete.begin(), complete.end())};
    case IterationWish::Kind::all:
      return complete;
    case IterationWish::Kind::list:
      return wish.list;
    case IterationWish::Kind::range:
      break;
  }
  std::vector<std::uint64_t> wanted;
  for (const std::uint64_t n : complete) {
    const bool is_in = n >= wish.first && n <= wish.last && (n - wish.first) % wish.step == 0;
    if (is_in) wanted.push_back(n);
  }
  return wanted;
}

}  // namespace reshard::submit
