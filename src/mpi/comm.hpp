#pragma once

#include <mpi.h>
#include <filesystem>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"

namespace reshard::mpi {

/// Initialises MPI (MPI_THREAD_FUNNELED) and finalises it; lives in main, outlives every Comm.
class Environment {
 public:
  Environment(int& argc, char**& argv);
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment();
};

/// Owner of a duplicated communicator whose errors are returned.
class Comm {
 public:
  explicit Comm(MPI_Comm parent);  ///< Collective.
  Comm(Comm&& other) noexcept;
  Comm& operator=(Comm&& other) noexcept;
  ~Comm();

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }
  [[nodiscard]] MPI_Comm handle() const { return handle_; }

 private:
  MPI_Comm handle_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
};

/// Throws Error(internal) with MPI's text unless the call succeeded.
void check(int code, const char* call);
/// The one narrowing of a size to MPI's int; Error(internal) when it does not fit.
int count(std::size_t size);

/// Collective. The root's text on every rank.
std::string broadcast(const Comm& comm, const std::string& text, int root);
/// Collective. Every rank's text, by rank.
std::vector<std::string> gather_all(const Comm& comm, const std::string& mine);
/// Collective. Element-wise over ranks, in place; any length.
void sum(const Comm& comm, std::span<std::uint64_t> values);
void maximum(const Comm& comm, std::span<std::uint64_t> values);
void exclusive_or(const Comm& comm, std::span<std::uint32_t> values);
/// Collective.
void barrier(const Comm& comm);
/// Collective. Error(internal) unless all ranks have the same text.
void require_same(const Comm& comm, std::string_view what, const std::string& text);

/// Whether any rank failed or wishes something, asked without stopping: the constructor and wait
/// are collective.
class Agreement {
 public:
  /// `mine`: this rank's error, if it failed.
  Agreement(const Comm& comm, std::optional<Error> mine, int wish = 0);
  Agreement(const Agreement&) = delete;
  Agreement& operator=(const Agreement&) = delete;
  ~Agreement();

  /// Lets MPI work; whether all ranks have answered.
  bool test();
  /// If any rank failed, all throw the error of the lowest; else the largest wish of all.
  int wait(std::string_view phase);

 private:
  const Comm& comm_;
  std::optional<Error> mine_;
  /// Lowest failing rank and negated wish; MPI reads and writes them until done.
  std::array<int, 2> offered_, agreed_;
  MPI_Request request_ = MPI_REQUEST_NULL;
};

/// What the system says of a path: what can only be a strange path is bad input.
Error error_of(const std::filesystem::filesystem_error& error);

/// Runs work and keeps what it throws; anything but an Error is our own bug.
template <class Work>
std::optional<Error> attempt(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  } catch (const std::filesystem::filesystem_error& error) {
    return error_of(error);
  } catch (const std::bad_alloc&) {
    return Error(Kind::io, "out of memory: a smaller --memory may help");
  } catch (const std::exception& error) {
    return Error(Kind::internal, error.what());
  }
  return std::nullopt;
}

/// Collective. Runs work, which must not communicate; if a rank failed, all throw the lowest rank's
/// error (STYLE.md rule 11).
template <class Work>
void agree(const Comm& comm, std::string_view phase, Work&& work) {
  Agreement(comm, attempt(std::forward<Work>(work))).wait(phase);
}

}  // namespace reshard::mpi
