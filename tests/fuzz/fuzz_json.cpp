#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/checked_json.hpp"
#include "core/error.hpp"
#include "core/printable.hpp"
#include "formats/container/safetensors.hpp"

namespace {

using reshard::Json;

/// What a terminal may show: UTF-8 without control characters, and the same when shown again.
void check_printable(std::string_view text) {
  const std::string shown = reshard::printable(text, 1000);
  if (shown.size() > 1000 || reshard::printable(shown, 1000) != shown) __builtin_trap();
  static_cast<void>(Json(shown).dump());  // throws when it is not UTF-8
  for (const char c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) __builtin_trap();
  }
}

/// The value, if the text is taken; a text that is taken means the same to the library.
Json checked(std::string_view text) {
  Json value;
  try {
    value = reshard::json_of_text(text);
  } catch (const reshard::Error& error) {
    if (error.kind() != reshard::Kind::input) __builtin_trap();
    return nullptr;
  }
  if (value != Json::parse(text)) __builtin_trap();
  const auto cbor = Json::to_cbor(value);
  if (reshard::json_of_cbor(std::as_bytes(std::span(cbor))) != value) __builtin_trap();
  return value;
}

}  // namespace

/// Any bytes as JSON, as CBOR, as an index of safetensors and as text for a terminal.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check_printable(text);
  const Json value = checked(text);
  try {
    static_cast<void>(reshard::json_of_cbor(std::as_bytes(std::span(data, size))).dump());
  } catch (const reshard::Error&) {
  } catch (const Json::type_error&) {  // text in CBOR that is not UTF-8
  }
  try {
    for (const auto& [file, tensors] : reshard::formats::read_weight_map(text, "index")) {
      const bool plain = file.find('/') == std::string::npos && file != ".." && !file.empty();
      if (!plain || tensors.empty()) __builtin_trap();
    }
  } catch (const reshard::Error& error) {
    if (error.kind() != reshard::Kind::input) __builtin_trap();
  }
  return 0;
}
