#include "formats/manifest.hpp"

#include <gtest/gtest.h>

#include <array>
#include <functional>

#include "core/error.hpp"
#include "formats/container/crc32.hpp"

namespace reshard::formats {
namespace {

Manifest sample() {
  Manifest manifest;
  manifest.facts = {{"reshard", "0.1.0"}, {"source", {{"path", "a\nb"}}}};
  manifest.movement = "0123-4";
  manifest.proven = true;
  manifest.tensors = {{.role = "embedding.weight",
                       .factors = {"vocab", "hidden"},
                       .shape = {3, 4},
                       .dtype = Dtype::bf16,
                       .digest = Digest{5, 6}},
                      {.role = "final_norm.weight",
                       .factors = {"hidden"},
                       .shape = {4},
                       .dtype = Dtype::f16,
                       .add = -1,
                       .digest = Digest{7, 1},
                       .source_dtype = Dtype::f32,
                       .source_add = 0.5,
                       .source_digest = Digest{8, 2}}};
  Manifest::File weights{.path = "a/b.safetensors", .bytes = 100, .others = 0xdeadbeef};
  weights.tensors = {{.name = "w",
                      .dtype = Dtype::bf16,
                      .shape = {4, 4},
                      .offset = 60,
                      .bytes = 32,
                      .roles = {"embedding.weight"},
                      .fill = 4,
                      .repeated = 1,
                      .digest = Digest{1, 2}},
                     {.name = "mask",
                      .dtype = Dtype::boolean,
                      .shape = {},
                      .offset = 92,
                      .bytes = 1,
                      .constant = "causal_mask",
                      .digest = Digest{3, 4}},
                     {.name = "packed",
                      .dtype = Dtype::f64,
                      .shape = {3},
                      .bytes = 24,
                      .chunks = {{40, 60}, {7, 17}},
                      .digest = Digest{9, 9}}};
  manifest.files = {weights, {.path = "config.json", .bytes = 2, .others = 1}};
  return manifest;
}

/// The text with one word replaced, under a checksum that is right.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = manifest_text(sample());
  text.replace(text.find(from), from.size(), to);
  const std::size_t end = text.rfind("\"crc32\": \"");
  const std::uint32_t crc = crc32_of(std::as_bytes(std::span(text).first(end)));
  char digits[16];
  std::snprintf(digits, sizeof digits, "%08x", crc);
  return text.substr(0, end) + "\"crc32\": \"" + digits + "\"\n}\n";
}

std::string refusal(const std::string& text) {
  try {
    static_cast<void>(read_manifest(text, "here"));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input);
    return error.what();
  }
  return "";
}

TEST(Manifest, ComesBackAsItWasWritten) {
  const std::string text = manifest_text(sample());
  const Manifest back = read_manifest(text, "here");
  EXPECT_EQ(manifest_text(back), text);
  EXPECT_EQ(back.files[0].tensors[0].bytes, 32U);
  const FileExtents extents = extents_of(back)[0];
  EXPECT_EQ(extents.tensors, 3U);
  ASSERT_EQ(extents.parts.size(), 4U);
  const FileExtents::Part& first = extents.parts[0];  // the second chunk of the last tensor
  EXPECT_EQ((std::array{first.range.first, first.range.last, first.before}),
            (std::array<std::uint64_t, 3>{7, 17, 20}));
  EXPECT_EQ(first.tensor, 2U);
  EXPECT_EQ(back.tensors[1].source_digest, (Digest{8, 2}));
  EXPECT_EQ(Json::parse(text).at("facts").at("source").at("path"), "a\nb");
}

TEST(Manifest, WithoutDigests) {
  Manifest manifest = sample();
  manifest.proven = false;
  for (Manifest::Role& role : manifest.tensors) role.digest = role.source_digest = std::nullopt;
  const std::string text = manifest_text(manifest);
  EXPECT_EQ(text.find("digest"), std::string::npos);
  EXPECT_FALSE(read_manifest(text, "here").proven);
}

TEST(Manifest, EveryFlippedBitIsSeen) {
  const std::string text = manifest_text(sample());
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = text;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      EXPECT_NE(refusal(flipped), "") << "byte " << i << ", bit " << bit;
    }
  }
  for (std::size_t i = 0; i < text.size(); ++i) EXPECT_NE(refusal(text.substr(0, i)), "");
}

TEST(Manifest, OfAStrangerIsHeldAgainstItself) {
  const std::pair<std::pair<std::string, std::string>, std::string> cases[] = {
      {{"\"offset\":92", "\"offset\":91"}, "over another or beyond"},
      {{"\"offset\":92", "\"offset\":100"}, "over another or beyond"},
      {{"[7,10]", "[7,34]"}, "packed lies at 40 over another or beyond"},
      {{"[7,10]", "[98,3]"}, "packed lies at 98 over another or beyond"},
      {{"[7,10]", "[18446744073709551615,2]"}, "64 bits"},
      {{"[7,10]", "[7]"}, ""},
      {{"\"offset\":92", "\"offset\":18446744073709551615"}, "64 bits"},
      {{"\"shape\":[4,4]", "\"shape\":[4294967296,4294967296]"}, "64 bits"},
      {{"a/b.safetensors", "a/../../b"}, "is not in the folder"},
      {{"a/b.safetensors", "/etc/passwd"}, "is not in the folder"},
      {{"\"dtype\":\"BOOL\"", "\"dtype\":\"BOOM\""}, "BOOM"},
      {{"\"others\":\"deadbeef\"", "\"others\":\"deadbeefs\""}, "CRC-32"},
      {{"00000000000000020000000000000001", "0000000000000002000000000000000z"}, "digest"},
      {{"\"version\": 1", "\"version\": 2"}, "version 1"},
      {{"\"tensors\":3", "\"tensors\":5"}, ""},
      {{"\"tensors\":3", "\"tensors\":-1"}, ""},
      {{"\"proven\": true", "\"proven\": 7"}, ""},
      {{"\"facts\": {", "\"facts\": " + std::string(30, '[') + std::string(30, ']') + ", \"x\": {"},
       "too deep"}};
  for (const auto& [change, says] : cases) {
    const std::string text = refusal(changed(change.first, change.second));
    EXPECT_NE(text, "") << change.second;
    EXPECT_NE(text.find(says), std::string::npos) << change.second << ": " << text;
  }
  EXPECT_EQ(refusal(changed("a/b.safetensors", "a/c.safetensors")), "");
}

TEST(Manifest, DigestsInHex) {
  const Digest digest{0x123456789abcdef, 0xfedcba987654321};
  EXPECT_EQ(digest_of_hex(digest.hex()), digest);
  for (const char* wrong :
       {"", "12", "0123456789abcdef0123456789abcdeF", "-123456789abcdef0123456789abcde1"}) {
    EXPECT_EQ(digest_of_hex(wrong), std::nullopt) << wrong;
  }
}

}  // namespace
}  // namespace reshard::formats
