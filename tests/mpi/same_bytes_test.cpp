#include <gtest/gtest.h>
#include <mpi.h>

#include <string>

#include "mpi/convert.hpp"
#include "mpi/sample.hpp"
#include "support/part.hpp"
#include "support/scratch.hpp"

// What a conversion writes does not depend on how many ranks do it: the same on communicators of
// 1, 2, ... ranks.

namespace reshard {
namespace {

struct Case {
  const char* family;
  formats::TargetOptions from, to;
};

formats::TargetOptions megatron(std::uint64_t tp, std::uint64_t pp, std::uint64_t multiple = 16) {
  formats::TargetOptions target;
  target.to = "megatron";
  target.tp = tp;
  target.pp = pp;
  target.vocab_multiple = multiple;
  return target;
}

formats::TargetOptions hugging_face(const char* to, std::uint64_t most = 5'000'000'000) {
  formats::TargetOptions target;
  target.to = to;
  target.max_shard_bytes = most;
  return target;
}

formats::TargetOptions hdf5(const char* names) {
  formats::TargetOptions target;
  target.to = "hdf5";
  target.hdf5_names = names;
  return target;
}

formats::TargetOptions with_dtype(formats::TargetOptions target, Dtype dtype) {
  target.dtype = dtype;
  return target;
}

formats::TargetOptions filled_with_last(formats::TargetOptions target) {
  target.vocab_fill = formats::VocabFill::last;
  return target;
}

void convert(const mpi::Comm& comm, const std::string& from, formats::TargetOptions target,
             const std::string& to) {
  mpi::ConvertOptions options;
  options.source.path = from;
  options.target = std::move(target);
  options.target.path = to;
  options.tile_bytes = 4096;
  options.memory = std::uint64_t{100} << 10;
  mpi::convert(comm, options);
}

/// Collective. Runs the case at each number of ranks and compares with what one rank wrote.
void expect_same_bytes(const mpi::Comm& comm, const Case& each, std::initializer_list<int> counts) {
  const test::Scratch scratch(comm);
  mpi::SampleOptions sample;
  sample.model.family = each.family;
  sample.target = each.from;
  sample.target.path = scratch / "source";
  sample.tile_bytes = 4096;
  mpi::sample(comm, sample);
  int number = 0;  // of the target: a count may come twice
  for (const int ranks : counts) {
    const std::string target = scratch / ("target-" + std::to_string(number++));
    const test::Part part(comm, ranks);
    if (part.comm()) convert(*part.comm(), scratch / "source", each.to, target);
    mpi::barrier(comm);
    if (comm.rank() == 0) {
      EXPECT_EQ(test::difference(test::tree(scratch / "target-0"), test::tree(target)), "")
          << each.family << " to " << each.to.to << " at " << ranks << " ranks";
    }
  }
}

TEST(SameBytes, AtEveryNumberOfRanks) {
  const mpi::Comm comm(MPI_COMM_WORLD);
  const Case cases[] = {
      {"llama", megatron(2, 2), hugging_face("hf", 50000)},
      {"gpt2", hugging_face("hf-bin"), megatron(2, 2)},
      {"qwen3", megatron(1, 2, 8), filled_with_last(megatron(2, 1, 64))},
      {"mixtral", with_dtype(hugging_face("hf"), Dtype::bf16),
       with_dtype(megatron(2, 1), Dtype::f32)},
      {"phi3", with_dtype(megatron(2, 1), Dtype::f32), with_dtype(hugging_face("hf"), Dtype::bf16)},
      {"gemma2", with_dtype(hugging_face("hf"), Dtype::f32),
       with_dtype(hugging_face("hf-bin"), Dtype::f16)},
      {"llama", megatron(2, 2), hdf5("canonical")},
      {"mixtral", hdf5("hf"), with_dtype(hdf5("hf"), Dtype::bf16)},
      {"gpt2", hdf5("canonical"), megatron(2, 2)}};
  for (const Case& each : cases) {
    switch (comm.size()) {
      case 1:
        expect_same_bytes(comm, each, {1, 1});
        break;
      case 2:
        expect_same_bytes(comm, each, {1, 2});
        break;
      case 3:
        expect_same_bytes(comm, each, {1, 2, 3});
        break;
      case 4:
        expect_same_bytes(comm, each, {1, 3, 4});
        break;
      default:
        expect_same_bytes(comm, each, {1, 5, comm.size()});
    }
  }
}

// Also run alone at 64 ranks, more than this model has files or tensors of a layer.
TEST(SameBytes, OneSmallConversion) {
  const mpi::Comm comm(MPI_COMM_WORLD);
  expect_same_bytes(comm, {"llama", megatron(2, 2), megatron(1, 4)}, {1, comm.size()});
}

}  // namespace
}  // namespace reshard
