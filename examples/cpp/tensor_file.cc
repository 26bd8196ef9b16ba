#include "tensor_file.h"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

using nlohmann::json;

// The format is little-endian, and so is every CPU that the library has kernels for.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

namespace {

std::string describe(const std::string& dtype, const Shape& shape) { return dtype + " " + json(shape).dump(); }

// Whether `size` is what a tensor of this shape takes; the header's numbers may be anything.
bool takes(uint64_t size, const Shape& shape, uint64_t item) {
  uint64_t bytes = item;
  for (int64_t length : shape)
    if (length < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(length), &bytes)) return false;
  return bytes == size;
}

}  // namespace

std::ifstream open_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path.string() + ": cannot be read: " + std::strerror(errno));
  return file;
}

TensorFile::TensorFile(const std::filesystem::path& path) : path_(path), file_(open_file(path)) {
  const uint64_t size = std::filesystem::file_size(path);
  uint64_t length = 0;
  file_.read(reinterpret_cast<char*>(&length), sizeof(length));
  if (!file_ || length > size - sizeof(length))
    throw std::runtime_error(path_ + ": truncated, or not a safetensors file: its header does not fit in its " +
                             std::to_string(size) + " bytes");
  std::string text(length, '\0');
  file_.read(text.data(), static_cast<std::streamsize>(length));
  data_ = sizeof(length) + length;
  try {
    const json header = json::parse(text);
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      const json& range = entry.at("data_offsets");
      const Tensor tensor{entry.at("dtype"), entry.at("shape"), range.at(0), range.at(1)};
      if (tensor.begin > tensor.end || tensor.end > size - data_)
        throw std::runtime_error(path_ + ": truncated: tensor '" + name + "' ends at byte " +
                                 std::to_string(data_ + tensor.end) + ", the file at " + std::to_string(size) +
                                 "; copy it again");
      tensors_.emplace(name, tensor);
    }
  } catch (const json::exception& error) {
    throw std::runtime_error(path_ + ": not a safetensors file: " + error.what());
  }
}

const TensorFile::Tensor& TensorFile::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::runtime_error(path_ + ": has no tensor '" + name + "'");
  return found->second;
}

const TensorFile::Tensor& TensorFile::checked(const std::string& name, const std::string& dtype, const Shape& shape,
                                              uint64_t item) const {
  const Tensor& tensor = find(name);
  if (tensor.dtype != dtype || tensor.shape != shape)
    throw std::runtime_error(path_ + ": tensor '" + name + "' is " + describe(tensor.dtype, tensor.shape) + ", expected " +
                             describe(dtype, shape));
  if (!takes(tensor.end - tensor.begin, shape, item))
    throw std::runtime_error(path_ + ": tensor '" + name + "' is " + describe(dtype, shape) + ", but has " +
                             std::to_string(tensor.end - tensor.begin) + " bytes");
  return tensor;
}

void TensorFile::read_bytes(const Tensor& tensor, char* to) {
  file_.seekg(static_cast<std::streamoff>(data_ + tensor.begin));
  if (!file_.read(to, static_cast<std::streamsize>(tensor.end - tensor.begin)))
    throw std::runtime_error(path_ + ": cannot be read: " + std::strerror(errno));
}

void write_tensor(const std::filesystem::path& path, const std::string& name, const Shape& shape,
                  const std::vector<float>& values) {
  const uint64_t size = values.size() * sizeof(float);
  const json entry = {{"dtype", kDtype<float>}, {"shape", shape}, {"data_offsets", {0, size}}};
  std::string header = json{{name, entry}}.dump();
  header.resize((header.size() + 7) / 8 * 8, ' ');  // so that the tensor begins at a multiple of 8 bytes
  const uint64_t length = header.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file.write(header.data(), static_cast<std::streamsize>(length));
  file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(size));
  if (!file.flush()) throw std::runtime_error(path.string() + ": cannot be written: " + std::strerror(errno));
}
