#include "core/checked_json.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace reshard {
namespace {

[[noreturn]] void refuse(const std::string& text) {
  throw Error(Kind::input, text);
}

/// Builds a value from the parser's events. Keys are added without the search that Json makes and
/// compared at an object's end, so that a million of them cost no more than their size.
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const JsonLimits& limits) : limits_(limits) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& /*text*/) override { return add(value); }
  bool string(string_t& value) override {
    charge(value.size());
    return add(std::move(value));
  }
  bool binary(binary_t& /*value*/) override { refuse("holds binary data"); }

  bool key(string_t& value) override {
    charge(value.size());
    open_.back()->get_ref<Json::object_t&>().emplace_back(std::move(value), nullptr);
    return true;
  }
  bool start_object(std::size_t /*elements*/) override { return open(Json::object()); }
  bool start_array(std::size_t /*elements*/) override { return open(Json::array()); }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool end_object() override {
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : open_.back()->items()) keys.push_back(key);
    std::ranges::sort(keys);
    const auto twice = std::ranges::adjacent_find(keys);
    if (twice != keys.end()) refuse("duplicate key " + std::string(*twice));
    open_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    refuse("not JSON at byte " + std::to_string(position) + ": " + error.what());
  }

 private:
  void charge(std::uint64_t text_bytes) {
    bytes_ += sizeof(Json::object_t::value_type) + text_bytes;
    if (bytes_ > limits_.bytes) {
      refuse("too much JSON: more than " + std::to_string(limits_.bytes) + " bytes in memory");
    }
  }

  /// Puts a value where the next one belongs and returns its place.
  Json& put(Json value) {
    charge(0);
    if (open_.empty()) return root_ = std::move(value);
    Json& parent = *open_.back();
    if (parent.is_object()) {
      return parent.get_ref<Json::object_t&>().back().second = std::move(value);
    }
    return parent.get_ref<Json::array_t&>().emplace_back(std::move(value));
  }

  bool add(Json value) {
    put(std::move(value));
    return true;
  }

  bool open(Json value) {
    if (open_.size() == static_cast<std::size_t>(limits_.depth)) {
      refuse("nested too deep: more than " + std::to_string(limits_.depth) + " levels");
    }
    open_.push_back(&put(std::move(value)));
    return true;
  }

  const JsonLimits& limits_;
  Json root_;
  /// Objects and arrays around the next value; a container does not move while it is the last one.
  std::vector<Json*> open_;
  std::uint64_t bytes_ = 0;
};

}  // namespace

Json json_of_text(std::string_view text, const JsonLimits& limits) {
  Builder builder(limits);
  const std::size_t nul = text.find('\0');  // which the library takes for the end
  if (nul != std::string_view::npos) refuse("not JSON at byte " + std::to_string(nul) + ": NUL");
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

Json json_of_cbor(std::span<const std::byte> bytes, const JsonLimits& limits) {
  Builder builder(limits);
  const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
  Json::sax_parse(begin, begin + bytes.size(), &builder, nlohmann::detail::input_format_t::cbor);
  return builder.take();
}

}  // namespace reshard
