#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "families/expression.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

constexpr std::uint32_t deepest = 100;  // levels of a tree: evaluation recurses

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool begins_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool in_word(char c) {
  return begins_word(c) || is_digit(c);
}

}  // namespace

/// Recursive descent over Python's precedence: or, and, not, comparison, + -, * / // %, [ ].
class ExpressionParser {
 public:
  explicit ExpressionParser(Expression& expression) : out_(expression), text_(expression.text_) {}

  void parse() {
    any_of();
    skip();
    if (at_ != text_.size()) refuse("unexpected");
  }

 private:
  using Kind = Expression::Kind;
  using Node = Expression::Node;

  [[noreturn]] void refuse(const std::string& what) const {
    const std::string rest = text_.substr(std::min(at_, text_.size()), 12);
    out_.fail(what + (rest.empty() ? " at the end" : " at " + shown(rest)));
  }

  void skip() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }

  bool take(std::string_view symbol) {
    skip();
    if (text_.compare(at_, symbol.size(), symbol) != 0) return false;
    at_ += symbol.size();
    return true;
  }

  bool take_word(std::string_view word) {
    skip();
    const std::size_t end = at_ + word.size();
    if (text_.compare(at_, word.size(), word) != 0) return false;
    if (end < text_.size() && in_word(text_[end])) return false;
    at_ = end;
    return true;
  }

  std::uint32_t add(Node node) {
    for (const std::uint32_t part : node.parts) {
      node.height = std::max(node.height, out_.nodes_[part].height + 1);
    }
    if (node.height > deepest) out_.fail("more than 100 levels deep");
    out_.nodes_.push_back(std::move(node));
    return static_cast<std::uint32_t>(out_.nodes_.size() - 1);
  }

  std::uint32_t add(Kind kind, std::vector<std::uint32_t> parts) {
    return add(Node{kind, {}, 0, std::move(parts), 1});
  }

  std::uint32_t any_of() {
    std::vector<std::uint32_t> parts{all_of()};
    while (take_word("or")) parts.push_back(all_of());
    return parts.size() == 1 ? parts[0] : add(Kind::any_of, std::move(parts));
  }

  std::uint32_t all_of() {
    std::vector<std::uint32_t> parts{negation()};
    while (take_word("and")) parts.push_back(negation());
    return parts.size() == 1 ? parts[0] : add(Kind::all_of, std::move(parts));
  }

  std::uint32_t negation() {
    const Level level(*this);
    if (!take_word("not")) return comparison();
    return add(Kind::negation, {negation()});
  }

  std::uint32_t comparison() {
    const std::uint32_t left = sum();
    const auto kind = comparison_sign();
    if (!kind) return left;
    Node node{*kind, {}, 0, {left}, 1};
    if (*kind == Kind::contained || *kind == Kind::not_contained) {
      if (take_word("integers")) {
        const std::uint32_t whole = add(Kind::whole_number, {left});
        return *kind == Kind::contained ? whole : add(Kind::negation, {whole});
      }
    }
    node.parts.push_back(sum());
    const std::uint32_t made = add(std::move(node));
    if (comparison_sign()) refuse("a second comparison");
    return made;
  }

  std::optional<Kind> comparison_sign() {
    if (take("==")) return Kind::equal;
    if (take("!=")) return Kind::unequal;
    if (take("<=")) return Kind::less_equal;
    if (take(">=")) return Kind::greater_equal;
    if (take("<")) return Kind::less;
    if (take(">")) return Kind::greater;
    if (take_word("in")) return Kind::contained;
    const std::size_t before = at_;
    if (take_word("not")) {
      if (take_word("in")) return Kind::not_contained;
      at_ = before;
    }
    return std::nullopt;
  }

  std::uint32_t sum() {
    std::uint32_t left = product();
    while (true) {
      if (take("+")) {
        left = add(Kind::add, {left, product()});
      } else if (take("-")) {
        left = add(Kind::subtract, {left, product()});
      } else {
        return left;
      }
    }
  }

  std::uint32_t product() {
    std::uint32_t left = element();
    while (true) {
      if (take("//")) {
        left = add(Kind::floor_divide, {left, element()});
      } else if (take("/")) {
        left = add(Kind::divide, {left, element()});
      } else if (take("*")) {
        left = add(Kind::multiply, {left, element()});
      } else if (take("%")) {
        left = add(Kind::modulo, {left, element()});
      } else {
        return left;
      }
    }
  }

  std::uint32_t element() {
    std::uint32_t made = atom();
    while (take("[")) {
      const Level level(*this);
      const std::uint32_t index = any_of();
      if (!take("]")) refuse("] is missing");
      made = add(Kind::subscript, {made, index});
    }
    return made;
  }

  std::uint32_t atom() {
    skip();
    if (take("(")) {
      const Level level(*this);
      const std::uint32_t inner = any_of();
      if (!take(")")) refuse(") is missing");
      return inner;
    }
    if (at_ == text_.size()) refuse("a value is missing");
    const char c = text_[at_];
    if (c == '\'' || c == '"') return literal(string(c));
    if (is_digit(c)) return literal(number());
    if (begins_word(c)) return word();
    refuse("unexpected");
  }

  std::uint32_t literal(Json value) { return add(Node{Kind::literal, std::move(value), 0, {}, 1}); }

  Json string(char quote) {
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string::npos) refuse("a quote is missing");
    const std::string value = text_.substr(at_ + 1, end - at_ - 1);
    if (value.find('\\') != std::string::npos) refuse("a backslash in a string");
    at_ = end + 1;
    return value;
  }

  Json number() {
    std::size_t end = at_;
    bool whole = true;
    while (end < text_.size() && (is_digit(text_[end]) || text_[end] == '.' || text_[end] == 'e' ||
                                  (text_[end] == '-' && text_[end - 1] == 'e'))) {
      whole = whole && is_digit(text_[end]);
      ++end;
    }
    if (end < text_.size() && in_word(text_[end])) refuse("no number");
    const char* const first = text_.data() + at_;
    const char* const last = text_.data() + end;
    std::int64_t integer = 0;
    double real = 0;
    const auto [stop, error] =
        whole ? std::from_chars(first, last, integer) : std::from_chars(first, last, real);
    if (error != std::errc() || stop != last) refuse("no number");
    at_ = end;
    return whole ? Json(integer) : Json(real);
  }

  std::uint32_t word() {
    std::size_t end = at_;
    while (end < text_.size() && in_word(text_[end])) ++end;
    const std::string found = text_.substr(at_, end - at_);
    for (const std::string_view reserved : {"and", "or", "not", "in", "integers"}) {
      if (found == reserved) refuse("unexpected");
    }
    at_ = end;
    if (found == "true") return literal(true);
    if (found == "false") return literal(false);
    if (found == "null") return literal(nullptr);
    auto& names = out_.names_;
    const auto known = std::find(names.begin(), names.end(), found);
    const auto index = static_cast<std::uint32_t>(known - names.begin());
    if (known == names.end()) names.push_back(found);
    return add(Node{Kind::name, {}, index, {}, 1});
  }

  /// One level of parentheses, brackets or `not` while it is being parsed.
  struct Level {
    explicit Level(ExpressionParser& owner) : parser(owner) {
      if (++parser.depth_ > 3 * deepest) parser.out_.fail("more than 100 levels deep");
    }
    ~Level() { --parser.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ExpressionParser& parser;
  };

  Expression& out_;
  const std::string& text_;
  std::size_t at_ = 0;
  std::uint32_t depth_ = 0;
};

Expression::Expression(std::string_view text) : text_(text) {
  ExpressionParser(*this).parse();
}

}  // namespace reshard::families
