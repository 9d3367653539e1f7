#include "app/text.hpp"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "core/printable.hpp"

namespace reshard::app {
namespace {

/// Levenshtein's distance.
std::size_t edits(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (const char c : a) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = diagonal + (b[j - 1] == c ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string shortest(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string grouped(std::uint64_t value) {
  std::string text = std::to_string(value);
  for (std::size_t at = text.size(); at > 3;) text.insert(at -= 3, ",");
  return text;
}

std::string layout_text(const formats::Parallelism& p) {
  std::string text = "tp " + std::to_string(p.tp) + ", pp " + std::to_string(p.pp);
  if (p.vpp > 1) text += ", vpp " + std::to_string(p.vpp);
  if (p.ep > 1) text += ", ep " + std::to_string(p.ep) + ", etp " + std::to_string(p.etp);
  return text;
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

std::string ranges(const std::vector<std::uint64_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(numbers[i]);
    if (last > i) text += ".." + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

std::string joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + printable(word);
  return text;
}

std::string wrapped(const std::string& label, const std::vector<std::string>& items) {
  constexpr std::size_t columns = 100, indent = 13;
  if (items.empty()) return "";
  std::string text, line = padded(label, indent - 1);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::string item = " " + printable(items[i]) + (i + 1 < items.size() ? "," : "");
    if (line.size() > indent && line.size() + item.size() > columns) {
      text += line + "\n";
      line = std::string(indent - 1, ' ');
    }
    line += item;
  }
  return text + line + "\n";
}

std::string lines_of(const char* what, const std::vector<std::string>& texts, std::size_t most) {
  std::string all;
  const std::size_t shown = std::min(most, texts.size());
  for (std::size_t i = 0; i < shown; ++i) all += what + printable(texts[i]) + "\n";
  if (shown < texts.size()) {
    all += what + ("and " + std::to_string(texts.size() - shown) + " more\n");
  }
  return all;
}

std::vector<std::string> nearest(const std::string& wanted, const std::set<std::string>& names) {
  constexpr std::size_t few = 3;
  std::vector<std::pair<std::size_t, std::string>> known;
  for (const std::string& name : names) {
    const std::size_t distance = edits(wanted, name);
    if (known.size() == few && distance >= known.back().first) continue;
    known.emplace_back(distance, name);
    std::sort(known.begin(), known.end());
    if (known.size() > few) known.pop_back();
  }
  std::vector<std::string> found;
  for (auto& [distance, name] : known) found.push_back(std::move(name));
  return found;
}

}  // namespace reshard::app
