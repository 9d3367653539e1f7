#include <mpi.h>

#include <cstdlib>

// A parallel write that fails: linked into the program, this is called in place of MPI's own.
// RESHARD_FAIL_WRITE="RANK N" makes the N-th collective write of a rank say that the disk is full,
// after it took part in it as all others did.

namespace {

/// Whether this call of this rank is the one to fail.
bool fails() {
  static const char* const wish = std::getenv("RESHARD_FAIL_WRITE");
  static int calls = 0;
  if (wish == nullptr) return false;
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  char* end = nullptr;
  const bool is_me = std::strtol(wish, &end, 10) == rank;
  return ++calls == std::strtol(end, nullptr, 10) && is_me;
}

}  // namespace

extern "C" int MPI_File_write_at_all(MPI_File file, MPI_Offset offset, const void* from, int count,
                                     MPI_Datatype type, MPI_Status* status) {
  const int code = PMPI_File_write_at_all(file, offset, from, count, type, status);
  return fails() ? MPI_ERR_NO_SPACE : code;
}
