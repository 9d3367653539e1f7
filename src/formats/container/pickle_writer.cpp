#include "formats/container/pickle_writer.hpp"

#include <array>
#include <cstdint>
#include <limits>
#include <string_view>

#include "core/error.hpp"
#include "core/shape.hpp"
#include "formats/container/pickle_output.hpp"
#include "formats/container/pickle_tensor.hpp"
#include "formats/container/pickle_text.hpp"

namespace reshard::formats {
namespace {

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
    value(json);
    return out_.take();
  }

 private:
  void value(const Json& json) {
    switch (json.type()) {
      case Json::value_t::null:
        out_.op('N');
        break;
      case Json::value_t::boolean:
        out_.boolean(json.get<bool>());
        break;
      case Json::value_t::number_integer:
        out_.integer(json.get<std::int64_t>());
        break;
      case Json::value_t::number_unsigned:
        out_.natural(json.get<std::uint64_t>());
        break;
      case Json::value_t::number_float:
        out_.real(json.get<double>());
        break;
      case Json::value_t::string:
        out_.text(json.get_ref<const std::string&>());
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

  void big_integer(const std::string& decimal) {
    const std::string bytes = integer_bytes(decimal);
    out_.op('\x8a');
    out_.little_endian(bytes.size(), 1);
    out_.op(bytes);
  }

  void special_real(const std::string& name) {
    if (name == "nan") return out_.real(std::numeric_limits<double>::quiet_NaN());
    if (name == "inf") return out_.real(std::numeric_limits<double>::infinity());
    if (name == "-inf") return out_.real(-std::numeric_limits<double>::infinity());
    throw Error(Kind::input, "float \"" + name + "\" cannot be written");
  }

  void list(const Json& items) {
    out_.op(']');
    if (items.empty()) return;
    out_.op('(');
    for (const Json& item : items) value(item);
    out_.op('e');
  }

  void tuple(const Json& items) {
    constexpr std::array<char, 4> short_forms = {')', '\x85', '\x86', '\x87'};
    const bool is_short = items.size() < short_forms.size();
    if (!is_short) out_.op('(');
    for (const Json& item : items) value(item);
    out_.op(is_short ? short_forms[items.size()] : 't');
  }

  void naturals(const std::vector<std::uint64_t>& numbers) { tuple(Json(numbers)); }

  void dict(const Json& members) {
    out_.op('}');
    if (members.empty()) return;
    out_.op('(');
    for (const auto& [key, item] : members.items()) {
      out_.text(key);
      value(item);
    }
    out_.op('u');
  }

  void pairs(const Json& json) {
    if (json.contains("class")) {
      global(json["class"].get_ref<const std::string&>());
      out_.op(")R");
    } else {
      out_.op('}');
    }
    const Json& items = member(json, "items");
    if (items.empty()) return;
    out_.op('(');
    for (const Json& pair : items) {
      value(pair.at(0));
      value(pair.at(1));
    }
    out_.op('u');
  }

  /// "builtins" is what Python 2, whose protocol this is, calls "__builtin__".
  void global(const std::string& name) {
    const std::size_t dot = name.rfind('.');
    if (dot == std::string::npos || name.find('\n') != std::string::npos) {
      throw Error(Kind::input, "global \"" + name + "\" cannot be written");
    }
    const std::string module = name.substr(0, dot);
    out_.global(module == "builtins" ? "__builtin__" : module, name.substr(dot + 1));
  }

  void bytes(const std::string& content) {
    out_.global("_codecs", "encode");
    out_.text(latin1_to_utf8(content));
    out_.text("latin1");
    out_.op("\x86R");
  }

  void object(const Json& json) {
    if (json.contains("items") || json.contains("list")) {
      throw Error(Kind::input, "an object of " + member(json, "class").dump() +
                                   " that is a dict or list cannot be written");
    }
    const auto& class_name = member(json, "class").get_ref<const std::string&>();
    const Json& arguments = member(json, "args");
    if (json.contains("by")) {
      out_.global("__builtin__", "getattr");
      global(class_name);
      value(arguments.at(0));
      out_.op("\x86R");
      return;
    }
    global(class_name);
    tuple(arguments);
    // a call without arguments may do what a loader forbids; making an empty instance may not
    out_.op(arguments.empty() ? '\x81' : 'R');
    if (!json.contains("state")) return;
    value(json["state"]);
    out_.op('b');
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
    if (tag == "str")
      return out_.text(bytes_of_hex(member(json, "hex").get_ref<const std::string&>()));
    if (tag == "bytes")
      return bytes(bytes_of_hex(member(json, "hex").get_ref<const std::string&>()));
    if (tag == "set") {
      out_.global("__builtin__", "set");
      list(member(json, "items"));
      out_.op("\x85R");
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
    out_.global("torch._utils", storage.empty() ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2");
    out_.op("((");
    out_.text("storage");
    storage.empty() ? out_.global("torch.storage", "UntypedStorage")
                    : out_.global("torch", storage);
    out_.text(std::to_string(index));
    out_.text("cpu");
    out_.natural(storage.empty() ? checked_product(count, reshard::bytes(spec.dtype)) : count);
    out_.op("tQ");
    out_.natural(0);
    naturals(spec.shape);
    naturals(row_major(spec.shape));
    out_.op('\x89');
    out_.global("collections", "OrderedDict");
    out_.op(")R");
    if (storage.empty()) out_.global("torch", torch_name(spec.dtype));
    out_.op("tR");
  }

  std::span<const TensorSpec> tensors_;
  PickleOutput out_;
};

}  // namespace

std::string write_pickle(const Json& value, std::span<const TensorSpec> tensors) {
  return Writer(tensors).write(value);
}

}  // namespace reshard::formats
