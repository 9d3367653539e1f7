#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.hpp"
#include "families/expression.hpp"

using reshard::Json;
using reshard::families::Expression;
using reshard::families::Names;

/// Any text either is refused or evaluates to a value or an Error, without a crash.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Json record = Json::parse(R"({
    "layers": 4, "hidden": 48, "heads": 6, "groups": 2, "rotary_fraction": 0.25, "l": 1,
    "moe": [false, true, false, true], "window": null, "norm": "rms", "tied": true, "zero": 0,
    "least": -9223372036854775808, "most": 18446744073709551615, "base": 10000.0,
    "args": {"swiglu": true, "freq": [1, 0], "nothing": null}
  })");
  try {
    const Expression expression(std::string_view(reinterpret_cast<const char*>(data), size));
    static_cast<void>(expression.members_of("args"));
    const bool holds = expression.holds(Names(record));
    const Json value = expression.evaluate(Names(record));
    if (value.is_boolean() && value.get<bool>() != holds) __builtin_trap();
  } catch (const reshard::Error&) {
  }
  return 0;
}
