#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "app/inspect_maps.hpp"
#include "app/name_patterns.hpp"
#include "app/report.hpp"
#include "app/text.hpp"
#include "core/printable.hpp"

// maps_json for people.

namespace reshard::app {
namespace {

using Numbers = std::vector<std::uint64_t>;
using Words = std::vector<std::string>;
constexpr std::size_t most_lines = 16, most_patterns = 8;

/// Patterns of file names, the first few spelled out.
std::string files_text(const Words& files) {
  Words patterns = folded(files);
  const std::size_t left = patterns.size() - std::min(patterns.size(), most_patterns);
  patterns.resize(patterns.size() - left);
  return joined(patterns) + (left == 0 ? "" : " and " + std::to_string(left) + " more");
}

/// What a stage or module holds, copies marked as such.
Words contents(const Json& part) {
  Words words = part.at("holds").get<Words>();
  for (const auto& copy : part.at("copies").get<Words>()) words.push_back("copy of " + copy);
  return words;
}

std::string stages_text(const Json& stages) {
  std::string text;
  for (const Json& stage : stages) {
    const Numbers layers = stage.at("layers").get<Numbers>();
    const Numbers modules = stage.at("modules").get<Numbers>();
    Words words = {layers.empty() ? "no layers" : "layers " + ranges(layers)};
    for (std::string& word : contents(stage)) words.push_back(std::move(word));
    text += "  stage " + stage.at("stage").dump() + ": " + joined(words) +
            (modules.empty() ? "" : " (modules " + ranges(modules) + ")") + "\n";
  }
  return text;
}

/// "tp 0, pp 1"
std::string rank_text(const Json& rank) {
  Words words;
  for (const char* degree : {"tp", "pp", "ep"}) {
    if (rank.contains(degree)) words.push_back(degree + (" " + rank.at(degree).dump()));
  }
  return joined(words);
}

std::string ranks_text(const Json& ranks) {
  std::string text = ranks.empty() ? "" : "files\n";
  for (std::size_t i = 0; i < std::min(ranks.size(), most_lines); ++i) {
    text +=
        "  " + rank_text(ranks[i]) + ": " + files_text(ranks[i].at("files").get<Words>()) + "\n";
  }
  if (ranks.size() > most_lines) {
    text += "  and those of " + std::to_string(ranks.size() - most_lines) + " more ranks: --json\n";
  }
  return text;
}

std::string by_tp_text(const std::string& label, const Json& list) {
  if (list.empty()) return "";
  Numbers ranks;
  Words files;
  for (const Json& each : list) {
    ranks.push_back(each.at("tp").get<std::uint64_t>());
    for (const Json& file : each.at("files")) files.push_back(file.get<std::string>());
  }
  return wrapped(label, {"tp " + ranges(ranks) + ": " + files_text(files)});
}

/// The number of a module's layer if a layer is all that it holds.
std::optional<std::uint64_t> only_layer(const Json& module) {
  const Words words = contents(module);
  constexpr std::string_view begin = "layers.";
  if (words.size() != 1 || !words.front().starts_with(begin)) return std::nullopt;
  const std::string rest = words.front().substr(begin.size());
  if (rest.find('.') != std::string::npos) return std::nullopt;
  return std::stoull(rest);
}

/// "3", "3..7"
std::string span(std::uint64_t first, std::size_t count) {
  return std::to_string(first) + (count == 1 ? "" : ".." + std::to_string(first + count - 1));
}

/// Modules of whole layers in order are one item.
std::string modules_text(const Json& modules) {
  Words items;
  for (std::size_t i = 0, end = 0; i < modules.size(); i = end) {
    const auto number = modules[i].at("module").get<std::uint64_t>();
    const std::optional<std::uint64_t> layer = only_layer(modules[i]);
    const auto follows = [&](std::size_t next) {
      return modules[next].at("module") == number + next - i &&
             only_layer(modules[next]) == *layer + next - i;
    };
    for (end = i + 1; layer && end < modules.size() && follows(end);) ++end;
    const Words parts = contents(modules[i]);
    const std::string held = layer           ? "layers " + span(*layer, end - i)
                             : parts.empty() ? "buffers"
                                             : joined(parts, " + ");
    items.push_back(span(number, end - i) + ": " + held);
  }
  return wrapped("modules", items);
}

/// Ties of all ranks that have the same names in one.
std::string ties_text(const Json& ties) {
  std::map<std::pair<std::string, Words>, std::vector<Words>> files;  // of each name
  for (const Json& tie : ties) {
    Words names;
    for (const Json& tensor : tie.at("tensors")) names.push_back(tensor.at("name"));
    std::vector<Words>& all = files[{tie.at("role").get<std::string>(), names}];
    all.resize(names.size());
    for (std::size_t i = 0; i < names.size(); ++i)
      all[i].push_back(tie.at("tensors")[i].at("file"));
  }
  std::string text = "tied copies" + std::string(ties.empty() ? ": none in the files\n" : "\n");
  for (const auto& [key, places] : files) {
    const auto& [role, names] = key;
    for (std::size_t i = 0; i < names.size(); ++i) {
      text += (i == 0 ? "  " + role + " is " : "    copied to ") + printable(names[i]) + " in " +
              files_text(places[i]) + "\n";
    }
  }
  return text;
}

std::string dtypes_text(const Json& classes) {
  std::map<std::string, std::pair<std::uint64_t, Words>> by_dtype;
  for (const auto& [kind, counts] : classes.items()) {
    for (const auto& [dtype, count] : counts.items()) {
      by_dtype[dtype].first += count.get<std::uint64_t>();
      by_dtype[dtype].second.push_back(kind);
    }
  }
  std::string text;
  for (const auto& [dtype, use] : by_dtype) {
    text += padded(text.empty() ? "dtypes" : "", 12) + " " + dtype + " (" + grouped(use.first) +
            " tensors): " + joined(use.second) + "\n";
  }
  return text;
}

std::string optimizer_text(const Json& optimizer) {
  Words names;
  for (const Json& file : optimizer.at("files")) names.push_back(file.at("file"));
  if (names.empty()) return "";
  return wrapped(
      "optimizer",
      {grouped(names.size()) + (names.size() == 1 ? " file, " : " files, ") +
       human_bytes(optimizer.at("bytes").get<std::uint64_t>()) + ": " + files_text(names)});
}

}  // namespace

std::string maps_text(const Json& maps) {
  const Json& ties = maps.at("tied");
  std::string text = stages_text(maps.at("stages")) + ranks_text(maps.at("ranks"));
  if (!maps.at("ranks").empty()) {
    text += by_tp_text("embedding", maps.at("embedding"));
    text += by_tp_text("final norm", maps.at("final_norm"));
  }
  return text + modules_text(maps.at("modules")) +
         (maps.at("head_is_tied") == true || !ties.empty() ? ties_text(ties) : "") +
         dtypes_text(maps.at("dtypes")) + optimizer_text(maps.at("optimizer"));
}

}  // namespace reshard::app
