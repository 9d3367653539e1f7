#pragma once

#include <span>
#include <string_view>

namespace reshard::families {

/// A table that the build compiled in.
struct EmbeddedFile {
  std::string_view path;  ///< below src/families/tables: "families/llama.json"
  std::string_view text;
};

/// All tables of src/families/tables.
std::span<const EmbeddedFile> embedded_files();

}  // namespace reshard::families
