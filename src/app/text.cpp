#include "app/text.hpp"

#include <cstdio>

namespace reshard::app {

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

Json layout_json(const formats::Parallelism& p) {
  Json chunks = Json::array();
  for (std::size_t c = 0; c < p.chunks.size(); ++c) {
    chunks.push_back({{"stage", c % p.pp},
                      {"chunk", c / p.pp},
                      {"first_layer", p.chunks[c].first},
                      {"layers", p.chunks[c].count}});
  }
  return {{"tp", p.tp},   {"pp", p.pp}, {"vpp", p.vpp}, {"ep", p.ep},
          {"etp", p.etp}, {"cp", p.cp}, {"dp", p.dp},   {"stages", std::move(chunks)}};
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

std::string lines_of(const char* what, const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += std::string(what) + text + "\n";
  return all;
}

}  // namespace reshard::app
