// Programs of int8 and int4 convolutions against the same steps called one by one.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>

#include "base/half.h"
#include "int4_support.h"
#include "ops/int8_conv2d_program.h"
#include "support.h"

using namespace edgekern;
using namespace edgekern::test;

namespace {

constexpr ek_int8_range kRange{0.05f, 100}, kSumRange{0.07f, 90};

// A packed layer that lives as long as a test.
struct Layer {
  std::vector<char> storage;
  char* data;
  size_t size;
  Layer(const ek_isa* isa, const ek_conv2d_shape& shape, uint32_t seed, bool nibbles, ek_int8_form form) {
    nibbles ? pack_int4(isa, shape, seed) : pack_int8(isa, shape, seed, form);
  }

 private:
  void reserve(size_t bytes) {
    size = bytes;
    storage.resize(size + 64);
    data = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64;
  }
  void pack_int8(const ek_isa* isa, const ek_conv2d_shape& shape, uint32_t seed, ek_int8_form form) {
    Random random(seed);
    const int64_t weights = shape.out_channels * shape.in_channels / shape.groups * shape.kernel_h * shape.kernel_w;
    std::vector<int8_t> w = random.integers<int8_t>(weights, -128, 127);
    if (form != EK_INT8_DENSE)
      for (int64_t i = 0; i < weights; ++i) w[i] = i / 8 % 3 == 0 ? w[i] : 0;
    std::vector<float> scale(static_cast<size_t>(shape.out_channels), 0.002f), bias = random.normals(shape.out_channels);
    reserve(ek_int8_conv2d_packed_size(isa, form, &shape, w.data(), nullptr));
    REQUIRE(ek_int8_conv2d_pack(isa, form, &shape, w.data(), scale.data(), bias.data(), data, size, nullptr) == EK_OK);
  }
  void pack_int4(const ek_isa* isa, const ek_conv2d_shape& shape, uint32_t seed) {
    const int64_t k = shape.in_channels / shape.groups * shape.kernel_h * shape.kernel_w;
    const Int4Weights w(shape.out_channels, k, 32, 1, false, seed);
    reserve(ek_int4_conv2d_packed_size(isa, EK_INT4_DENSE, &shape, 32, w.w.data(), w.row_bytes(), w.zero.data(), nullptr));
    REQUIRE(ek_int4_conv2d_pack(isa, EK_INT4_DENSE, &shape, 32, w.w.data(), w.row_bytes(), w.scale.data(), w.zero.data(),
                                w.bias.data(), data, size, nullptr) == EK_OK);
  }
};

struct Made {
  std::vector<ek_conv2d_step> steps;
  std::vector<std::unique_ptr<Layer>> layers;
  const ek_isa* isa;
  ek_dtype dtype;        // of the layers
  bool nibbles = false;  // of those that are not depthwise
  ek_int8_form form = EK_INT8_DENSE;

