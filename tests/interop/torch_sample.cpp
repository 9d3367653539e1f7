#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "formats/container/crc32.hpp"
#include "formats/container/torch_file.hpp"
#include "formats/container/torch_layout.hpp"

// Partner of torch_file_check.py:
//   torch_sample write DIR       writes the sample files that the script knows
//   torch_sample index FILE...   prints one JSON line a file: tensors and facts as we read them

namespace {

using reshard::Dtype;
using reshard::Json;
using namespace reshard::formats;

Json leaf(std::size_t index) {
  return {{"!", "tensor"}, {"index", index}};
}

/// Byte j of tensor i; booleans are 0 or 1.
std::string tensor_bytes(std::size_t i, const TensorSpec& spec, std::uint64_t size) {
  std::string bytes(size, '\0');
  for (std::size_t j = 0; j < size; ++j) {
    const std::size_t value = 31 * i + 7 * j;
    bytes[j] = static_cast<char>(spec.dtype == Dtype::boolean ? value % 2 : value % 251);
  }
  return bytes;
}

void write(const TorchFileSpec& spec, const std::string& path) {
  const FileLayout layout = torch_layout(spec);
  std::string file(layout.bytes, '\0');
  const auto put = [&](std::uint64_t offset, const std::string& bytes) {
    file.replace(offset, bytes.size(), bytes);
  };
  for (const FileLayout::Literal& literal : layout.literals) put(literal.offset, literal.bytes);
  std::vector<std::uint32_t> crcs(spec.tensors.size());
  for (const FileLayout::Data& data : layout.data) {
    const std::string bytes = tensor_bytes(data.tensor, spec.tensors[data.tensor], data.bytes);
    crcs[data.tensor] = crc32_of(std::as_bytes(std::span(bytes)));
    put(data.offset, bytes);
  }
  for (const FileLayout::Literal& literal : torch_trailer(spec, crcs)) {
    put(literal.offset, literal.bytes);
  }
  std::ofstream(path, std::ios::binary) << file;
}

/// A state dict with one tensor of each dtype, an empty one and a scalar.
TorchFileSpec state_dict(const std::vector<Dtype>& dtypes) {
  TorchFileSpec spec{"archive", Json::object(), {}};
  for (const Dtype dtype : dtypes) {
    const std::string name = "layers." + std::string(torch_name(dtype));
    spec.value[name] = leaf(spec.tensors.size());
    spec.tensors.push_back({name, dtype, {3, 5}});
  }
  for (const reshard::Shape& shape : {reshard::Shape{0, 4}, reshard::Shape{}}) {
    const std::string name = shape.empty() ? "scalar" : "empty";
    spec.value[name] = leaf(spec.tensors.size());
    spec.tensors.push_back({name, Dtype::f32, shape});
  }
  return spec;
}

/// What Megatron stores, with each kind of value of pickle.hpp.
TorchFileSpec megatron() {
  TorchFileSpec spec{"model_optim_rng", Json::object(), {{"weight", Dtype::bf16, {4, 8}}}};
  Json& value = spec.value;
  value["args"] = Json::parse(R"({"!":"object","class":"argparse.Namespace","args":[],"state":{
      "num_layers":2,"lr":0.5,"name":"gpt2 µ","flag":true,"nothing":null,
      "params_dtype":{"!":"global","name":"torch.bfloat16"}}})");
  value["checkpoint_version"] = 3.0;
  value["iteration"] = 100000;
  value["model"] = {{"decoder.weight", leaf(0)}, {"tied", leaf(0)}};
  value["numbers"] = Json::parse(R"([0,255,256,65535,65536,-1,-2147483648,2147483648,
      18446744073709551615,{"!":"int","value":"-340282366920938463463374607431768211456"},
      {"!":"float","value":"inf"},{"!":"float","value":"-inf"}])");
  value["tuples"] = Json::parse(R"([{"!":"tuple","items":[]},{"!":"tuple","items":[1]},
      {"!":"tuple","items":[1,2]},{"!":"tuple","items":[1,2,3]},{"!":"tuple","items":[1,2,3,4]}])");
  value["set"] = Json::parse(R"({"!":"set","items":[1,"two"]})");
  value["bytes"] = Json::parse(R"([{"!":"bytes","hex":""},{"!":"bytes","hex":"00ff80"}])");
  value["by_number"] = Json::parse(R"({"!":"dict","items":[[0,"zero"],[1,"one"]]})");
  return spec;
}

void index(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const FileIndex found = read_torch_file(memory_source(std::as_bytes(std::span(bytes))), path);
  Json tensors = Json::array();
  for (const TensorEntry& tensor : found.tensors) {
    tensors.push_back({{"name", tensor.name},
                       {"dtype", torch_name(tensor.dtype)},
                       {"shape", tensor.shape},
                       {"strides", tensor.strides},
                       {"offset", tensor.offset}});
  }
  const Json line = {{"container", found.container}, {"tensors", tensors}, {"facts", found.facts}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() < 2 || (words[0] != "write" && words[0] != "index")) {
    std::fprintf(stderr, "usage: torch_sample write DIR | index FILE...\n");
    return 2;
  }
  try {
    if (words[0] == "write") {
      write(state_dict({Dtype::f32, Dtype::f64, Dtype::f16, Dtype::bf16, Dtype::boolean, Dtype::u8,
                        Dtype::i8, Dtype::i16, Dtype::i32, Dtype::i64, Dtype::c64, Dtype::c128}),
            words[1] + "/classic.pt");
      write(state_dict({Dtype::f8_e4m3, Dtype::f8_e5m2, Dtype::f8_e4m3fnuz, Dtype::f8_e5m2fnuz,
                        Dtype::f8_e8m0, Dtype::u16, Dtype::u32, Dtype::u64}),
            words[1] + "/recent.pt");
      write(megatron(), words[1] + "/model_optim_rng.pt");
      return 0;
    }
    for (std::size_t i = 1; i < words.size(); ++i) index(words[i]);
    return 0;
  } catch (const reshard::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.kind());
  }
}
