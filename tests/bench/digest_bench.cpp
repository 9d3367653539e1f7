// GB/s of the digest by processor time of one core: digest_bench [MiB].
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "core/digest.hpp"

namespace {

double gigabytes_per_second(std::uint64_t bytes, auto&& work) {
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const std::clock_t begin = std::clock();
    work();
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    best = std::max(best, static_cast<double>(bytes) / seconds / 1e9);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace reshard;
  const std::uint64_t bytes = std::strtoull(argc > 1 ? argv[1] : "64", nullptr, 10) << 20;
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 131 >> 3);

  Digest sum;
  for (const DigestKernel kernel : {DigestKernel::portable, DigestKernel::avx2}) {
    if (kernel > fastest_digest_kernel()) break;
    // Runs begin a few elements off a block's border, as runs of a shard do.
    for (const std::uint64_t run : {bytes, std::uint64_t{8192}, std::uint64_t{128}}) {
      const double rate = gigabytes_per_second(bytes, [&] {
        for (std::uint64_t at = 0; at < bytes; at += run) {
          sum += digest_run(std::span(data).subspan(at, run), 2, at / 2 + 20, kernel);
        }
      });
      std::printf("kernel %d, runs of %9llu bytes: %6.2f GB/s\n", static_cast<int>(kernel),
                  static_cast<unsigned long long>(run), rate);
    }
  }
  const std::uint64_t side = 4096;
  if (bytes >= side * side * 2) {
    const std::vector<std::uint64_t> extents = {side, side}, rows = {side, 1}, columns = {1, side};
    const double rate = gigabytes_per_second(
        side * side * 2, [&] { sum += digest_box(data.data(), 2, extents, columns, rows, 0); });
    std::printf("transposed box of 4096 x 4096 words: %6.2f GB/s\n", rate);
  }
  std::printf("%s\n", sum.hex().c_str());
}
