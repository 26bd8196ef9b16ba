// A call of an int8 or int4 convolution: how its work is cut, where its parts stand in the workspace, and what its tickets share.
#pragma once

#include <stdint.h>

#include "base/math.h"
#include "formats/int4/layout.h"
#include "formats/int8/conv2d_layout.h"
#include "isa/kernels.h"
#include "ops/conv2d_frame.h"
#include "ops/int8_sum.h"

namespace edgekern::int8 {

using conv2d::Geometry;

inline constexpr int64_t kRangeElements = 64 * 1024;  // a ticket of x to look through
inline constexpr int64_t kSlack = 64;                 // bytes that may be read, and for copies written, beyond the last
inline constexpr int64_t kTileChannels = 64;          // that the widest tile holds, and a depthwise kernel's

inline int64_t aligned(int64_t bytes) { return round_up(bytes, 64); }

// A packed layer, opened: all groups' matrices are of one layout.
struct OpenConv2d {
  Conv2dPacked packed;
  Layout matrix;             // of int8, but for depthwise layers
  int4::Layout int4_matrix;  // of int4

  bool nibbles() const { return packed.nibbles; }
  bool in_blocks() const { return !nibbles() && !packed.layout.depthwise() && !in_panels(matrix.form); }
};

// How a call's work is cut, and where its parts stand in the workspace.
struct Plan {
  Geometry geometry;
  bool planes;          // x and y are channel by channel
  bool adds;            // something is added to y
  bool adds_directly;   // by what multiplies, in registers
  bool reads_image;     // rows of activations need not be gathered: they are the pixels of a u8 image
  bool in_place;        // x is u8 already, and read where it lies; zeros around it are not
  bool folds;           // y is u8, and its range and activation go into the layer's scale and bias
  int64_t value_bytes;  // of y
  int32_t zero_byte;    // what images of zeros are made of
  int64_t slab_images, range_pieces;
  int64_t threads;

  // Of a ticket of pixels of y. Rows of activations, so many gathered at a time, and what kernels take:
  int64_t block_rows, gather_rows, gather_stride, lhs_bytes;
  int64_t sums, lhs_stride;  // of panels: what a row is summed over, k by blocks or by groups of int4
  blocks::Tiles tiles;       // of kept blocks, for block_rows of them
  // Depthwise: columns of the image that a run of pixels meets, and a row of zeros where the image has none around it.
  int64_t span, column_bytes, zeros_bytes;
  int64_t tile_stride;  // elements, of results that are on their way to planes or to a sum
  bool spans;           // what of windows lies outside of the image, where it is zeros, is not multiplied
  bool windows;         // rows of activations are multiplied where they lie in the u8 image
  bool framed;          // and in the order of `frame`; otherwise that is the order of y
  conv2d::Frame frame;
  int64_t folded_channels;  // of which scales and biases are folded at a time: a group's, or 64 of a depthwise layer

  // From one u8 image, and row of it, to the next.
  int64_t image_bytes() const { return in_place ? geometry.height * row_bytes() : geometry.image_bytes(); }
  int64_t row_bytes() const { return in_place ? geometry.width * geometry.shape.in_channels : geometry.row_bytes(); }

