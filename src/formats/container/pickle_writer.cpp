#include "formats/container/pickle_writer.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <string_view>

#include "core/error.hpp"
#include "core/shape.hpp"
#include "formats/container/pickle_tensor.hpp"
#include "formats/container/pickle_text.hpp"

namespace reshard::formats {
namespace {

constexpr std::uint64_t max_text = 0xffffffff;

/// A member of a tagged value; Error(input) naming tag and member when it is missing.
const Json& member(const Json& value, const char* key) {
  const auto found = value.find(key);
  if (found != value.end()) return *found;
  throw Error(Kind::input, "a " + value["!"].dump() + " without " + key + " cannot be written");
}

class Writer {
 public:
  explicit Writer(std::span<const TensorSpec> tensors) : tensors_(tensors) {}

  std::string write(const Json& json) {
    out_ = "\x80\x02";
    value(json);
    out_ += '.';
    return std::move(out_);
  }

 private:
  void little_endian(std::uint64_t number, int width) {
    for (int i = 0; i < width; ++i) out_ += static_cast<char>(number >> (8 * i));
  }

  void value(const Json& json) {
    switch (json.type()) {
      case Json::value_t::null:
        out_ += 'N';
        break;
      case Json::value_t::boolean:
        out_ += json.get<bool>() ? '\x88' : '\x89';
        break;
      case Json::value_t::number_integer:
        integer(json.get<std::int64_t>());
        break;
      case Json::value_t::number_unsigned:
        natural(json.get<std::uint64_t>());
        break;
      case Json::value_t::number_float:
        real(json.get<double>());
        break;
      case Json::value_t::string:
        text(json.get_ref<const std::string&>());
        break;
      case Json::value_t::array:
        list(json);
        break;
      case Json::value_t::object:
        json.contains("!") ? tagged(json) : dict(json);
        break;
      default:
        throw Error(Kind::internal, "a JSON value of a kind that pickle lacks");
    }
  }

  void natural(std::uint64_t number) {
    if (number <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return integer(static_cast<std::int64_t>(number));
    }
    out_ += "\x8a\x09";
    little_endian(number, 8);
    out_ += '\0';
  }

  void integer(std::int64_t number) {
    const auto bits = static_cast<std::uint64_t>(number);
    if (number >= 0 && number <= 0xff) {
      out_ += 'K';
      little_endian(bits, 1);
    } else if (number >= 0 && number <= 0xffff) {
      out_ += 'M';
      little_endian(bits, 2);
    } else if (number == static_cast<std::int32_t>(number)) {
      out_ += 'J';
      little_endian(bits, 4);
    } else {
      out_ += "\x8a\x08";
      little_endian(bits, 8);
    }
  }

  void big_integer(const std::string& decimal) {
    const std::string bytes = integer_bytes(decimal);
    out_ += '\x8a';
    little_endian(bytes.size(), 1);
    out_ += bytes;
  }

  void real(double number) {
    const auto bits = std::bit_cast<std::uint64_t>(number);
    out_ += 'G';
    for (int shift = 56; shift >= 0; shift -= 8) out_ += static_cast<char>(bits >> shift);
  }

  void special_real(const std::string& name) {
    if (name == "nan") return real(std::numeric_limits<double>::quiet_NaN());
    if (name == "inf") return real(std::numeric_limits<double>::infinity());
    if (name == "-inf") return real(-std::numeric_limits<double>::infinity());
    throw Error(Kind::input, "float \"" + name + "\" cannot be written");
  }

  void text(std::string_view utf8) {
    if (utf8.size() > max_text) throw Error(Kind::input, "a text above 4 GiB cannot be written");
    out_ += 'X';
    little_endian(utf8.size(), 4);
    out_ += utf8;
  }

  void list(const Json& items) {
    out_ += ']';
    if (items.empty()) return;
    out_ += '(';
    for (const Json& item : items) value(item);
    out_ += 'e';
  }

  void tuple(const Json& items) {
    constexpr std::array<char, 4> short_forms = {')', '\x85', '\x86', '\x87'};
    const bool is_short = items.size() < short_forms.size();
    if (!is_short) out_ += '(';
    for (const Json& item : items) value(item);
    out_ += is_short ? short_forms[items.size()] : 't';
  }

  void naturals(const std::vector<std::uint64_t>& numbers) { tuple(Json(numbers)); }

  void dict(const Json& members) {
    out_ += '}';
    if (members.empty()) return;
    out_ += '(';
    for (const auto& [key, item] : members.items()) {
      text(key);
      value(item);
    }
    out_ += 'u';
  }

