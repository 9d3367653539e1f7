#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.hpp"
#include "core/layout.hpp"

/// Any text is refused or means boxes that fill the stored tensor, each element once. The first
/// bytes choose the factors' sizes and a block.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace reshard;
  constexpr std::size_t choices = 4, most_text = 300;
  if (size < choices || size > most_text) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + choices, size - choices);
  const auto size_of = [&](std::string_view factor) -> std::uint64_t {
    if (factor == "huge") return ~std::uint64_t{0} / 3;
    return std::uint64_t{data[factor.size() % 3]} % 7 +
           static_cast<unsigned char>(factor.front()) % 2;
  };
  try {
    const Layout layout(text);
    Blocks blocks;
    for (const std::string& factor : layout.factors()) {
      const std::uint64_t whole = size_of(factor);
      if ((data[3] & 1) != 0 && whole > 1) blocks[factor] = {whole / 2, whole};
    }
    const Lowered lowered = layout.lower(size_of, blocks);
    const std::uint64_t stored = elements(lowered.shape);
    std::uint64_t covered = 0;
    for (const Piece& piece : lowered.pieces) {
      std::uint64_t count = 1, last = piece.offset;
      for (const FactorSpan& span : piece.spans) {
        count = checked_product(count, span.extent);
        if (span.extent > 0) {
          last = checked_sum(last, checked_product(span.extent - 1, span.stride));
        }
      }
      if (count > 0 && last >= stored) __builtin_trap();
      covered = checked_sum(covered, count);
    }
    if (covered != stored) __builtin_trap();
  } catch (const Error& error) {
    if (error.kind() != Kind::input) __builtin_trap();
  }
  return 0;
}
