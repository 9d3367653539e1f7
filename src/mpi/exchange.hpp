#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mpi/comm.hpp"

namespace reshard::mpi {

/// Bytes for (or from) each rank, packed one behind the other by rank.
struct Parcel {
  std::span<std::byte> bytes;
  std::vector<std::uint64_t> sizes;  ///< by rank
};

/// One exchange of packed bytes in flight; the parcels must stay until it is done. The constructor
/// and wait are collective; an MPI failure here is final, for buffers are in MPI's hands.
class Exchange {
 public:
  Exchange(const Comm& comm, const Parcel& send, const Parcel& receive);
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  ~Exchange();

  /// Lets MPI work; whether all has arrived.
  bool test();
  void wait();

 private:
  const Comm& comm_;
  std::vector<int> send_counts_, send_places_, counts_, places_;  ///< MPI reads them until done
  MPI_Request request_ = MPI_REQUEST_NULL;
};

}  // namespace reshard::mpi
