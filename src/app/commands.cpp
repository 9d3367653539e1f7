#include "app/commands.hpp"

namespace reshard::app {

std::vector<Command> add_commands(CLI::App& app) {
  return {add_convert(app), add_inspect(app), add_compare(app), add_plan(app), add_sample(app)};
}

std::string version() {
  return std::string("reshard ") + RESHARD_VERSION;
}

}  // namespace reshard::app
