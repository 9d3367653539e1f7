#include <algorithm>

#include "core/error.hpp"
#include "formats/dialect/merak.hpp"

// Which modules a stage holds (merak.md section 8).

namespace reshard::formats {
namespace {

std::string text_of(const std::vector<std::uint64_t>& bounds) {
  std::string text;
  for (const std::uint64_t b : bounds) text += (text.empty() ? "" : ",") + std::to_string(b);
  return text;
}

/// Merak's formulas; `rounded_up`: uniform. Era 2 gives the remainder to stages from 1 on.
std::vector<std::uint64_t> formula(std::uint64_t modules, std::uint64_t pp, int era,
                                   bool rounded_up) {
  const std::uint64_t size = rounded_up ? (modules + pp - 1) / pp : modules / pp;
  const std::uint64_t remainder = era == 2 ? modules % pp : 0;
  std::vector<std::uint64_t> bounds;
  for (std::uint64_t q = 0; q < pp; ++q) {
    const std::uint64_t more = q > 1 ? std::min(q - 1, remainder) : 0;
    bounds.push_back(std::min(size * q, modules) + more);
  }
  bounds.push_back(modules);
  return bounds;
}

}  // namespace

std::vector<std::uint64_t> merak_bounds(std::uint64_t modules, std::uint64_t pp, int era,
                                        std::string_view method,
                                        const std::vector<std::uint64_t>& custom,
                                        const std::string& description) {
  const std::string what =
      "the model has " + std::to_string(modules) + " modules (" + description + ")";
  if (method == "custom" && custom.empty()) {
    throw Error(Kind::usage, "--partition-method custom needs --custom-partition; " + what);
  }
  if (!custom.empty() && !method.empty() && method != "custom") {
    throw Error(Kind::usage, "--custom-partition goes with --partition-method custom only");
  }
  if (!custom.empty()) {
    const bool ends = custom.size() == pp + 1 && custom.front() == 0 && custom.back() == modules;
    const bool rising =
        std::adjacent_find(custom.begin(), custom.end(), std::greater_equal<>()) == custom.end();
    if (ends && rising) return custom;
    throw Error(Kind::usage, "--custom-partition " + text_of(custom) + ": wanted " +
                                 std::to_string(pp + 1) + " numbers that rise from 0 to " +
                                 std::to_string(modules) + ", no stage empty; " + what);
  }
  if (pp > modules) {
    throw Error(Kind::usage, std::to_string(pp) + " stages, but " + what);
  }
  const bool rounded_up = method.empty() ? era == 1 : method == "uniform";
  if (era == 2 && rounded_up && modules % pp != 0) {
    throw Error(Kind::usage, "--partition-method uniform: Merak v2 adds the remainder of " +
                                 std::to_string(modules) + " modules over " + std::to_string(pp) +
                                 " stages twice and runs on wrong borders: wanted uniform_floor "
                                 "or custom");
  }
  const std::vector<std::uint64_t> bounds = formula(modules, pp, era, rounded_up);
  for (std::uint64_t s = 0; s < pp; ++s) {
    if (bounds[s] < bounds[s + 1]) continue;
    throw Error(Kind::usage, "the borders " + text_of(bounds) + " leave stage " +
                                 std::to_string(s) + " empty: name others with " +
                                 "--custom-partition; " + what);
  }
  return bounds;
}

}  // namespace reshard::formats
