#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "formats/dialect/stages.hpp"

namespace reshard::app {

/// A number with so many digits behind the point.
std::string fixed(double value, int digits);
/// Six digits at most: "0.015625", "1e-06", "inf".
std::string shortest(double value);
/// "7,241,732,096"
std::string grouped(std::uint64_t value);
/// "tp 2, pp 4, ep 8, etp 1"; degrees of 1 beyond tp and pp are left out.
std::string layout_text(const formats::Parallelism& parallelism);
/// Text in a column of `width`.
std::string padded(std::string text, std::size_t width);
/// The names that differ from a word in the fewest characters, three at most, nearest first.
std::vector<std::string> nearest(const std::string& wanted, const std::set<std::string>& names);
/// "0..31", "0..2,5" of ascending numbers.
std::string ranges(const std::vector<std::uint64_t>& numbers);
/// "a, b"; as below, texts may be of strangers and are made printable.
std::string joined(const std::vector<std::string>& words, const std::string& between = ", ");
/// Items behind a label, in lines of at most 100 columns where they fit; "" without items.
std::string wrapped(const std::string& label, const std::vector<std::string>& items);
/// Lines, each with `what` in front; the first `most`, and how many more there are.
std::string lines_of(const char* what, const std::vector<std::string>& texts,
                     std::size_t most = SIZE_MAX);

}  // namespace reshard::app
