#include "formats/container/torch_legacy.hpp"

#include <algorithm>
#include <cstring>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

/// LONG1 of the magic number, behind the two bytes of the protocol.
constexpr std::string_view magic = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr std::string_view magic_decimal = "119547037146038801333356";
constexpr int protocol_version = 1001;
constexpr std::uint64_t first_window = 1 << 16;
constexpr std::uint64_t count_size = 8;

/// Reads pickles one behind another. Their lengths are not known, so the window grows until one
/// ends inside it.
class PickleStream {
 public:
  PickleStream(const ByteSource& source, const PickleLimits& limits)
      : source_(source), limits_(limits) {}

  PickleValue next(const char* what) {
    for (std::uint64_t window = first_window;; window *= 4) {
      const std::uint64_t size = std::min({window, source_.size - position_, limits_.bytes});
      const std::string bytes = read_bytes(source_, position_, size, what);
      auto value = with_context(
          what, [&] { return try_read_pickle(std::as_bytes(std::span(bytes)), limits_); });
      if (value) {
        position_ += value->bytes;
        return std::move(*value);
      }
      if (size < window) {
        throw Error(Kind::input, std::string(what) + ": the pickle does not end within " +
                                     std::to_string(size) + " bytes");
      }
    }
  }

  std::uint64_t position() const { return position_; }

 private:
  const ByteSource& source_;
  const PickleLimits& limits_;
  std::uint64_t position_ = 0;
};

void check_header(PickleStream& stream) {
  const Json number = stream.next("magic number").value;
  if (!number.is_object() || number.value("value", "") != magic_decimal) {
    throw Error(Kind::input, "not the magic number of torch");
  }
  if (const Json version = stream.next("protocol version").value; version != protocol_version) {
    throw Error(Kind::input, "legacy protocol " + version.dump() + ", 1001 is supported");
  }
  const Json system = stream.next("system information").value;
  const bool little =
      system.is_object() && system.contains("little_endian") && system["little_endian"] == true;
  if (!little) throw Error(Kind::input, "its byte order is big, only little is supported");
}

std::uint64_t count_at(const ByteSource& source, std::uint64_t position, const std::string& key) {
  const std::string bytes = read_bytes(source, position, count_size, "storage " + key);
  std::uint64_t count = 0;
  std::memcpy(&count, bytes.data(), count_size);
  return count;
}

}  // namespace

bool is_torch_legacy(std::string_view head) {
  return head.size() > 2 && head[0] == '\x80' && head.substr(2).starts_with(magic);
}

TorchContent read_torch_legacy(const ByteSource& source, const PickleLimits& limits) {
  PickleStream stream(source, limits);
  check_header(stream);
  TorchContent content{stream.next("object"), {}};
  const Json keys = stream.next("storage keys").value;
  if (!keys.is_array()) throw Error(Kind::input, "storage keys: not a list");
  std::uint64_t position = stream.position();
  for (const Json& name : keys) {
    const auto use = name.is_string() ? content.pickle.storages.find(name.get<std::string>())
                                      : content.pickle.storages.end();
    if (use == content.pickle.storages.end()) {
      throw Error(Kind::input, "storage " + name.dump() + " is listed but not in the pickle");
    }
    const auto& [key, storage] = *use;
    const std::uint64_t count = count_at(source, position, key);
    position += count_size;
    if (count != storage.elements) {
      throw Error(Kind::input, "storage " + key + " has " + std::to_string(count) +
                                   " elements, the pickle says " +
                                   std::to_string(storage.elements));
    }
    if (storage.bytes > source.size - position) {
      throw Error(Kind::input,
                  "storage " + key + " of " + std::to_string(storage.bytes) + " bytes is cut off");
    }
    if (!content.offsets.emplace(key, position).second) {
      throw Error(Kind::input, "storage " + key + " is listed twice");
    }
    position += storage.bytes;
  }
  if (position != source.size) {
    throw Error(Kind::input,
                std::to_string(source.size - position) + " bytes follow the last storage");
  }
  return content;
}

}  // namespace reshard::formats
