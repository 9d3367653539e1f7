#include "app/stop.hpp"

#include <csignal>
#include <cstring>
#include <string>

#include "core/error.hpp"

namespace reshard::app {
namespace {

volatile std::sig_atomic_t received = 0;

void keep(int signal) {
  received = signal;
}

}  // namespace

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = keep;
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) sigaction(signal, &action, nullptr);
}

void check_stop() {
  const int signal = received;
  if (signal != 0) throw Error(Kind::stopped, std::string("stopped: ") + strsignal(signal));
}

}  // namespace reshard::app