  explicit Made(const ek_isa* isa_, ek_dtype dtype_ = EK_F32) : isa(isa_), dtype(dtype_) {}
  int64_t conv(int64_t x, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t groups, bool u8,
               ek_activation activation = EK_NONE, bool same = false) {
    const ek_conv2d_shape shape{out, in, groups, kernel, kernel};
    layers.push_back(std::make_unique<Layer>(isa, shape, static_cast<uint32_t>(steps.size()), nibbles && groups == 1,
                                             groups == in && groups == out ? EK_INT8_DENSE : form));
    ek_conv2d_step step{};
    step.kind = EK_CONV2D;
    step.x = x;
    step.packed = layers.back()->data;
    step.packed_size = layers.back()->size;
    step.x_range = kRange;
    step.dtype = dtype;
    if (u8) step.range = kRange;
    const int64_t zeros = same ? 0 : kernel / 2;
    step.window = {stride, stride, 1, 1, zeros, zeros, zeros, zeros};
    step.same_padding = same;
    step.activation = activation;
    steps.push_back(step);
    return static_cast<int64_t>(steps.size());
  }
  int64_t add(int64_t x, int64_t other, ek_activation activation = EK_NONE, bool u8 = false) {
    ek_conv2d_step step{};
    step.kind = EK_ADD;
    step.x = x;
    step.other = other;
    step.x_range = step.other_range = kRange;
    for (ek_int8_range* range : {&step.x_range, &step.other_range}) {
      const int64_t image = range == &step.x_range ? x : other;
      if (image > 0 && steps[image - 1].kind == EK_ADD) *range = kSumRange;
    }
    if (u8) step.range = kSumRange;
    step.dtype = dtype;
    step.activation = activation;
    steps.push_back(step);
    return static_cast<int64_t>(steps.size());
  }
  int64_t pool(int64_t x, int64_t kernel, int64_t stride) {
    ek_conv2d_step step{};
    step.kind = EK_MAX_POOL;
    step.x = x;
    step.kernel_h = step.kernel_w = kernel;
    step.window = {stride, stride, 1, 1, kernel / 2, kernel / 2, kernel / 2, kernel / 2};
    steps.push_back(step);
    return static_cast<int64_t>(steps.size());
  }
  int64_t count() const { return static_cast<int64_t>(steps.size()); }
};

int64_t elements(const ek_image_shape& s) { return s.channels * s.height * s.width; }

float limited(float v, ek_activation activation) {
  if (activation != EK_NONE && v < 0) return 0;
  return activation == EK_RELU6 && v > 6 ? 6 : v;
}

float value_at(const std::vector<char>& from, ek_dtype dtype, const ek_int8_range& range, int64_t i) {
  if (dtype != EK_U8) return float_at(from.data(), dtype, i);
  return static_cast<float>(static_cast<uint8_t>(from[i]) - range.zero_point) * range.scale;
}

uint16_t half_of(float v, ek_dtype dtype) { return dtype == EK_F16 ? f32_to_f16(v) : f32_to_bf16(v); }

void store(std::vector<char>& to, ek_dtype dtype, int64_t i, float v) {
  const uint16_t half = half_of(v, dtype);
  dtype == EK_F32 ? memcpy(to.data() + 4 * i, &v, 4) : memcpy(to.data() + 2 * i, &half, 2);
}

// As floats, or first as these and then as u8 of a range, if that is what the image holds.
void store(std::vector<char>& to, ek_dtype floats, const ek_image_shape& image, int64_t i, float v,
           const ek_int8_range& range) {
  if (image.dtype != EK_U8) return store(to, image.dtype, i, v);
  if (floats != EK_F32) {
    const uint16_t half = half_of(v, floats);
    v = floats == EK_F16 ? f16_to_f32(half) : bf16_to_f32(half);
  }
  const float q = nearbyintf(v * (1.0f / range.scale)) + static_cast<float>(range.zero_point);
  to[i] = static_cast<char>(static_cast<uint8_t>(std::clamp(q, 0.0f, 255.0f)));
}

// Every step by itself, each result in memory of its own, x pixel by pixel.
std::vector<std::vector<char>> one_by_one(const Made& made, int64_t images, const std::vector<ek_image_shape>& shapes,
                                          const std::vector<char>& x) {
  std::vector<std::vector<char>> all{x};
  for (int64_t i = 0; i < made.count(); ++i) {
    const ek_conv2d_step& step = made.steps[i];
    const ek_image_shape &from = shapes[step.x], &to = shapes[i + 1];
    std::vector<char> y(images * elements(to) * bytes_of(to.dtype));
    std::vector<char>& in = all[step.x];
    if (step.kind == EK_CONV2D) {
      ek_int8_conv2d_packed layer;
      ek_int4_conv2d_packed int4_layer;
      const bool nibbles = ek_int4_conv2d_describe(step.packed, step.packed_size, &int4_layer) == EK_OK;
      if (nibbles) layer.shape = int4_layer.shape;
      REQUIRE((nibbles || ek_int8_conv2d_describe(step.packed, step.packed_size, &layer) == EK_OK));
      ek_window window = step.window;
      if (step.same_padding) {
        auto pad = [&](int64_t size, int64_t* before, int64_t* after) {
          int64_t outs = (size + window.stride_h - 1) / window.stride_h;
          int64_t all = std::max<int64_t>(0, (outs - 1) * window.stride_h + layer.shape.kernel_h - size);
          *before = all / 2;
          *after = all - all / 2;
        };
        pad(from.height, &window.top, &window.bottom);
        pad(from.width, &window.left, &window.right);
      }
      ek_images a{in.data(), from.dtype, EK_NHWC, step.x_range}, b{y.data(), to.dtype, EK_NHWC, step.range};
      const auto workspace_size = nibbles ? ek_int4_conv2d_workspace_size : ek_int8_conv2d_workspace_size;
      std::vector<char> scratch(workspace_size(made.isa, step.packed, step.packed_size, &window, images, from.height,
                                               from.width, &a, &b, step.activation, nullptr));
      REQUIRE((nibbles ? ek_int4_conv2d : ek_int8_conv2d)(made.isa, step.packed, step.packed_size, &window, images, from.height,
                                                          from.width, &a, &b, step.activation, scratch.data(), scratch.size(),
                                                          nullptr) == EK_OK);
    } else if (step.kind == EK_ADD) {
      for (int64_t k = 0; k < images * elements(to); ++k) {
        const ek_dtype other = shapes[step.other].dtype;
        const ek_dtype floats = from.dtype != EK_U8 ? from.dtype : other != EK_U8 ? other : step.dtype;
        const float sum = value_at(in, from.dtype, step.x_range, k) + value_at(all[step.other], other, step.other_range, k);
        store(y, floats, to, k, limited(sum, step.activation), step.range);
      }
    } else {
      for (int64_t b = 0; b < images; ++b)
        for (int64_t i = 0; i < to.height; ++i)
          for (int64_t j = 0; j < to.width; ++j)
            for (int64_t c = 0; c < to.channels; ++c) {
              float most = from.dtype == EK_U8 ? 0 : -INFINITY;
              for (int64_t r = 0; r < step.kernel_h; ++r)
                for (int64_t s = 0; s < step.kernel_w; ++s) {
                  int64_t p = i * step.window.stride_h + r - step.window.top,
                          q = j * step.window.stride_w + s - step.window.left;
                  if (p < 0 || q < 0 || p >= from.height || q >= from.width) continue;
                  const int64_t at = ((b * from.height + p) * from.width + q) * from.channels + c;
                  const float v = value_at(in, from.dtype, {1.0f, 0}, at);
                  if (v > most || isnan(v)) most = v;
                }
              store(y, to.dtype, to, ((b * to.height + i) * to.width + j) * to.channels + c, most, {1.0f, 0});
            }
    }
    all.push_back(std::move(y));
  }
  return all;
}

// Element by element from one order to the other.
std::vector<char> reordered(const std::vector<char>& from, const ek_image_shape& s, int64_t images, bool to_planes) {
  const int64_t bytes = bytes_of(s.dtype), pixels = s.height * s.width;
  std::vector<char> to(from.size());
  for (int64_t b = 0; b < images; ++b)
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t c = 0; c < s.channels; ++c) {
        const int64_t by_pixel = (b * pixels + p) * s.channels + c, by_plane = (b * s.channels + c) * pixels + p;
        memcpy(to.data() + bytes * (to_planes ? by_plane : by_pixel), from.data() + bytes * (to_planes ? by_pixel : by_plane),
               static_cast<size_t>(bytes));
      }
  return to;
}

