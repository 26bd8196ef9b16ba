// The kernel table: what every ISA file exports, one constant of this type and nothing else.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "edgekern/edgekern.h"
#include "formats/int8/layout.h"
#include "formats/int8/row_scale.h"

namespace edgekern {

// y as u8, in either of two ways: by what is not folded into the layer's own numbers, or all of it is.
struct U8Output {
  float inverse = 0;  // 1 / scale of y
  int32_t zero_point = 0;
  // Folded: sum * rhs.scale + rhs.bias is u8 already but for rounding, activation and all, which is a pair of limits.
  bool folded = false;
  int32_t low = 0, high = 255;
};

namespace int8 {
struct SumArgs;
}

struct Output {
  void* y;       // of dtype, or int32 when integers is set
  int64_t ld_y;  // elements
  ek_dtype dtype;
  ek_activation activation;
  bool integers;  // int8: store the int32 sums instead of finishing them
  U8Output u8 = {};
  // int8, of one block of K and rows of one image: what is added, and where that goes, instead of all of the above; `a` is what is
  // multiplied.
  const int8::SumArgs* sum = nullptr;
};

namespace blocks {

// How the rows of lhs are cut into tiles for a matrix of kept blocks:
//
//   tile of w rows:   block 0: r0 r1 .. r(w-1) | block 1: r0 r1 .. | ...       r: a word, a block's values of k of one row
//
// A word is 4 bytes, or 2 where an ISA multiplies halves.
//
// Each tile has tile_rows rows; what is left at the end is cut into tiles of half, a quarter, ... down to the narrowest.
struct Tiles {
  int64_t depth;  // blocks of K in a tile; the tile of rows m0.. starts at word m0 * depth
  int64_t rows;   // that hold activations
  int64_t tile_rows, narrowest;
};

// A packed matrix of kept blocks (formats/blocks/layout.h explains it); a weight is an int32_t, a float or an f16's bits.
template <class Weight>
struct Rhs {
  int64_t n, padded_n;
  int64_t k_panels;
  int64_t panel_blocks;    // blocks of K in each k panel
  const uint32_t* starts;  // [k_panels * groups + 1]
  const Weight* weights;   // [blocks][R]
  const void* places;      // [blocks] u8, or u16 for groups of 4 and 8; [blocks][D] u16 of scattered blocks
};

}  // namespace blocks

namespace int8 {

// What of a row of activations is multiplied: values [begin, end) of k. Where rows are windows, these are whole lines, and of each
// line `run` values from `skip` on.
struct Span {
  int64_t begin, end;
  int64_t skip, run;
  int64_t same;  // so many rows, from this one on, have this span
};

// Rows of activations that are windows of a u8 image and lie in it: of each line of a window, values of k side by side.
struct Windows {
  const uint8_t* const* rows;  // [rows]: where the first line of each starts
  int64_t line;                // values of k in a line, a multiple of kDepthUnit
  int64_t next_line;           // bytes
  const int32_t* places;  // [rows]: rows of y that they make, or nullptr: in their order. Not for sums that go through a tile
};

// Quantised activations in the row layout of one ISA, in the caller's workspace. Rows come in groups of the ISA's
// kGroupRows, interleaved by kStepDepth values of k, so that one load serves all of a group:
//   groups of 1:  r0 k0.. | r1 k0.. | ...
//   groups of 2:  r0 k0-7, r1 k0-7, r0 k8-15, r1 k8-15, ... | r2 k0-7, r3 k0-7, ...
struct LhsRows {
  uint8_t* data;        // group g starts at data + g * kGroupRows * stride
  int64_t stride;       // bytes a row
  float* scale;         // [rows]
  int32_t* zero_point;  // [rows], already less the ISA's kZeroOffset
  int32_t* row_sum;     // [blocks of K][rows]: what the ISA's trick owes to each sum, see its file. int4: [groups][rows], the
                        // sum of the row's activations
  int64_t rows;         // whole groups
  // Given only where rows are plain (RowLayout), and of a single block of K; else nullptr.
  const Span* spans = nullptr;       // [rows]: all that is not 0 of each
  const Windows* windows = nullptr;  // where the rows are, instead of `data`
};

// The packed matrix, as plain numbers and pointers (layout.h explains them).
struct RhsPanels {
  int64_t n, padded_n;
  int64_t padded_k;
  int64_t blocks;             // of kBlockDepth
  const int8_t* panels;       // of the dense form; of a bitmap form the values that are kept
  const uint8_t* masks;       // of a bitmap form, as is the next
  const uint64_t* starts;     // [panels]: where each one's values start
  const int32_t* column_sum;  // [blocks][padded_n]
  const int32_t* odd_sum;     // the same
  const float* scale;         // [padded_n]
  const float* bias;          // [padded_n]
};

struct GemmArgs {
  LhsRows lhs;
  RhsPanels rhs;
  Output output;
};

// How an ISA wants the rows of lhs.
struct RowLayout {
  int64_t rows;        // tile rows: M is best split at multiples of this
  int64_t group_rows;  // rows interleaved in LhsRows
  int64_t lhs_bytes;   // bytes an activation takes in LhsRows
  bool plain;          // LhsRows holds rows of u8 as they are, and nothing is owed
};

struct DenseKernels {
  const char* gemm_name;
  const char* gemv_name;  // the same template at M = 1
  Order order;            // of the packed matrix
  RowLayout lhs;
  // Rows [m0, m1) of lhs, found at `x` with row 0 first, into out: by `range`, or each by its own where that is nullptr.
  void (*quantize)(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0, int64_t m1,
                   const LhsRows& out);
  // The same rows as plain u8, for integer pipelines; zero points in 0..255.
  void (*quantize_u8)(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0,
                      int64_t m1, uint8_t* q, int64_t ld_q, float* scale, int32_t* zero_point);
  // Rows that are u8 already.
  void (*load_u8)(const uint8_t* q, int64_t ld_q, const int32_t* zero_point, int64_t k, int64_t m0, int64_t m1,
                  const LhsRows& out);
  // y[m0..m1) x panels [p0, p1), of the dense form and of those with a bit for each weight and for each 4.
  void (*gemm)(const GemmArgs& args, int64_t m0, int64_t m1, int64_t p0, int64_t p1);
  void (*gemm_bitmap)(const GemmArgs& args, int64_t m0, int64_t m1, int64_t p0, int64_t p1);
  void (*gemm_bitmap_4)(const GemmArgs& args, int64_t m0, int64_t m1, int64_t p0, int64_t p1);
  // The first k weights of channel n of the dense form as floats, to y from element `at` on.
  void (*read_row)(const RhsPanels& rhs, int64_t n, int64_t k, void* y, ek_dtype dtype, int64_t at);
};

// Quantised activations for the block forms.
struct LhsTiles {
  blocks::Tiles tiles;
  int32_t* data;
  float* scale;         // [rows]
  int32_t* zero_point;  // [rows], as it is left to subtract: 0 where the stored values already lack it
};

struct SpmmArgs {
  LhsTiles lhs;
  blocks::Rhs<int32_t> rhs;
  const int32_t* column_sum;  // [padded_n]
  const float* scale;         // [padded_n]
  const float* bias;          // [padded_n]
  Output output;
};

struct BlockKernels {
  const char* name;
  Order order;           // line_depth: values of k in a block, 4 as s8 or 2 as s16
  int64_t narrowest;     // rows of the narrowest tile; wider ones are a power of two times this
  int64_t read_rows;     // that one thread has to bring into their tiles
  int64_t tile_rows[4];  // for blocks of 1, 2, 4, 8 output channels
  // Rows [m0, m1) of lhs, m0 a multiple of read_rows; `range` as above.
  void (*quantize)(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, const ek_int8_range* range, int64_t m0, int64_t m1,
                   const LhsTiles& out);
  void (*load_u8)(const uint8_t* q, int64_t ld_q, const int32_t* zero_point, int64_t k, int64_t m0, int64_t m1,
                  const LhsTiles& out);
  // y of the tile of w rows that starts at m0 x panels [p0, p1) of 16 output channels; by log2(R).
  void (*spmm[4])(const SpmmArgs& args, int64_t m0, int64_t w, int64_t p0, int64_t p1);
};

// Windows of neighbouring pixels of y, from a u8 image with its zeros around it; formats/int8/gather.h.
struct GatherArgs {
  const uint8_t* image;           // at channel 0 of a group
  int64_t next_line, next_pixel;  // bytes, from the window of a pixel of y to that of the one below and of the one beside it
  int64_t width;                  // of y
  int64_t lines, next_line_of_window;
  int64_t runs, next_run, run;  // of a line of the window: bytes side by side
  uint8_t* rows;
  int64_t stride;
};

// A depthwise convolution of one image; formats/int8/depthwise.h has the picture.
struct DepthwiseArgs {
  const uint8_t* image;   // u8
  const uint8_t* zeros;   // a row of the zero point, for what lies above and below the image
  int64_t height, width;  // of the image
  int64_t top, left;      // rows and columns of zeros that windows meet before it
  int64_t row_bytes, pixel_bytes;
  int64_t channels, padded_channels;
  int64_t kernel_h, kernel_w, row_groups;
  int64_t stride_h, stride_w, dilation_h, dilation_w;
  const int32_t* words;       // [row_groups][kernel_w][padded_channels]
  const int32_t* column_sum;  // [padded_channels], as are the next
  const float* rhs_scale;
  const float* bias;
  float scale;         // the image's
  int32_t zero_point;  // the same, of u8
  uint8_t* columns;    // scratch, [row_groups][span][64][depth]
  int64_t span;        // columns of the image that a run of pixels meets
  Output output;       // y at the run's first pixel and channel 0
};

// One side of a sum of images: rows of floats, or of u8.
struct Addend {
  const void* data;
  int64_t stride;  // elements from a row to the next
  ek_dtype dtype;
  float scale;  // of u8, as is the next
  int32_t zero_point;
};

// act(a + b), rounded to `floats` before the activation, as floats or by `range` to u8; formats/int8/sum.h.
struct SumArgs {
  Addend a, b;
  void* y;
  int64_t ld_y;
  ek_dtype floats;  // of a and b where they are not u8
  ek_dtype dtype;   // of y: that of floats, or u8
  ek_int8_range range;
  ek_activation activation;  // none, relu or relu6
};

// The largest of each window of u8 images, pixel by pixel; formats/int8/max_pool.h.
struct PoolArgs {
  const uint8_t* x;
  uint8_t* y;
  int64_t channels;
  int64_t height, width;  // of x
  int64_t out_height, out_width;
  int64_t kernel_h, kernel_w;
  ek_window window;
};

// What convolutions need beside a gemm.
struct ImageKernels {
  const char* depthwise_name;
  int64_t depth;  // of the depthwise kernel's words
  // What elements [start, start + count) of x hold.
  RowRange (*range)(const void* x, ek_dtype dtype, int64_t start, int64_t count);
  // Pixels from element `start` on to q [pixels][channels]: side by side with all their channels where plane is 0, else each
  // channel by itself, `plane` elements from the next.
  void (*quantize)(const void* x, ek_dtype dtype, int64_t start, int64_t plane, int64_t pixels, int64_t channels,
                   const RowScale& scale, uint8_t* q);
  // A tile [rows][ld_tile] of results to y, from element `start` on, channel by channel. Both are rounded up to 16 in its memory.
  void (*store_planes)(const void* tile, int64_t ld_tile, int64_t rows, int64_t columns, ek_dtype dtype, void* y, int64_t start,
                       int64_t plane);
  // The windows of pixels [p0, p1) of y, one after the other. Up to 63 bytes more are read of each run, and written after it.
  void (*gather)(const GatherArgs& args, int64_t p0, int64_t p1);
  // Pixels [ox, ox + pixels) of row oy of y, in up to 64 channels from c0 on.
  void (*depthwise)(const DepthwiseArgs& args, int64_t oy, int64_t ox, int64_t pixels, int64_t c0);
  void (*add)(const SumArgs& args, int64_t rows, int64_t columns);
  // Rows [begin, end) of y, counted through all images.
  void (*max_pool)(const PoolArgs& args, int64_t begin, int64_t end);
};

}  // namespace int8

namespace int4 {

// The packed matrix, as plain numbers and pointers (formats/int4/layout.h explains them).
struct RhsPanels {
  int64_t n, padded_n;
  int64_t padded_k;
  int64_t group_size, groups;
  const uint16_t* scale;    // f16, [panels][groups][16]
  const uint8_t* zero;      // the same; nullptr when all are 8
  const uint8_t* lines;     // of the dense form; of a bitmap form what is kept
  const uint8_t* masks;     // of a bitmap form, as is the next
  const uint64_t* starts;   // [panels]: where each one's nibbles start
  const float* weight_sum;  // [padded_n]
  const float* bias;        // [padded_n]
};

struct GemmArgs {
  int8::LhsRows lhs;
  RhsPanels rhs;
  Output output;
};

struct Kernels {
  const char* gemm_name;
  const char* gemv_name;
  int32_t line_depth;  // values of k side by side, as in int8::Order
  int8::RowLayout lhs;
  // As int8's.
  void (*quantize)(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, int64_t group_size, int64_t m0, int64_t m1,
                   const int8::LhsRows& out);
  void (*load_u8)(const uint8_t* q, int64_t ld_q, const int32_t* zero_point, int64_t k, int64_t group_size, int64_t m0,
                  int64_t m1, const int8::LhsRows& out);
  // y[m0..m1) x panels [p0, p1).
  void (*gemm)(const GemmArgs& args, int64_t m0, int64_t m1, int64_t p0, int64_t p1);
  void (*gemm_bitmap)(const GemmArgs& args, int64_t m0, int64_t m1, int64_t p0, int64_t p1);
  void (*gemm_bitmap_2)(const GemmArgs& args, int64_t m0, int64_t m1, int64_t p0, int64_t p1);
  void (*read_row)(const RhsPanels& rhs, int64_t n, int64_t k, void* y, ek_dtype dtype, int64_t at);
};

}  // namespace int4

// int8 or int4 weights by activations that stay floats; formats/mixed/README.md.
namespace mixed {

struct LhsRows {
  float* data;     // rows of f32, zeros beyond k
  int64_t stride;  // floats a row
  int64_t rows;    // of a slab: the kernel is chosen by them, not by a ticket's, or threads would change the order of sums
};

template <class Rhs>
struct Args {
  LhsRows lhs;
  Rhs rhs;
  Output output;
};

struct Kernels {
  int64_t rows;  // tile rows: M is best split at multiples of this
  // Rows [m0, m1) of lhs, found at `x` with row 0 first, into out, with zeros from k to padded_k.
  void (*load)(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, int64_t padded_k, int64_t m0, int64_t m1,
               const LhsRows& out);
  // y[m0..m1) x panels [p0, p1), of the dense forms.
  void (*gemm_int8)(const Args<int8::RhsPanels>& args, int64_t m0, int64_t m1, int64_t p0, int64_t p1);
  void (*gemm_int4)(const Args<int4::RhsPanels>& args, int64_t m0, int64_t m1, int64_t p0, int64_t p1);
};

}  // namespace mixed

// Weights that stay floats: f32 and f16.
namespace floats {

struct LhsTiles {
  blocks::Tiles tiles;
  void* data;        // f32, or f16 where an ISA multiplies halves
  float* row_scale;  // [rows]: what such an ISA has divided them by
};

template <class Weight>
struct SpmmArgs {
  LhsTiles lhs;
  blocks::Rhs<Weight> rhs;
  const float* bias;   // [padded_n]
  const float* scale;  // [padded_n], of f16
  Output output;
};

template <class Weight>
struct Kernels {
  const char* name;
  int64_t lhs_bytes;     // of an activation in its tile: 4, or 2 where halves are multiplied
  int64_t narrowest;     // rows of the narrowest tile, one vector; wider ones are a power of two times this
  int64_t read_rows;     // the same: rows that one thread has to bring into their tiles
  int64_t tile_rows[4];  // for groups of 1, 2, 4, 8 output channels
  // Rows [m0, m1) of lhs, m0 a multiple of read_rows.
  void (*load)(const void* x, ek_dtype dtype, int64_t ld_x, int64_t k, int64_t m0, int64_t m1, const LhsTiles& out);
  // y of the tile of w rows that starts at m0 x panels [p0, p1) of 16 output channels; by log2(R).
  void (*spmm[4])(const SpmmArgs<Weight>& args, int64_t m0, int64_t w, int64_t p0, int64_t p1);
};

}  // namespace floats

// Rows of floats between layers; formats/rows/README.md. All begin at an element of what they are given, and y may be x.
namespace rows {

struct Kernels {
  float (*sum_squares)(const void* x, ek_dtype dtype, int64_t at, int64_t n);
  // y = x * factor * weight
  void (*scale)(const void* x, int64_t at, const void* weight, ek_dtype dtype, int64_t n, float factor, void* y, int64_t to);
  // y = activation(z) * x
  void (*gate)(const void* z, int64_t at_z, const void* x, int64_t at_x, ek_dtype dtype, int64_t n, ek_activation activation,
               void* y, int64_t to);
  // Pairs (x[i], x[i + n/2]) turned by the angles whose cosines and sines are given; y may not be x.
  void (*rotate)(const void* x, int64_t at, const void* cos, const void* sin, int64_t at_table, ek_dtype dtype, int64_t n,
                 void* y, int64_t to);
};

}  // namespace rows

struct Kernels {
  int8::DenseKernels int8;
  int8::ImageKernels int8_images;
  int8::BlockKernels int8_blocks;
  int8::BlockKernels int8_csr;  // groups of one channel alone
  int4::Kernels int4;
  mixed::Kernels mixed;
  floats::Kernels<float> f32;
  floats::Kernels<uint16_t> f16;
  rows::Kernels rows;
  int64_t (*peak_int8_macs)(int64_t steps);
  uint64_t (*stream_read)(const void* data, size_t size);
};

}  // namespace edgekern

// One row of the ISA table (cmake/isa_table.cmake fills it, isa/table.cc holds it).
struct ek_isa {
  const char* name;
  const char* needs;  // CPU features, space separated
  const edgekern::Kernels* kernels;
};

namespace edgekern {

// `isa` itself, or the default one when it is NULL; EK_ERROR_ISA when this CPU cannot run it.
ek_status resolve_isa(const ek_isa* isa, const Kernels** kernels);

}  // namespace edgekern
