#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace reshard {

/// A tensor's 128-bit linear keyed digest (DESIGN.md section 4, Digest and manifest): two lanes
/// modulo p = 2^61 - 1. Digests of disjoint parts add up to the whole's, in any order.
///
/// The tensor is its bytes in canonical row-major order, little-endian, cut into 32-bit words x_j
/// and blocks of 256 words; a part is the whole with zeros for all it lacks. With fixed random keys
/// k_i[j] in [0, 2^24), c_l[i] in [0, p) and a pseudorandom r_l(b) in [1, p),
///
///     H_i(b) = sum_j k_i[j] x_j         5 sums, i = 0..4, exact integers below 2^64
///     D_l    = sum_b r_l(b) sum_i c_l[i] H_i(b) mod p         l = 0, 1
///
/// Nothing wraps before the reduction by p, so D is linear in the bytes: that is why parts add up.
///
/// Bound. Take two tensors of one size that differ, neither chosen with the keys in mind, and a
/// block where they do. Let d_j, |d_j| < 2^32, be the differences of its words, some d_m not 0. For
/// given other keys, at most one k_i[m] makes the difference of H_i vanish mod p: two would give
/// (k - k') d_m = 0 mod p with a product below 2^56 < p. So all five vanish with probability at
/// most 2^-120. Else each sum_i c_l[i] dH_i is uniform mod p and vanishes with probability 1/p;
/// else, the other blocks given, at most one value of r_l(b), of probability at most 9/2^64, makes
/// D_l equal. Together at most 2^-120 + (1/p + 9/2^64)^2 < 2^-118. Zero words contribute nothing:
/// the shape is to be compared too. The keys are public constants and r is a mixer taken for
/// random: the digest guards against accidents, not against forgers.
struct Digest {
  std::uint64_t low = 0, high = 0;  ///< D_0 and D_1, each below p
  friend bool operator==(const Digest&, const Digest&) = default;
  Digest& operator+=(const Digest& other);
  std::string hex() const;  ///< 32 digits, high first
};

/// Instructions of the inner loop; a digest's value does not depend on them.
enum class DigestKernel { portable, avx2 };

/// The best kernel of this machine.
DigestKernel fastest_digest_kernel();

/// Digest of contiguous elements whose first has canonical index `first_index`; element_bytes is 1,
/// 2, 4, 8 or 16 and the span holds whole elements, else Error(internal).
Digest digest_run(std::span<const std::byte> elements, std::uint64_t element_bytes,
                  std::uint64_t first_index, DigestKernel kernel = fastest_digest_kernel());

/// Digest of a box (at most 8 dimensions): element (i, j, ...) lies i * memory_strides[0] +
/// j * memory_strides[1] + ... elements behind `data` and has canonical index canonical_offset +
/// i * canonical_strides[0] + ...; Error(internal) when the ranks differ or exceed 8.
Digest digest_box(const std::byte* data, std::uint64_t element_bytes,
                  std::span<const std::uint64_t> extents,
                  std::span<const std::uint64_t> memory_strides,
                  std::span<const std::uint64_t> canonical_strides, std::uint64_t canonical_offset);

}  // namespace reshard