std::vector<char> random_images(const ek_image_shape& x, int64_t images, uint32_t seed) {
  std::vector<char> data(images * elements(x) * bytes_of(x.dtype));
  std::vector<float> values = Random(seed).normals(images * elements(x), 0, 2);
  for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i)
    x.dtype == EK_U8 ? void(data[i] = static_cast<char>(i * 37)) : store(data, x.dtype, i, values[i]);
  return data;
}

// Runs a program, everything ending where an unreadable page begins, and compares every byte.
void check(const Made& made, int64_t images, const ek_image_shape& x, const ek_parallel* parallel = nullptr) {
  std::vector<ek_image_shape> shapes(made.count() + 1);
  REQUIRE(ek_int8_conv2d_program_shapes(made.steps.data(), made.count(), &x, shapes.data()) == EK_OK);
  const std::vector<char> from = random_images(x, images, 5);
  const std::vector<std::vector<char>> wanted = one_by_one(made, images, shapes, from);
  for (ek_image_order x_order : {EK_NHWC, EK_NCHW})
    for (ek_image_order y_order : {EK_NHWC, EK_NCHW}) {
      if ((x.dtype == EK_U8 && x_order == EK_NCHW) || (shapes.back().dtype == EK_U8 && y_order == EK_NCHW)) continue;
      INFO(ek_isa_name(made.isa), " ", made.count(), " steps, ", images, " images, orders ", int{x_order}, " ", int{y_order});
      const std::vector<char> in = x_order == EK_NCHW ? reordered(from, x, images, true) : from;
      Guarded source(in.data(), in.size()), y(wanted.back().size());
      const size_t size = ek_int8_conv2d_program_workspace_size(made.isa, made.steps.data(), made.count(), images, &x, x_order,
                                                                y_order, parallel);
      REQUIRE(size > 0);
      Guarded scratch(size);
      memset(scratch.as<char>(), 0xa5, size);
      auto run = [&](size_t scratch_size) {
        return ek_int8_conv2d_program(made.isa, made.steps.data(), made.count(), images, &x, source.as<char>(), x_order,
                                      y.as<char>(), y_order, scratch.as<char>(), scratch_size, parallel);
      };
      CHECK(run(size - 1) == EK_ERROR_WORKSPACE);
      REQUIRE(run(size) == EK_OK);
      const std::vector<char>& want =
          y_order == EK_NCHW ? reordered(wanted.back(), shapes.back(), images, true) : wanted.back();
      CHECK(memcmp(y.as<char>(), want.data(), want.size()) == 0);
    }
}

