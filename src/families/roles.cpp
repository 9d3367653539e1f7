#include <algorithm>
#include <tuple>

#include "core/error.hpp"
#include "families/family.hpp"
#include "families/table.hpp"

namespace reshard::families {

namespace {

constexpr std::string_view layer_prefix = "layers.{l}.";

Roles load_roles() {
  const Json table = embedded_table("roles.json");
  Roles made;
  for (const auto& [role, factors] : table.at("roles").items()) {
    made.factors.emplace_back(role, texts(factors, role));
  }
  for (const auto& [whole, factors] : table.at("products").items()) {
    made.products[whole] = {factors.at(0), factors.at(1)};
  }
  return made;
}

/// The extent of a factor in this model.
std::uint64_t extent(const Record& record, const std::string& factor) {
  const auto found = record.find(factor);
  const bool counts = found != record.end() && found->is_number_integer() &&
                      (found->is_number_unsigned() || found->get<std::int64_t>() > 0) &&
                      found->get<std::uint64_t>() > 0;
  if (counts) return found->get<std::uint64_t>();
  throw Error(Kind::input, factor + " is " + (found == record.end() ? "unknown" : shown(*found)) +
                               ", a positive whole number is wanted");
}

/// Before the layers, a layer, behind them; then layer and place in roles.json: the model's order.
using Order = std::tuple<int, std::uint64_t, std::size_t>;

Order order_of(const std::string& role, std::uint64_t layer) {
  const auto& all = roles().factors;
  const std::size_t position = roles().position_of(role);
  if (role.starts_with(layer_prefix)) return {1, layer, position};
  const auto first = std::find_if(all.begin(), all.end(), [](const auto& each) {
    return each.first.starts_with(layer_prefix);
  });
  return {position < static_cast<std::size_t>(first - all.begin()) ? 0 : 2, 0, position};
}

}  // namespace

const std::vector<std::string>& Roles::factors_of(std::string_view wanted) const {
  const std::size_t position = position_of(wanted);
  if (position < factors.size()) return factors[position].second;
  throw Error(Kind::input, "no role is called " + std::string(wanted));
}

std::size_t Roles::position_of(std::string_view wanted) const {
  const auto found = std::find_if(factors.begin(), factors.end(),
                                  [&](const auto& each) { return each.first == wanted; });
  return static_cast<std::size_t>(found - factors.begin());
}

const Roles& roles() {
  static const Roles loaded = load_roles();
  return loaded;
}

std::string role_template(std::string_view role) {
  constexpr std::string_view begin = "layers.";
  if (!role.starts_with(begin)) return std::string(role);
  const std::size_t end = role.find_first_not_of("0123456789", begin.size());
  if (end == std::string_view::npos || end == begin.size() || role[end] != '.') {
    return std::string(role);
  }
  return std::string(layer_prefix) + std::string(role.substr(end + 1));
}

std::vector<RoleTensor> canonical_tensors(const Family& family, const Record& record) {
  std::vector<Row> rows = family.rows_of(family.forms().front());
  std::erase_if(rows, [](const Row& row) { return row.optional; });
  std::map<Order, RoleTensor> tensors;
  for (const Instance& instance : instances(rows, record)) {
    // One of a role's experts stands for all.
    if (instance.expert.value_or(0) != 0) continue;
    for (const auto& [part, role] : instance.row->parts) {
      RoleTensor& tensor = tensors[order_of(role, instance.layer.value_or(0))];
      if (!tensor.role.empty()) continue;
      tensor.role = concrete(role, instance);
      tensor.role_template = role;
      tensor.factors = roles().factors_of(role);
      for (const std::string& factor : tensor.factors) {
        tensor.shape.push_back(with_context(tensor.role, [&] { return extent(record, factor); }));
      }
    }
  }
  std::vector<RoleTensor> list;
  for (auto& [order, tensor] : tensors) list.push_back(std::move(tensor));
  return list;
}

}  // namespace reshard::families
