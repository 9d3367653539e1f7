#include "formats/container/safetensors_header.hpp"

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "core/error.hpp"

namespace reshard::formats {
namespace {

constexpr std::uint64_t most_dimensions = 64;  // torch's limit
// The largest models have 0.2 million tensors in all their files; a header of 100 MB could hold
// two.
constexpr std::uint64_t most_tensors = 250'000;
constexpr std::uint64_t most_values = 5'000'000, most_space = std::uint64_t{8} << 20;
constexpr std::uint64_t longest_text = std::uint64_t{8} << 20, longest_number = 100;
constexpr std::uint64_t longest_name = std::uint64_t{64} << 10;
/// Of names, shapes and metadata in memory; of the last there are few entries.
constexpr std::uint64_t most_bytes = std::uint64_t{64} << 20, metadata_cost = 512;
constexpr int deepest = 32;

[[noreturn]] void refuse(const std::string& text) {
  throw Error(Kind::input, text);
}

/// Refuses a count beyond what files have.
void limit(std::uint64_t seen, std::uint64_t most, const char* what) {
  if (seen > most) refuse("header: more than " + std::to_string(most) + " " + what);
}

/// The header's bytes one by one, of which one piece at a time is in memory.
class HeaderText {
 public:
  HeaderText(const ByteSource& source, std::uint64_t begin, std::uint64_t bytes)
      : source_(&source), at_(begin), left_(bytes) {}

  /// Whether there is another piece; it replaces the one before.
  bool next() {
    const auto bytes = static_cast<std::size_t>(std::min<std::uint64_t>(left_, 1 << 16));
    piece_ = read_bytes(*source_, at_, bytes, "header");
    at_ += bytes;
    left_ -= bytes;
    return bytes > 0;
  }
  const std::string& piece() const { return piece_; }

 private:
  const ByteSource* source_;
  std::uint64_t at_, left_;
  std::string piece_;
};

/// The text's characters for the parser, read once from front to back.
class Characters {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  Characters() = default;
  explicit Characters(HeaderText& text) : text_(&text) { fill(); }

  char operator*() const { return *at_; }
  Characters& operator++() {
    if (++at_ == end_) fill();
    return *this;
  }
  Characters operator++(int) {
    Characters before = *this;
    ++*this;
    return before;
  }
  bool operator==(const Characters& other) const { return at_ == other.at_; }
  bool operator!=(const Characters& other) const { return at_ != other.at_; }

 private:
  void fill() {
    const bool more = text_->next();
    at_ = more ? text_->piece().data() : nullptr;
    end_ = more ? at_ + text_->piece().size() : nullptr;
  }

  HeaderText* text_ = nullptr;
  const char *at_ = nullptr, *end_ = nullptr;
};

/// A quick look at the whole text, so that the parser meets nothing that takes long or much.
class Look {
 public:
  void take(char c) {
    if (in_text_) return inside(c);
    switch (c) {
      case '\0':
        refuse("header is not JSON: it contains a NUL");
      case '"':
        in_text_ = true;
        length_ = 0;
        return;
      case ' ':
      case '\t':
      case '\r':
      case '\n':
        limit(++space_, most_space, "bytes of white space");
        return;
      case '{':
      case '[':
        begin(c);
        return;
      case '}':
      case ']':
        --depth_;
        break;
      case ',':
        limit(++values_, most_values, "values");
        break;
      default:
        limit(++length_, longest_number, "digits of a number");
        return;
    }
    length_ = 0;
  }

  void end() const {
    if (!began_) refuse("header is not a JSON object");
  }

 private:
  void inside(char c) {
    if (c == '\0') refuse("header is not JSON: it contains a NUL");
    limit(++length_, longest_text, "bytes of a text");
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_text_ = false;
      length_ = 0;
    }
  }

  void begin(char c) {
    // The parser would skip a byte order mark.
    if (!began_ && (c != '{' || length_ != 0)) refuse("header is not a JSON object");
    began_ = true;
    length_ = 0;
    if (c == '{') limit(++objects_, most_tensors + 2, "tensors");
    if (++depth_ > deepest) refuse("header: nested deeper than " + std::to_string(deepest));
  }

  bool in_text_ = false, escaped_ = false, began_ = false;
  int depth_ = 0;
  std::uint64_t length_ = 0, space_ = 0, values_ = 0, objects_ = 0;
};

/// Takes the header's events, so that nothing wrong in it is ever held in memory.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader header;

