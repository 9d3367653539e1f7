#include "mpi/comm.hpp"

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <utility>

namespace reshard::mpi {
namespace {

/// Collective. Reduces in pieces that an int can count.
template <class T>
void reduce(const Comm& comm, std::span<T> values, MPI_Datatype type, MPI_Op op) {
  constexpr std::size_t piece = std::size_t{1} << 24;
  for (std::size_t at = 0; at < values.size(); at += piece) {
    const std::size_t size = std::min(piece, values.size() - at);
    check(MPI_Allreduce(MPI_IN_PLACE, values.data() + at, count(size), type, op, comm.handle()),
          "MPI_Allreduce");
  }
}

}  // namespace

Environment::Environment(int& argc, char**& argv) {
  // A process that nobody launched needs no daemon of Open MPI's beside it, which takes a second,
  // nor its folder below /tmp, which all such processes share and the first to end takes away, nor
  // a search for networks, which takes three quarters of the start-up.
  if (std::getenv("PMIX_RANK") == nullptr && std::getenv("PMI_RANK") == nullptr) {
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
    setenv("OMPI_MCA_pml", "ob1", 0);
    setenv("OMPI_MCA_btl", "self", 0);
  }
  // Nobody asks for pointers that ranks share in a file; for these Open MPI would lay files beside
  // it, which stay there when a rank is killed.
  setenv("OMPI_MCA_sharedfp", "^lockedfile,sm", 0);
  int provided = MPI_THREAD_SINGLE;
  check(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_FUNNELED) {
    throw Error(Kind::internal, "this MPI does not support MPI_THREAD_FUNNELED");
  }
}

Environment::~Environment() {
  MPI_Finalize();
}

Comm::Comm(MPI_Comm parent) {
  check(MPI_Comm_dup(parent, &handle_), "MPI_Comm_dup");
  check(MPI_Comm_set_errhandler(handle_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check(MPI_Comm_rank(handle_, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(handle_, &size_), "MPI_Comm_size");
}

Comm::Comm(Comm&& other) noexcept
    : handle_(std::exchange(other.handle_, MPI_COMM_NULL)),
      rank_(other.rank_),
      size_(other.size_) {}

Comm& Comm::operator=(Comm&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(rank_, other.rank_);
  std::swap(size_, other.size_);
  return *this;
}

Comm::~Comm() {
  if (handle_ != MPI_COMM_NULL) MPI_Comm_free(&handle_);
}

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING + 1> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw Error(Kind::internal, std::string(call) + ": " + text.data());
}

int count(std::size_t size) {
  if (size > INT_MAX) {
    throw Error(Kind::internal, std::to_string(size) + " elements in one MPI call");
  }
  return static_cast<int>(size);
}

std::string broadcast(const Comm& comm, const std::string& text, int root) {
  std::uint64_t size = text.size();
  check(MPI_Bcast(&size, 1, MPI_UINT64_T, root, comm.handle()), "MPI_Bcast");
  std::string result = text;
  result.resize(size);
  constexpr std::size_t piece = std::size_t{1} << 28;
  for (std::size_t at = 0; at < size; at += piece) {
    check(MPI_Bcast(result.data() + at, count(std::min(piece, size - at)), MPI_BYTE, root,
                    comm.handle()),
          "MPI_Bcast");
  }
  return result;
}

std::vector<std::string> gather_all(const Comm& comm, const std::string& mine) {
  const auto ranks = static_cast<std::size_t>(comm.size());
  std::vector<std::uint64_t> sizes(ranks);
  const std::uint64_t size = mine.size();
  check(MPI_Allgather(&size, 1, MPI_UINT64_T, sizes.data(), 1, MPI_UINT64_T, comm.handle()),
        "MPI_Allgather");
  std::uint64_t total = 0;
  std::vector<int> counts(ranks), places(ranks);
  for (std::size_t r = 0; r < ranks; ++r) {
    counts[r] = count(sizes[r]);
    places[r] = count(total);
    total += sizes[r];
  }
  std::string all(static_cast<std::size_t>(count(total)), '\0');
  check(MPI_Allgatherv(mine.data(), count(mine.size()), MPI_BYTE, all.data(), counts.data(),
                       places.data(), MPI_BYTE, comm.handle()),
        "MPI_Allgatherv");
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < ranks; ++r) {
    texts.push_back(all.substr(static_cast<std::size_t>(places[r]), sizes[r]));
  }
  return texts;
}

void sum(const Comm& comm, std::span<std::uint64_t> values) {
  reduce(comm, values, MPI_UINT64_T, MPI_SUM);
}

void maximum(const Comm& comm, std::span<std::uint64_t> values) {
  reduce(comm, values, MPI_UINT64_T, MPI_MAX);
}

void exclusive_or(const Comm& comm, std::span<std::uint32_t> values) {
  reduce(comm, values, MPI_UINT32_T, MPI_BXOR);
}

void barrier(const Comm& comm) {
  check(MPI_Barrier(comm.handle()), "MPI_Barrier");
}

void require_same(const Comm& comm, std::string_view what, const std::string& text) {
  const bool same = broadcast(comm, text, 0) == text;
  std::uint64_t different = same ? 0 : 1;
  maximum(comm, {&different, 1});
  if (different != 0) {
    throw Error(Kind::internal, std::string(what) + " is not the same on all ranks");
  }
}

Error error_of(const std::filesystem::filesystem_error& error) {
  const std::error_code& code = error.code();
  const bool strange = code == std::errc::too_many_symbolic_link_levels ||
                       code == std::errc::filename_too_long || code == std::errc::not_a_directory;
  return {strange ? Kind::input : Kind::io, error.path1().string() + ": " + code.message()};
}

Agreement::Agreement(const Comm& comm, std::optional<Error> mine, int wish)
    : comm_(comm),
      mine_(std::move(mine)),
      offered_{mine_ ? comm.rank() : comm.size(), -wish},
      agreed_(offered_) {
  check(MPI_Iallreduce(offered_.data(), agreed_.data(), 2, MPI_INT, MPI_MIN, comm.handle(),
                       &request_),
        "MPI_Iallreduce");
}

Agreement::~Agreement() {
  MPI_Wait(&request_, MPI_STATUS_IGNORE);
}

bool Agreement::test() {
  int done = 0;
  check(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), "MPI_Test");
  return done != 0;
}

int Agreement::wait(std::string_view phase) {
  check(MPI_Wait(&request_, MPI_STATUS_IGNORE), "MPI_Wait");
  const int first = agreed_[0];
  if (first == comm_.size()) return -agreed_[1];
  const bool is_me = first == comm_.rank();
  int kind = is_me ? static_cast<int>(mine_->kind()) : 0;
  check(MPI_Bcast(&kind, 1, MPI_INT, first, comm_.handle()), "MPI_Bcast");
  const std::string text = broadcast(comm_, is_me ? mine_->what() : "", first);
  Error error = Error::again(static_cast<Kind>(kind), text);
  if (comm_.size() > 1) error = error.in("rank " + std::to_string(first));
  throw error.in(phase);
}

}  // namespace reshard::mpi