// An inverted residual, a pooling, a block with a sum and ReLU, uint8 in between where one reads it.
Made network(const ek_isa* isa, ek_dtype dtype = EK_F32, bool nibbles = false) {
  Made made(isa, dtype);
  made.nibbles = nibbles;
  int64_t head = made.conv(0, 3, 8, 3, 2, 1, false, EK_RELU6);
  int64_t wide = made.conv(head, 8, 24, 1, 1, 1, true, EK_RELU6);
  int64_t filtered = made.conv(wide, 24, 24, 3, 1, 24, true, EK_RELU6, true);
  int64_t narrow = made.conv(filtered, 24, 8, 1, 1, 1, false);
  int64_t sum = made.add(head, narrow);
  int64_t pooled = made.pool(sum, 3, 2);
  int64_t first = made.conv(pooled, 8, 16, 3, 2, 1, false, EK_RELU, true);
  int64_t second = made.conv(first, 16, 16, 3, 1, 1, false);
  int64_t past = made.conv(pooled, 8, 16, 1, 2, 1, false);
  made.add(second, past, EK_RELU6);
  return made;
}

}  // namespace

TEST_CASE("programs give what their steps give one by one, in both orders and all dtypes") {
  for (const ek_isa* isa : tested_isas()) {
    check(network(isa), 2, {3, 13, 16, EK_F32});
    check(network(isa, EK_F16), 1, {3, 10, 9, EK_F16});
    check(network(isa, EK_BF16), 3, {3, 7, 12, EK_BF16});
    check(network(isa), 1, {3, 1, 1, EK_F32});
  }
}

TEST_CASE("programs multiply by int4 weights as well, beside int8") {
  for (const ek_isa* isa : tested_isas()) {
    check(network(isa, EK_F32, true), 2, {3, 13, 16, EK_F32});
    check(network(isa, EK_F16, true), 1, {3, 10, 9, EK_F16});
  }
}

