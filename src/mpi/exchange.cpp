#include "mpi/exchange.hpp"

#include <cstdio>

namespace reshard::mpi {
namespace {

void place(const std::vector<std::uint64_t>& sizes, std::vector<int>& counts,
           std::vector<int>& places) {
  std::uint64_t at = 0;
  for (const std::uint64_t size : sizes) {
    counts.push_back(count(size));
    places.push_back(count(at));
    at += size;
  }
}

/// Buffers in flight cannot be taken back, so there is no way to go on.
void must(const Comm& comm, int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::fprintf(stderr, "reshard: %s failed with %d\n", call, code);
  MPI_Abort(comm.handle(), static_cast<int>(Kind::internal));
}

}  // namespace

Exchange::Exchange(const Comm& comm, const Parcel& send, const Parcel& receive) : comm_(comm) {
  place(send.sizes, send_counts_, send_places_);
  place(receive.sizes, counts_, places_);
  must(comm_,
       MPI_Ialltoallv(send.bytes.data(), send_counts_.data(), send_places_.data(), MPI_BYTE,
                      receive.bytes.data(), counts_.data(), places_.data(), MPI_BYTE,
                      comm_.handle(), &request_),
       "MPI_Ialltoallv");
}

Exchange::~Exchange() {
  wait();
}

bool Exchange::test() {
  int done = 0;
  must(comm_, MPI_Test(&request_, &done, MPI_STATUS_IGNORE), "MPI_Test");
  return done != 0;
}

void Exchange::wait() {
  must(comm_, MPI_Wait(&request_, MPI_STATUS_IGNORE), "MPI_Wait");
}

}  // namespace reshard::mpi
