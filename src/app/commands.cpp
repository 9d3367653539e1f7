#include "app/commands.hpp"

#include "core/version.hpp"

namespace reshard::app {

std::vector<Command> add_commands(CLI::App& app) {
  return {add_convert(app), add_inspect(app), add_compare(app), add_verify(app),
          add_plan(app),    add_sample(app),  add_submit(app)};
}

std::string version() {
  return "reshard " + std::string(reshard::version());
}

}  // namespace reshard::app