  void pairs(const Json& json) {
    if (json.contains("class")) {
      global(json["class"].get_ref<const std::string&>());
      out_ += ")R";
    } else {
      out_ += '}';
    }
    const Json& items = member(json, "items");
    if (items.empty()) return;
    out_ += '(';
    for (const Json& pair : items) {
      value(pair.at(0));
      value(pair.at(1));
    }
    out_ += 'u';
  }

  void global(std::string_view module, std::string_view name) {
    out_ += 'c';
    out_ += module;
    out_ += '\n';
    out_ += name;
    out_ += '\n';
  }

  /// "builtins" is what Python 2, whose protocol this is, calls "__builtin__".
  void global(const std::string& name) {
    const std::size_t dot = name.rfind('.');
    if (dot == std::string::npos || name.find('\n') != std::string::npos) {
      throw Error(Kind::input, "global \"" + name + "\" cannot be written");
    }
    const std::string module = name.substr(0, dot);
    global(module == "builtins" ? "__builtin__" : module, name.substr(dot + 1));
  }

  void bytes(const std::string& content) {
    global("_codecs", "encode");
    text(latin1_to_utf8(content));
    text("latin1");
    out_ += "\x86R";
  }

  void object(const Json& json) {
    if (json.contains("items") || json.contains("list")) {
      throw Error(Kind::input, "an object of " + member(json, "class").dump() +
                                   " that is a dict or list cannot be written");
    }
    const auto& class_name = member(json, "class").get_ref<const std::string&>();
    const Json& arguments = member(json, "args");
    if (json.contains("by")) {
      global("__builtin__", "getattr");
      global(class_name);
      value(arguments.at(0));
      out_ += "\x86R";
      return;
    }
    global(class_name);
    tuple(arguments);
    // a call without arguments may do what a loader forbids; making an empty instance may not
    out_ += arguments.empty() ? '\x81' : 'R';
    if (!json.contains("state")) return;
    value(json["state"]);
    out_ += 'b';
  }

  void tagged(const Json& json) {
    const Json& tag = json["!"];
    if (tag == "tensor") return tensor(member(json, "index").get<std::uint64_t>());
    if (tag == "tuple") return tuple(member(json, "items"));
    if (tag == "dict") return pairs(json);
    if (tag == "object") return object(json);
    if (tag == "global") return global(member(json, "name").get_ref<const std::string&>());
    if (tag == "int") return big_integer(member(json, "value").get_ref<const std::string&>());
    if (tag == "float") return special_real(member(json, "value").get_ref<const std::string&>());
    if (tag == "str") return text(bytes_of_hex(member(json, "hex").get_ref<const std::string&>()));
    if (tag == "bytes")
      return bytes(bytes_of_hex(member(json, "hex").get_ref<const std::string&>()));
    if (tag == "set") {
      global("__builtin__", "set");
      list(member(json, "items"));
      out_ += "\x85R";
      return;
    }
    throw Error(Kind::input, "a value tagged " + tag.dump() + " cannot be written");
  }

  /// torch._utils._rebuild_tensor_v2, or _v3 over bytes for the dtypes without a storage class.
  void tensor(std::uint64_t index) {
    if (index >= tensors_.size()) {
      throw Error(Kind::internal, "a value names tensor " + std::to_string(index) + " of " +
                                      std::to_string(tensors_.size()));
    }
    const TensorSpec& spec = tensors_[index];
    const std::string_view storage = storage_of_dtype(spec.dtype);
    const std::uint64_t count = elements(spec.shape);
    global("torch._utils", storage.empty() ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2");
    out_ += "((";
    text("storage");
    storage.empty() ? global("torch.storage", "UntypedStorage") : global("torch", storage);
    text(std::to_string(index));
    text("cpu");
    natural(storage.empty() ? checked_product(count, reshard::bytes(spec.dtype)) : count);
    out_ += "tQ";
    natural(0);
    naturals(spec.shape);
    naturals(row_major(spec.shape));
    out_ += '\x89';
    global("collections", "OrderedDict");
    out_ += ")R";
    if (storage.empty()) global("torch", torch_name(spec.dtype));
    out_ += "tR";
  }

  std::span<const TensorSpec> tensors_;
  std::string out_;
};

}  // namespace

std::string write_pickle(const Json& value, std::span<const TensorSpec> tensors) {
  return Writer(tensors).write(value);
}

}  // namespace reshard::formats
