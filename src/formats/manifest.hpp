#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.hpp"
#include "core/dtype.hpp"
#include "core/json.hpp"
#include "core/shape.hpp"
#include "formats/file_sums.hpp"

namespace reshard::formats {

/// manifest.json in the unit of publication: what was converted, and digests of all that was
/// written, so that it can be proven later without the source (DESIGN.md section 4). It depends on
/// source, options and reshard's version alone, not on time, host or ranks. Version 1:
///
///     {
///     "format": "reshard-manifest",
///     "version": 1,
///     "facts": {"reshard": "0.1.0", "source": {...}, "target": {...}, "model": {...}},
///     "movement": "<digest of all that decides the target's bytes but the source's numbers>",
///     "proven": true,
///     "tensors": [
///     {"role": "embedding.weight", "factors": [...], "shape": [...], "dtype": "BF16",
///      "digest": "<32 hex digits>"},
///     ...
///     ],
///     "files": [
///     {"path": "model.safetensors", "bytes": 1234, "others": "<CRC-32 in hex>", "tensors": 9},
///     {"name": "model.embed_tokens.weight", "dtype": "BF16", "shape": [...], "offset": 800,
///      "roles": [...], "digest": "<32 hex digits>"},
///     ...
///     ],
///     "crc32": "<of all text before this line>"
///     }
///
/// A file is followed by its tensors. One whose data is packed in chunks has no offset but
/// "chunks":
/// [[offset, bytes], ...], and the digest of the chunks as they are stored. The digest of a role is
/// that of its canonical elements as stored (see Digest); where values changed on the way,
/// "source_dtype", "source_digest" and, for a constant added, "add" and "source_add" tell of the
/// source. The digest of a stored tensor is that of its bytes; "fill", "repeated" and "constant"
/// tell what in it is no weight. "others" covers every byte that is no tensor's. Without
/// verification nothing is proven and digests are absent.
struct Manifest {
  struct Role {
    std::string role = {};
    std::vector<std::string> factors = {};
    Shape shape = {};
    Dtype dtype = Dtype::f32;
    double add = 0;  ///< stored value = canonical value + add
    std::optional<Digest> digest = {};
    Dtype source_dtype = Dtype::f32;
    double source_add = 0;
    std::optional<Digest> source_digest = {};  ///< only where values changed
  };
  struct Tensor {
    std::string name = {};
    Dtype dtype = Dtype::f32;
    Shape shape = {};
    std::uint64_t offset = 0, bytes = 0;  ///< bytes: of its elements
    std::vector<ByteRange> chunks = {};   ///< where they lie instead of at the offset
    std::vector<std::string> roles = {};
    std::uint64_t fill = 0, repeated = 0;  ///< elements
    std::string constant = {};             ///< a constant of the framework; "" for weights
    Digest digest = {};
  };
  struct File {
    std::string path = {};
    std::uint64_t bytes = 0;
    std::uint32_t others = 0;
    std::vector<Tensor> tensors = {};  ///< ascending by offset, those in chunks in any order
  };

  Json facts;
  std::string movement;
  bool proven = false;
  std::vector<Role> tensors;
  std::vector<File> files;
};

/// Its name in the unit.
inline constexpr std::string_view manifest_name = "manifest.json";

/// The text of the file.
std::string manifest_text(const Manifest& manifest);
/// Reads the text; Error(input) naming `path` when a byte of it is not as it was written, or when
/// it says what cannot be.
Manifest read_manifest(std::string_view text, const std::string& path);
/// The manifest of a folder, found in it or in the one folder of it that has one; Error(input) when
/// there is none, Error(usage) when there are several. `unit` becomes the folder that has it.
Manifest find_manifest(const std::string& folder, std::string& unit);
/// Where the tensors of its files lie.
std::vector<FileExtents> extents_of(const Manifest& manifest);
/// 32 digits back to a digest, if they are those of one.
std::optional<Digest> digest_of_hex(std::string_view hex);

}  // namespace reshard::formats