TEST_CASE("programs take uint8 and give it, and round what several convolutions read once") {
  for (const ek_isa* isa : tested_isas()) {
    Made made(isa);
    int64_t a = made.conv(0, 4, 8, 3, 1, 1, false), b = made.conv(0, 4, 8, 1, 1, 1, false);
    made.conv(made.add(a, b, EK_RELU), 8, 16, 1, 1, 1, true);
    check(made, 2, {4, 5, 6, EK_U8});
    check(made, 2, {4, 5, 6, EK_F32});
  }
}

// Images stay u8 from the first layer to the last but one: through poolings and sums, of which all but the first and the last
// follow a convolution, the second one a depthwise one.
Made residual_network(const ek_isa* isa, int64_t channels, ek_dtype dtype = EK_F32) {
  Made made(isa, dtype);
  int64_t pooled = made.pool(made.conv(0, 3, channels, 3, 2, 1, true, EK_RELU), 3, 2);
  int64_t sum = made.add(pooled, pooled, EK_NONE, true);
  for (int64_t groups : {int64_t{1}, channels, int64_t{4}}) {
    int64_t first = made.conv(sum, channels, channels, 3, 1, 1, true, EK_RELU);
    int64_t second = made.conv(first, channels, channels, 3, 1, groups, false, groups == 4 ? EK_GELU : EK_NONE);
    sum = groups == 4 ? made.add(sum, second, EK_RELU6, true) : made.add(second, sum, EK_RELU, true);
  }
  int64_t wide = made.conv(sum, channels, 2 * channels, 1, 2, 1, false);
  made.add(wide, made.conv(sum, channels, 2 * channels, 3, 2, 1, false), EK_RELU);
  return made;
}

TEST_CASE("sums and poolings of uint8, by themselves and as part of the convolution before them") {
  for (const ek_isa* isa : tested_isas()) {
    check(residual_network(isa, 24), 2, {3, 21, 18, EK_F32});
    check(residual_network(isa, 72), 1, {3, 13, 16, EK_F32});
    check(residual_network(isa, 128), 1, {3, 9, 9, EK_F32});
    check(residual_network(isa, 8, EK_F16), 1, {3, 10, 9, EK_F16});
    check(residual_network(isa, 20, EK_BF16), 1, {3, 10, 9, EK_BF16});
  }
}

TEST_CASE("sums as part of convolutions of every form, on several threads") {
  Pool pool(3);
  const ek_parallel parallel = pool.parallel();
  for (const ek_isa* isa : tested_isas())
    for (ek_int8_form form : {EK_INT8_DENSE, EK_INT8_BITMAP, EK_INT8_BITMAP_4, EK_INT8_BLOCKS_2, EK_INT8_BLOCKS_8, EK_INT8_CSR})
      for (bool nibbles : {false, true}) {
        if (nibbles && form != EK_INT8_DENSE) continue;
        Made made(isa);
        made.form = form;
        made.nibbles = nibbles;
        int64_t first = made.conv(0, 16, 152, 3, 1, 1, true, EK_RELU);
        int64_t past = made.conv(0, 16, 152, 1, 1, 1, true);
        made.add(made.conv(first, 152, 152, 1, 1, 1, false), past, EK_RELU);
        check(made, 1, {16, 15, 13, EK_F32}, &parallel);
      }
}

TEST_CASE("what a convolution gives to a sum alone has no memory, and what convolutions read of sums is rounded once") {
  const ek_isa* isa = tested_isas().front();
  Made made(isa);
  int64_t a = made.conv(0, 8, 8, 1, 1, 1, false), b = made.conv(a, 8, 8, 3, 1, 1, false);
  int64_t c = made.conv(made.add(a, b, EK_RELU), 8, 8, 1, 1, 1, false);
  made.add(c, c);  // reads it twice
  int8::program::Program program{};
  REQUIRE(int8::program::open_program(isa, made.steps.data(), made.count(), 1, {8, 6, 5, EK_F32}, EK_NHWC, EK_NHWC, nullptr,
                                      &program) == EK_OK);
  const int8::program::Image* images = program.images.get();
  CHECK(images[a].sum == int8::program::kNone);
  CHECK(images[b].sum == 2);
  CHECK(images[b].offset == int8::program::kOutside);
  CHECK(images[3].conv == 1);
  CHECK(images[3].shape.dtype == EK_U8);
  CHECK(images[3].range.scale == kRange.scale);
  CHECK(images[c].sum == int8::program::kNone);
  CHECK(program.room == images[a].room() + images[3].room());
  check(made, 2, {8, 6, 5, EK_F32});
}