  bool null() override {
    if (depth_ == 1 && in_metadata_) return true;
    return scalar("null");
  }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t value) override { return scalar(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return scalar(text); }
  bool binary(binary_t&) override { return scalar("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_numbers_ || depth_ != 3) return scalar(std::to_string(value));
    if (numbers_.size() == most_dimensions) {
      wrong("more than " + std::to_string(most_dimensions) + " numbers");
    }
    numbers_.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) {
      charge(2 * value.size());
      // Past the container's own insertion, which looks through all keys before.
      header.metadata->get_ref<Json::object_t&>().emplace_back(key_, value);
      return true;
    }
    if (depth_ != 2 || key_ != "dtype") return scalar("\"" + value + "\"");
    once(has_dtype_);
    const std::optional<Dtype> dtype = dtype_of_name(value);
    if (!dtype) wrong("\"" + value + "\" is unknown");
    tensor().entry.dtype = *dtype;
    return true;
  }

  bool key(string_t& value) override {
    if (value.size() > longest_name) {
      refuse("header: a name of " + std::to_string(value.size()) + " bytes, at most " +
             std::to_string(longest_name) + " are read: " + value);
    }
    if (depth_ == 1) {
      in_metadata_ = value == safetensors_metadata;
      if (in_metadata_ && seen_metadata_) refuse("duplicate " + value);
      seen_metadata_ |= in_metadata_;
      if (!in_metadata_) add(value);
    }
    if (depth_ == 2 && in_metadata_) charge(value.size() + metadata_cost);
    if (depth_ <= 2) key_ = value;
    return true;
  }

  bool start_object(std::size_t) override {
    if (depth_ == 1 && in_metadata_) header.metadata = Json::object();
    if (depth_ >= 2) skipped("an object");
    ++depth_;
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ == 2 && !in_metadata_ && (key_ == "shape" || key_ == "data_offsets")) {
      once(key_ == "shape" ? has_shape_ : has_offsets_);
      in_numbers_ = true;
      numbers_.clear();
    } else if (depth_ >= 2) {
      skipped("an array");
    } else {
      wrong("an array, wanted an object");
    }
    ++depth_;
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1 && !in_metadata_) finish();
    return true;
  }

  bool end_array() override {
    --depth_;
    if (in_numbers_ && depth_ == 2) take_numbers();
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    refuse("header is not JSON at byte " + std::to_string(position) + ": " + error.what());
  }

 private:
  HeaderTensor& tensor() { return header.tensors.back(); }
  const std::string& name() const { return header.tensors.back().entry.name; }

  [[noreturn]] void wrong(const std::string& text) const {
    std::string where = "header";
    if (depth_ >= 1) where = in_metadata_ ? safetensors_metadata : name();
    if (depth_ >= 2) where += ": " + key_;
    refuse(where + ": " + text);
  }

  void charge(std::uint64_t bytes) {
    bytes_ += bytes;
    limit(bytes_, most_bytes, "bytes of names, shapes and metadata");
  }

  void once(bool& seen) {
    if (seen) wrong("duplicate");
    seen = true;
  }

  void add(const std::string& name) {
    charge(name.size());
    HeaderTensor added;
    added.entry.name = name;
    header.tensors.push_back(std::move(added));
    has_dtype_ = has_shape_ = has_offsets_ = false;
  }

  void take_numbers() {
    in_numbers_ = false;
    if (key_ == "shape") {
      charge(numbers_.size() * sizeof(std::uint64_t));
      tensor().entry.shape = numbers_;
      return;
    }
    if (numbers_.size() != 2) wrong("wanted two unsigned integers");
    tensor().entry.offset = numbers_[0];
    tensor().end = numbers_[1];
  }

  void finish() const {
    if (!has_offsets_) refuse(name() + ": data_offsets: wanted two unsigned integers");
    if (!has_dtype_) refuse(name() + ": no dtype");
    if (!has_shape_) refuse(name() + ": no shape");
  }

  /// A value that is neither looked for nor, below an unknown key of a tensor, to be ignored.
  bool scalar(const std::string& seen) {
    skipped(seen);
    return true;
  }

  void skipped(const std::string& seen) {
    if (depth_ < 2) wrong(seen + ", wanted an object");
    if (in_metadata_) wrong(seen + ", wanted a string");
    if (key_ == "dtype") wrong(seen + ", wanted a string");
    if (key_ == "shape" || key_ == "data_offsets") wrong(seen + ", wanted unsigned integers");
  }

  int depth_ = 0;
  bool in_metadata_ = false, seen_metadata_ = false;
  std::string key_;
  /// The list of numbers that is being read, and what the current tensor has.
  bool in_numbers_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  Shape numbers_;
  std::uint64_t bytes_ = 0;
};

}  // namespace

SafetensorsHeader read_safetensors_header(const ByteSource& source, std::uint64_t begin,
                                          std::uint64_t bytes) {
  Look look;
  for (HeaderText text(source, begin, bytes); text.next();) {
    for (const char c : text.piece()) look.take(c);
  }
  look.end();
  HeaderText text(source, begin, bytes);
  HeaderReader reader;
  nlohmann::json::sax_parse(Characters(text), Characters(), &reader);
  return std::move(reader.header);
}

}  // namespace reshard::formats
