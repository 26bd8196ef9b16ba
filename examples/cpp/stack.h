// A stack of int8 linear layers, each with its activation: what export.py saves, run through edgekern's C ABI.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "edgekern/edgekern.h"

// Packed weights start on a 64-byte boundary.
struct alignas(64) Line {
  std::byte bytes[64];
};

struct Layer {
  std::string name;
  int64_t in_features = 0, out_features = 0;
  bool has_bias = false;
  std::string activation_name;
  ek_activation activation = EK_NONE;
  size_t packed_size = 0;  // bytes
  std::vector<Line> packed;
};

class Stack {
 public:
  // Reads a folder that edgekern.save wrote and packs the weights for `isa`. Throws std::runtime_error when a file is
  // missing or damaged, or when the model is anything but a stack of int8 layers.
  Stack(const std::filesystem::path& folder, const ek_isa* isa, const ek_parallel* parallel);

  const std::vector<Layer>& layers() const { return layers_; }
  int64_t in_features() const { return layers_.front().in_features; }
  int64_t out_features() const { return layers_.back().out_features; }

  // [rows, in_features] to [rows, out_features], row-major.
  std::vector<float> run(std::vector<float> x, int64_t rows) const;

 private:
  const ek_isa* isa_;
  const ek_parallel* parallel_;
  std::vector<Layer> layers_;
};

// Throws std::runtime_error("<what>: <message>") unless status is EK_OK.
void check(ek_status status, const std::string& what);