TEST_CASE("programs run on several threads, in slabs of images") {
  Pool pool(3);
  const ek_parallel parallel = pool.parallel();
  Made made = network(tested_isas().front());
  check(made, 9, {3, 160, 180, EK_F32}, &parallel);
  check(residual_network(tested_isas().front(), 24), 9, {3, 130, 150, EK_F32}, &parallel);
}

TEST_CASE("programs of random steps: what is still to be read is never written over") {
  const ek_isa* isa = tested_isas().front();
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const std::vector<uint8_t> draws = random.integers<uint8_t>(64, 0, 255);
    Made made(isa);
    for (int64_t i = 0; i < 3 + draws[0] % 14; ++i) {
      const int64_t n = i + 1, x = draws[3 * i + 1] % n, other = draws[3 * i + 2] % n;
      const bool u8 = draws[3 * i + 3] % 3 == 0;
      if (draws[3 * i + 3] % 2 == 0)
        made.add(x, other, u8 ? EK_RELU : EK_NONE, draws[3 * i + 2] % 4 == 0);
      else if (draws[3 * i + 3] % 5 == 0)
        made.pool(x, 3, 1);
      else
        made.conv(x, 8, 8, u8 ? 3 : 1, 1, 1, u8);
    }
    check(made, 1 + seed % 2, {8, 6, 5, EK_F32});

    int8::program::Program program{};
    REQUIRE(int8::program::open_program(isa, made.steps.data(), made.count(), 1, {8, 6, 5, EK_F32}, EK_NHWC, EK_NHWC, nullptr,
                                        &program) == EK_OK);
    int64_t all = 0;
    for (int64_t i = 0; i <= made.count(); ++i) {
      const int8::program::Image& a = program.images[i];
      if (a.offset == int8::program::kOutside) continue;
      all += a.room();
      CHECK(a.offset % 64 == 0);
      CHECK(a.offset + a.room() <= program.room);
      for (int64_t j = i + 1; j <= made.count(); ++j) {
        const int8::program::Image& b = program.images[j];
        const bool apart = a.offset + a.room() <= b.offset || b.offset + b.room() <= a.offset;
        if (b.offset != int8::program::kOutside && a.last_reader >= j - 1) CHECK(apart);
      }
    }
    CHECK(program.room <= all);
  }
}

TEST_CASE("a chain of steps takes no more room than two of its images") {
  const ek_isa* isa = tested_isas().front();
  Made made(isa);
  for (int64_t i = 0; i < 10; ++i) made.conv(i, 8, 8, 1, 1, 1, false);
  int8::program::Program program{};
  REQUIRE(int8::program::open_program(isa, made.steps.data(), 10, 1, {8, 6, 5, EK_F32}, EK_NHWC, EK_NHWC, nullptr, &program) ==
          EK_OK);
  CHECK(program.room == 2 * program.images[1].room());
}

