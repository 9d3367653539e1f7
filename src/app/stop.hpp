#pragma once

namespace reshard::app {

/// From now on the first SIGINT, SIGTERM, SIGUSR1 or SIGHUP asks the work to end (75 is then the
/// exit code); a second one ends the process at once.
void catch_signals();

/// Error(stopped) when such a signal has come; any thread may ask.
void check_stop();

}  // namespace reshard::app
