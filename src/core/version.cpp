#include "core/version.hpp"

namespace reshard {

std::string_view version() {
  return RESHARD_VERSION;
}

}  // namespace reshard