TEST_CASE("programs that cannot be are refused before anything runs") {
  const ek_isa* isa = tested_isas().front();
  const ek_image_shape x{3, 8, 8, EK_F32};
  std::vector<float> in(3 * 64), out(16 * 64, 7.0f);
  std::vector<char> scratch(1 << 20);
  auto refused = [&](auto change, ek_image_shape shape = {3, 8, 8, EK_F32}) {
    Made made(isa);
    int64_t a = made.conv(0, 3, 8, 3, 1, 1, false);
    int64_t b = made.conv(a, 8, 8, 3, 1, 1, false);
    made.pool(made.add(a, b), 3, 1);
    change(made);
    ek_status status = ek_int8_conv2d_program(isa, made.steps.data(), made.count(), 1, &shape, in.data(), EK_NHWC, out.data(),
                                              EK_NHWC, scratch.data(), scratch.size(), nullptr);
    CHECK(out == std::vector<float>(16 * 64, 7.0f));
    CHECK((status == EK_OK) == (ek_int8_conv2d_program_workspace_size(isa, made.steps.data(), made.count(), 1, &shape, EK_NHWC,
                                                                      EK_NHWC, nullptr) > 0));
    return status;
  };
  CHECK(refused([](Made& m) { m.steps[1].x = 2; }) == EK_ERROR_STEP);
  CHECK(refused([](Made& m) { m.steps[1].x = -1; }) == EK_ERROR_STEP);
  CHECK(refused([](Made& m) { m.steps[2].other = 3; }) == EK_ERROR_STEP);
  CHECK(refused([](Made& m) { m.steps[2].other = 0; }) == EK_ERROR_STEP);  // of another number of channels
  CHECK(refused([](Made& m) { m.steps[1].x = 0; }) == EK_ERROR_STEP);
  CHECK(refused([](Made& m) { m.steps[0].kind = static_cast<ek_step_kind>(7); }) == EK_ERROR_STEP);
  CHECK(refused([](Made& m) { m.steps[2].activation = EK_GELU; }) == EK_ERROR_ACTIVATION);
  CHECK(refused([](Made& m) { m.steps[1].activation = static_cast<ek_activation>(99); }) == EK_ERROR_ACTIVATION);
  CHECK(refused([](Made& m) { m.steps[2].x_range = m.steps[2].other_range = {}, m.steps[1].range = kRange; }) ==
        EK_ERROR_IMAGES);  // a sum of uint8 of no range
  CHECK(refused([](Made& m) { m.steps[2].range = {0.1f, 300}; }) == EK_ERROR_IMAGES);
  CHECK(refused([](Made& m) { m.steps[0].range = m.steps[1].range = kRange, m.steps[2].dtype = EK_U8; }) == EK_ERROR_DTYPE);
  CHECK(refused([](Made& m) { m.steps[1].range = {-1, 0}; }) == EK_ERROR_IMAGES);
  CHECK(refused([](Made& m) { m.steps[1].x_range = {}; }) == EK_ERROR_IMAGES);
  CHECK(refused([](Made& m) { m.steps[1].dtype = EK_U8; }) == EK_ERROR_DTYPE);
  CHECK(refused([](Made& m) { m.steps[1].packed = nullptr; }) == EK_ERROR_NULL_POINTER);
  CHECK(refused([](Made& m) { m.steps[1].packed_size = 64; }) == EK_ERROR_PACKED);
  CHECK(refused([](Made& m) { m.steps[1].window.stride_h = 0; }) == EK_ERROR_WINDOW);
  CHECK(refused([](Made& m) { m.steps[3].kernel_h = 100; }) == EK_ERROR_WINDOW);
  CHECK(refused([](Made& m) { m.steps.clear(); }) != EK_OK);
  CHECK(refused([](Made&) {}, {3, -1, 8, EK_F32}) == EK_ERROR_SHAPE);
  CHECK(refused([](Made&) {}, {4, 8, 8, EK_F32}) == EK_ERROR_STEP);
  CHECK(refused([](Made&) {}, {3, 8, 8, static_cast<ek_dtype>(9)}) == EK_ERROR_DTYPE);

  Made made(isa);
  made.conv(0, 3, 8, 3, 1, 1, false);
  auto call = [&](int64_t images, const void* from, void* to) {
    return ek_int8_conv2d_program(isa, made.steps.data(), 1, images, &x, from, EK_NHWC, to, EK_NHWC, scratch.data(),
                                  scratch.size(), nullptr);
  };
  CHECK(call(1, nullptr, out.data()) == EK_ERROR_NULL_POINTER);
  CHECK(call(1, in.data(), nullptr) == EK_ERROR_NULL_POINTER);
  CHECK(call(-1, in.data(), out.data()) == EK_ERROR_SHAPE);
  CHECK(call(0, nullptr, nullptr) == EK_OK);
}
