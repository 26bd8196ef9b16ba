// Runs a saved stack of int8 layers on a CPU without Python. Start with Stack::run in stack.cc.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "edgekern/edgekern.h"
#include "stack.h"
#include "tensor_file.h"

namespace {

void run_stack(const std::string& model, const std::string& input, const std::string& output) {
  const ek_isa* isa = nullptr;  // the best one this CPU has, or what EDGEKERN_ISA asks for
  check(ek_isa_default(&isa), "EDGEKERN_ISA");

  ek_pool* pool = nullptr;
  check(ek_pool_create(std::max(1, static_cast<int>(std::thread::hardware_concurrency())), &pool), "thread pool");
  const std::unique_ptr<ek_pool, decltype(&ek_pool_destroy)> pool_owner(pool, ek_pool_destroy);
  const ek_parallel parallel = ek_pool_parallel(pool);
  std::printf("edgekern %s, %s kernels, %d threads\n", ek_version(), ek_isa_name(isa), parallel.num_threads);

  const Stack stack(model, isa, &parallel);
  for (const Layer& layer : stack.layers())
    std::printf("layer %s: %lld -> %lld, activation %s\n", layer.name.c_str(), static_cast<long long>(layer.in_features),
                static_cast<long long>(layer.out_features), layer.activation_name.c_str());

  TensorFile file(input);
  const Shape& given = file.find("x").shape;
  const int64_t rows = given.empty() ? 0 : given[0];
  const std::vector<float> y = stack.run(file.read<float>("x", {rows, stack.in_features()}), rows);
  write_tensor(output, "y", {rows, stack.out_features()}, y);
  std::printf("%lld rows written to %s\n", static_cast<long long>(rows), output.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr,
                 "usage: run_stack MODEL INPUT OUTPUT\n"
                 "  MODEL   folder that edgekern.save wrote\n"
                 "  INPUT   safetensors file with x, F32 [rows, features]\n"
                 "  OUTPUT  safetensors file to write: y, F32 [rows, features]\n");
    return 2;
  }
  try {
    run_stack(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_stack: %s\n", error.what());
    return 1;
  }
  return 0;
}