  int64_t images_bytes() const { return in_place ? 0 : aligned(slab_images * geometry.image_bytes() + kSlack); }
  int64_t ranges_bytes() const { return aligned(slab_images * range_pieces * static_cast<int64_t>(sizeof(RowRange))); }
  bool through_tile() const { return planes || (adds && !adds_directly); }
  int64_t tile_bytes() const { return through_tile() ? aligned(round_up(block_rows, 16) * tile_stride * value_bytes) : 0; }
  int64_t gathered_bytes() const { return aligned(gather_rows * gather_stride + kSlack); }
  int64_t rows_bytes() const { return gathered_bytes() + aligned(lhs_bytes); }
  int64_t numbers_bytes() const { return aligned(4 * block_rows * (3 + sums)); }
  int64_t folded_bytes() const { return folds ? aligned(8 * folded_channels) : 0; }
  int64_t spans_bytes() const { return spans ? aligned(block_rows * static_cast<int64_t>(sizeof(Span))) : 0; }
  int64_t windows_bytes() const { return windows ? aligned(block_rows * static_cast<int64_t>(sizeof(void*))) : 0; }
  int64_t places_bytes() const { return framed ? aligned(4 * block_rows) : 0; }
  int64_t slot_bytes() const {
    return tile_bytes() + rows_bytes() + numbers_bytes() + folded_bytes() + column_bytes + spans_bytes() + windows_bytes() +
           places_bytes();
  }
  int64_t bytes() const { return kSlack + images_bytes() + zeros_bytes + ranges_bytes() + threads * slot_bytes(); }
};

Plan plan_of(const edgekern::Kernels& kernels, const OpenConv2d& layer, const Geometry& geometry, int64_t images,
             const ek_images& x, const ek_images& y, ek_activation activation, bool adds, const ek_parallel* parallel);

// What one thread works in.
struct Slot {
  char* tile;
  uint8_t* gathered;
  LhsRows lhs;
  LhsTiles tiles;       // in its place, of kept blocks
  int32_t* zero_point;  // u8's, of every row
  uint8_t* columns;
  float *scale, *bias;  // folded
  Span* spans;
  const uint8_t** windows;
  int32_t* places;
};

Slot slot_at(const Plan& plan, char* start);

// One call, with all that its tickets share.
struct Call {
  const edgekern::Kernels* kernels;
  OpenConv2d layer;
  Plan plan;
  ek_images x, y;  // from the slab's first image on
  ek_activation activation;
  Sum sum;  // where plan.adds
  const ek_parallel* parallel;
  uint8_t* images;
  uint8_t* zeros;
  RowRange* ranges;
  char* slots;

  int64_t x_elements() const { return plan.geometry.shape.in_channels * plan.geometry.height * plan.geometry.width; }
  int64_t y_elements() const { return plan.geometry.shape.out_channels * plan.geometry.out_pixels(); }
  int64_t macs(int64_t count) const {
    return count * plan.geometry.out_pixels() * plan.geometry.k() * plan.geometry.shape.out_channels;
  }
  uint8_t* image(int64_t b) const { return images + b * plan.image_bytes(); }

  RowScale scale(int64_t b) const {
    if (x.range.scale != 0) return scale_of(x.range);
    RowRange all{0.0f, 0.0f, true};
    for (int64_t i = 0; i < plan.range_pieces; ++i) {
      const RowRange& piece = ranges[b * plan.range_pieces + i];
      all = {piece.low < all.low ? piece.low : all.low, piece.high > all.high ? piece.high : all.high,
             all.finite && piece.finite};
    }
    RowScale found = scale_of(all);
    if (found.zero) found.zero_point = plan.zero_byte;
    return found;
  }
};

// What a piece of an image holds, by ticket.
void find_range(const Call& call, int64_t ticket);

// Rows [row, row + 1) of the u8 image, whose first `top` rows are zeros, or, where rows follow each other without zeros between
// them, as many as are asked for at once. Returns how many it was.
int64_t quantize_rows(const Call& call, int64_t b, int64_t row, int64_t end, const RowScale& scale);

// The work of a call's first `images`, cut into tickets: in so many phases, none of which can start before the one before it is
// done. `thread` says whose slot a ticket works in.
enum : int64_t { kRanges = 0, kRows = 1, kMultiply = 2, kCallPhases = 3 };
int64_t ticket_count(const Call& call, int64_t phase, int64_t images);
void run_ticket(const Call& call, int64_t phase, int64_t images, int64_t ticket, int64_t thread);

// What a caller gives, with weights of one format or of either.
enum class Weights { kInt8, kInt4, kEither };
struct Given {
  const ek_isa* isa;
  const void* packed;
  size_t packed_size;
  Weights weights;
  const ek_window* window;
  int64_t images, height, width;
  const ek_images *x, *y;
  ek_activation activation;
  const ek_parallel* parallel;
  const Sum* sum = nullptr;  // y is then what is added to, and has no memory
};

// A call, looked at and planned; what it works on may have no memory yet.
ek_status open_call(const Given& given, Call* call);
// Another plan, for so many images.
void plan_call(Call* call, int64_t images);
// Gives it plan.bytes() of workspace.
void place_call(Call* call, void* workspace);

// As ek_int8_conv2d_workspace_size and ek_int8_conv2d.
size_t conv2d_workspace_size(const Given& given);
ek_status run_conv2d(const Given& given, void* workspace, size_t workspace_size);

}  // namespace edgekern::int8
