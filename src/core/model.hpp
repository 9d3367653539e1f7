#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.hpp"
#include "core/layout.hpp"
#include "core/placement.hpp"
#include "core/shape.hpp"

namespace reshard {

/// One logical tensor of the model, whole and factorised (DESIGN.md section 1).
struct CanonicalTensor {
  std::string role;                  ///< "layers.7.attention.q.weight"
  std::string kind;                  ///< "weight", later "master", "exp_avg", "exp_avg_sq"
  std::vector<std::string> factors;  ///< slowest first
  Shape shape;
};

/// Whether a role is that of padding rows of a vocabulary, "embedding.padding.weight".
bool is_padding(std::string_view role);

/// The canonical tensors of a model, found by role; their order is the model's.
class CanonicalModel {
 public:
  /// Index of the new tensor; Error(internal) when the role is there already.
  std::uint32_t add(CanonicalTensor tensor);
  [[nodiscard]] const std::vector<CanonicalTensor>& tensors() const { return tensors_; }
  [[nodiscard]] const CanonicalTensor& operator[](std::uint32_t index) const {
    return tensors_[index];
  }
  /// Index by role (and kind "weight"), or none.
  static constexpr std::uint32_t none = ~std::uint32_t{0};
  [[nodiscard]] std::uint32_t find(std::string_view role) const;

 private:
  std::vector<CanonicalTensor> tensors_;
  std::map<std::string, std::uint32_t, std::less<>> by_role_;
};

/// A product of factors: heads = groups * heads_per_group (roles.json).
struct FactorProduct {
  std::string whole, slow, fast;
};

/// What a stored tensor holds that is a constant of the framework and no weight.
enum class Constant : std::uint8_t {
  none,
  causal_mask,   ///< [.., n, n] of bytes: 1 on and below the diagonal
  positions,     ///< [.., n] of i64: 0, 1, ...
  masked_score,  ///< one number, -10000
};

/// A tensor as it lies in a file.
struct StoredTensor {
  std::string name;  ///< in its file
  Shape shape;
  Dtype dtype = Dtype::f32;
  std::vector<std::uint32_t>
      parts;  ///< canonical tensors that its row names, also without a placement
  std::vector<Placement> placements;  ///< in elements of the row-major shape
  double add = 0;                     ///< stored value = canonical value + add (zero-centred norms)
  bool optional = false;              ///< may be absent from a source, is never written
  Constant constant = Constant::none;  ///< then it has no placements
  std::size_t repeats = 0;             ///< so many placements, the last, repeat elements for fill
};

/// One file with its stored tensors.
struct Shard {
  std::string path;  ///< relative to the checkpoint's folder
  std::vector<StoredTensor> tensors;
};

/// Puts a piece of a lowered layout into a canonical tensor: factors that the piece speaks of more
/// finely or coarsely than the tensor are translated by the products, what reaches beyond the
/// tensor (padding) is clipped. `fixed` pins factors that the stored tensor's name pins.
/// Error(input) when factors do not match.
std::vector<Placement> place(const Piece& piece, std::uint32_t index, const CanonicalTensor& tensor,
                             const Blocks& fixed, const std::vector<FactorProduct>& products,
                             const FactorSizes& sizes);

}  // namespace reshard
