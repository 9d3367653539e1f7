#include "formats/file.hpp"

namespace reshard::formats {

// A file of its own: a test program that defines this function has its own in the whole program.
const SystemCalls& system_calls() {
  static const SystemCalls calls;
  return calls;
}

}  // namespace reshard::formats
