#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/layout.hpp"
#include "core/model.hpp"
#include "families/dialect_table.hpp"
#include "families/family.hpp"

namespace reshard::formats {

/// Rows of a table, held against one model: which stand for a tensor of it, and what those store.
class Rows {
 public:
  /// `names`: the record with the choices, degrees and padded sizes laid over it. The model must
  /// outlive this. `repeat_last`: rows of vocabulary padding that the model has not repeat its last
  /// row, instead of being left to the fill.
  Rows(std::vector<families::Row> rows, Json names, const CanonicalModel& model,
       bool repeat_last = false);

  struct Indices {
    std::optional<std::uint64_t> layer, expert;
  };

  /// Whether the row's `when` holds for that layer.
  [[nodiscard]] bool holds(std::size_t row, std::optional<std::uint64_t> layer) const;
  /// Whether the model has all roles of the row for that layer.
  [[nodiscard]] bool has_roles(std::size_t row, std::optional<std::uint64_t> layer) const;
  /// The stored tensor of a row, each factor restricted to its block.
  [[nodiscard]] StoredTensor stored(std::size_t row, std::string name, Indices indices,
                                    const Blocks& blocks) const;
  /// A row's layout for the whole model.
  [[nodiscard]] Lowered lowered(std::size_t row) const;
  /// Size of a factor as the row stores it (padded where the row pads it).
  [[nodiscard]] std::uint64_t size(const families::Row& row, std::string_view factor) const;
  /// One of `ranks` equal parts of a factor; Error(input) when there are none.
  [[nodiscard]] FactorBlock block(const families::Row& row, std::string_view factor,
                                  std::uint64_t rank, std::uint64_t ranks) const;
  [[nodiscard]] const std::vector<families::Row>& rows() const { return rows_; }
  [[nodiscard]] const Json& names() const { return names_; }
  [[nodiscard]] const std::string& role(std::uint32_t tensor) const {
    return (*model_)[tensor].role;
  }
  /// Whether a row's roles have a layer, and so does its name in one way or another.
  [[nodiscard]] bool is_layered(std::size_t row) const;

 private:
  std::vector<families::Row> rows_;
  std::vector<Layout> layouts_;
  std::vector<std::optional<Layout>> views_;
  Json names_;
  std::vector<FactorProduct> products_;
  const CanonicalModel* model_;
  bool repeat_last_;

  void add_padding_rows(const std::string& role, const Piece& piece, const FactorSizes& sizes,
                        StoredTensor& tensor) const;
};

/// The role that holds a vocabulary's padding rows: "embedding.weight" ->
/// "embedding.padding.weight".
std::string padding_role(std::string_view role);

/// Adds the canonical tensors of the padding rows that a padded vocabulary has (DESIGN.md section
/// 1.2): none when it is not padded.
void add_padding(CanonicalModel& model, std::uint64_t vocab, std::uint64_t padded_vocab);

/// Elements of all tensors, padding left out.
std::uint64_t parameter_count(const CanonicalModel& model);

/// Roles of the model, other than padding, that no stored tensor places: what a dialect cannot
/// hold.
std::vector<std::string> uncovered_roles(const CanonicalModel& model,
                                         const std::vector<bool>& covered);

}  // namespace reshard::formats
