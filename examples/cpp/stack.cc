#include "stack.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "tensor_file.h"

using nlohmann::json;

namespace {

constexpr int kFormatVersion = 1;  // of edgekern.json

ek_activation activation_of(const std::string& name) {
  static const std::map<std::string, ek_activation> kActivations = {
      {"none", EK_NONE}, {"relu", EK_RELU},   {"gelu", EK_GELU},          {"gelu_tanh", EK_GELU_TANH},
      {"silu", EK_SILU}, {"relu6", EK_RELU6}, {"hardswish", EK_HARDSWISH}};
  const auto found = kActivations.find(name);
  if (found == kActivations.end()) throw std::runtime_error("unknown activation '" + name + "'");
  return found->second;
}

// The layer at `place`, still without weights.
Layer layer_of(const json& record, size_t place) {
  const std::string name = std::to_string(place);
  // In nn.Sequential a layer's name is its place. A gap is a module that the header does not describe.
  if (record.at("names") != json::array({name}))
    throw std::runtime_error("layer " + name + " is called " + record.at("names").dump() +
                             ": the model is not a plain stack of int8 layers; save one as export.py does");
  const auto& scheme = record.at("scheme");
  if (scheme.at("format") != "int8" || scheme.value("activations", "dynamic") != "dynamic")
    throw std::runtime_error("layer " + name + " is " + scheme.dump() + ", expected int8");
  Layer layer;
  layer.name = name;
  layer.in_features = record.at("in_features");
  layer.out_features = record.at("out_features");
  if (layer.in_features < 1 || layer.out_features < 1) throw std::runtime_error("layer " + name + " is empty");
  layer.has_bias = !record.at("bias_dtype").is_null();
  layer.activation_name = record.at("activation");
  layer.activation = activation_of(layer.activation_name);
  return layer;
}

std::vector<Layer> read_header(const std::filesystem::path& path) {
  std::ifstream file = open_file(path);
  try {
    const json header = json::parse(file);
    if (header.at("format") != "edgekern") throw std::runtime_error("describes something else than an edgekern model");
    if (header.at("format_version") != kFormatVersion)
      throw std::runtime_error("format_version is " + header.at("format_version").dump() + ", this program reads " +
                               std::to_string(kFormatVersion) + "; save the model again");
    std::vector<Layer> layers;
    for (const json& record : header.at("layers")) layers.push_back(layer_of(record, layers.size()));
    if (layers.empty()) throw std::runtime_error("the model has no int8 layer; edgekern.convert_ makes them");
    for (size_t i = 1; i < layers.size(); ++i)
      if (layers[i].in_features != layers[i - 1].out_features)
        throw std::runtime_error("layer " + layers[i].name + " takes " + std::to_string(layers[i].in_features) +
                                 " features, the one before gives " + std::to_string(layers[i - 1].out_features));
    return layers;
  } catch (const std::exception& error) {
    throw std::runtime_error(path.string() + ": " + error.what());
  }
}

// The canonical weights, from disk into the order that the ISA's kernels want.
void load_weights(TensorFile& tensors, const ek_isa* isa, const ek_parallel* parallel, Layer* layer) {
  const int64_t n = layer->out_features, k = layer->in_features;
  const auto weight = tensors.read<int8_t>(layer->name + ".weight", {n, k});
  const auto scale = tensors.read<float>(layer->name + ".weight_scale", {n, 1});
  const auto bias = layer->has_bias ? tensors.read<float>(layer->name + ".bias", {n}) : std::vector<float>();
  layer->packed_size = ek_int8_packed_size(isa, EK_INT8_DENSE, n, k, nullptr, 0, nullptr);
  layer->packed.resize((layer->packed_size + sizeof(Line) - 1) / sizeof(Line));
  check(ek_int8_pack(isa, EK_INT8_DENSE, n, k, weight.data(), k, scale.data(), layer->has_bias ? bias.data() : nullptr,
                     layer->packed.data(), layer->packed_size, parallel),
        "layer " + layer->name);
}

}  // namespace

Stack::Stack(const std::filesystem::path& folder, const ek_isa* isa, const ek_parallel* parallel)
    : isa_(isa), parallel_(parallel), layers_(read_header(folder / "edgekern.json")) {
  const std::filesystem::path path = folder / "model.safetensors";
  TensorFile tensors(path);
  for (Layer& layer : layers_) load_weights(tensors, isa, parallel, &layer);
  for (const auto& [name, tensor] : tensors.tensors()) {
    const std::string owner = name.substr(0, name.rfind('.'));
    if (std::none_of(layers_.begin(), layers_.end(), [&](const Layer& layer) { return layer.name == owner; }))
      throw std::runtime_error(path.string() + ": tensor '" + name + "' belongs to no int8 layer");
  }
}

std::vector<float> Stack::run(std::vector<float> x, int64_t rows) const {
  std::vector<float> y;
  std::vector<std::byte> workspace;
  for (const Layer& layer : layers_) {
    y.resize(static_cast<size_t>(rows * layer.out_features));
    workspace.resize(ek_int8_workspace_size(isa_, EK_INT8_DENSE, rows, layer.in_features));
    check(ek_int8_linear(isa_, layer.packed.data(), layer.packed_size, rows, x.data(), EK_F32, layer.in_features, y.data(),
                         layer.out_features, layer.activation, workspace.data(), workspace.size(), parallel_),
          "layer " + layer.name);
    std::swap(x, y);
  }
  return x;
}

void check(ek_status status, const std::string& what) {
  if (status != EK_OK) throw std::runtime_error(what + ": " + ek_status_message(status));
}
