// safetensors: 8 bytes that hold the length of a JSON header, the header, and the tensors' bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

using Shape = std::vector<int64_t>;

template <class T>
constexpr const char* kDtype = nullptr;
template <>
inline constexpr const char* kDtype<float> = "F32";
template <>
inline constexpr const char* kDtype<int8_t> = "I8";

// Opens a file for reading; throws when there is none.
std::ifstream open_file(const std::filesystem::path& path);

// All errors are std::runtime_error with the file's path in it.
class TensorFile {
 public:
  struct Tensor {
    std::string dtype;
    Shape shape;
    uint64_t begin, end;  // bytes, counted from the end of the header
  };

  // Reads the header and checks it against the size of the file. The tensors stay on disk.
  explicit TensorFile(const std::filesystem::path& path);

  const std::map<std::string, Tensor>& tensors() const { return tensors_; }

  // Throws when there is no such tensor.
  const Tensor& find(const std::string& name) const;

  // Row-major values; throws when the tensor has another dtype or shape.
  template <class T>
  std::vector<T> read(const std::string& name, const Shape& shape) {
    const Tensor& tensor = checked(name, kDtype<T>, shape, sizeof(T));
    std::vector<T> values((tensor.end - tensor.begin) / sizeof(T));
    read_bytes(tensor, reinterpret_cast<char*>(values.data()));
    return values;
  }

 private:
  const Tensor& checked(const std::string& name, const std::string& dtype, const Shape& shape, uint64_t item) const;
  void read_bytes(const Tensor& tensor, char* to);

  std::string path_;
  std::ifstream file_;
  uint64_t data_ = 0;  // where the tensors' bytes begin
  std::map<std::string, Tensor> tensors_;
};

// Writes one tensor.
void write_tensor(const std::filesystem::path& path, const std::string& name, const Shape& shape,
                  const std::vector<float>& values);
