#include "mpi/plan_conversion.hpp"

#include <sys/resource.h>

#include <chrono>

#include "mpi/convert.hpp"

namespace reshard::mpi {

PlanReport plan_conversion(const Comm& comm, const Wish& wish, int ranks, std::uint64_t memory) {
  using Clock = std::chrono::steady_clock;
  PlanReport report;
  Clock::time_point begin = Clock::now();
  const auto done = [&](const std::string& phase) {
    const Clock::time_point now = Clock::now();
    report.phases.emplace_back(phase, std::chrono::duration<double>(now - begin).count());
    begin = now;
  };
  const Prepared p = prepare(comm, wish, done);
  static_cast<ConversionFacts&>(report) = facts_of(p, wish);
  report.function_args = p.source.function_args;
  report.source_files = p.geometry.sources.size();
  report.target_files = p.geometry.targets.size();
  report.memory = memory_bound(comm, memory, p.geometry, report);
  agree(comm, "plan", [&] {
    const int size = ranks == 0 ? comm.size() : ranks;
    Plan plan = make_plan(p.geometry, size);
    done("plan");
    if (comm.rank() == 0) report.cost = cost_of(p.geometry, plan, round_bytes(report.memory, size));
  });
  done("cost");
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  report.peak_rss = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  return report;
}

}  // namespace reshard::mpi
