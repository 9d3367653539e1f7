#include "app/commands.hpp"

namespace reshard::app {

std::vector<Command> add_commands(CLI::App& app) {
  return {add_convert(app)};
}

std::string version() {
  return std::string("reshard ") + RESHARD_VERSION;
}

}  // namespace reshard::app
