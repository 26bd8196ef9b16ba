// edgekern's C ABI: the only public header, and the only way into the native library.
//
// Rules that hold for every function here:
//   * It returns an ek_status (or a plain value that cannot fail) and never throws.
//   * It allocates nothing but the one thread pool you ask for: buffers and workspace are the caller's.
//   * It keeps no state but the CPU probe, so it may be called from any number of threads at once.
//   * Leading dimensions (ld_*) count elements, not bytes, and may exceed the row length.
//   * Names: lhs = activations (M x K), rhs = weights (N x K), both row-major; "packed" = rhs in kernel order.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EK_API __declspec(dllexport)
#else
#define EK_API __attribute__((visibility("default")))
#endif

// A caller may pass any number where an enum is asked for, and gets an error for it: in C++ too that has to be defined.
#ifdef __cplusplus
#define EK_ENUM_TYPE : int
#else
#define EK_ENUM_TYPE
#endif

#ifdef __cplusplus
extern "C" {
#endif

// ---------------------------------------------------------------------------------------------- status

typedef enum ek_status EK_ENUM_TYPE {
  EK_OK = 0,
  EK_ERROR_NULL_POINTER = 1,  // a required pointer is NULL
  EK_ERROR_SHAPE = 2,         // a negative or too large m, n or k
  EK_ERROR_STRIDE = 3,        // a leading dimension shorter than its row
  EK_ERROR_DTYPE = 4,         // not one of ek_dtype
  EK_ERROR_ACTIVATION = 5,    // not one of ek_activation
  EK_ERROR_PACKED = 6,        // not a packed matrix of this format, or truncated, or misaligned (64 bytes)
  EK_ERROR_ISA = 7,           // this CPU cannot run that ISA, or EDGEKERN_ISA names none
  EK_ERROR_WORKSPACE = 8,     // workspace smaller than asked for
  EK_ERROR_VALUE = 9,         // a weight, scale, zero point or bias that is NaN, infinite or out of its format's range
  EK_ERROR_OUT_OF_MEMORY = 10,
  EK_ERROR_ORDER = 11,   // packed for an ISA that reads another order of bytes; pack again for this one
  EK_ERROR_FORM = 12,    // not one of the format's forms, not 1, 2, 4 or 8 channels, or a form that cannot hold this matrix
  EK_ERROR_GROUP = 13,   // int4's group_size is not 32, 64 or 128
  EK_ERROR_CLIP = 14,    // not one of ek_int4_clip
  EK_ERROR_PARTS = 15,   // less than 1 or more than EK_MAX_PARTS layers in a call, or of different k, group_size or ranges
  EK_ERROR_INDEX = 16,   // an index of a table that is negative or beyond its rows, or not one of ek_index
  EK_ERROR_WINDOW = 17,  // strides or dilations below 1, negative padding, or a kernel larger than the padded image
  EK_ERROR_GROUPS = 18,  // groups that do not divide both the channels in and out
  EK_ERROR_IMAGES = 19,  // not one of ek_image_order, x and y that differ in order or in float dtype, or a range that cannot be
  EK_ERROR_STEP = 20     // a step of no known kind, or that reads what no step before it makes, or images that do not fit it
} ek_status;

// English, static storage, never NULL.
EK_API const char* ek_status_message(ek_status status);
EK_API const char* ek_version(void);  // "0.1.0"

// ------------------------------------------------------------------------------------------- CPU and ISA

// One row of the kernel table. Opaque, static, never freed.
typedef struct ek_isa ek_isa;

EK_API size_t ek_isa_count(void);                    // ISAs compiled into this library
EK_API const ek_isa* ek_isa_at(size_t index);        // best first; NULL past the end
EK_API const ek_isa* ek_isa_find(const char* name);  // NULL when no such ISA is compiled in
EK_API const char* ek_isa_name(const ek_isa* isa);   // "scalar", "avx2", "neon_dotprod", ...
EK_API int ek_isa_supported(const ek_isa* isa);      // 1 when this CPU and OS run it
// Writes the CPU features this ISA needs and the CPU lacks ("avx512f avx512_vnni"), space separated, into buffer.
// Returns the length the whole text has; empty when supported.
EK_API size_t ek_isa_missing(const ek_isa* isa, char* buffer, size_t size);
// The best supported ISA, or, when the environment variable EDGEKERN_ISA is set, the one it names (read at the first call).
// EK_ERROR_ISA when that name is unknown or this CPU cannot run it.
EK_API ek_status ek_isa_default(const ek_isa** isa);

EK_API const char* ek_cpu_name(void);  // brand string, or "unknown"
// CPU features found, space separated ("avx2 f16c fma"); same convention as ek_isa_missing.
EK_API size_t ek_cpu_features(char* buffer, size_t size);

// ---------------------------------------------------------------------------------------------- threading

// How work is spread. The library owns no threads: the caller lends a parallel_for.
//   parallel_for(context, n, task, arg) must call task(arg, begin, end) on disjoint ranges that cover [0, n), on any
//   number of threads (one included), and return when all are done. It may run nested calls serially.
typedef void (*ek_task)(void* arg, int64_t begin, int64_t end);
typedef struct ek_parallel {
  void (*parallel_for)(void* context, int64_t n, ek_task task, void* arg);
  void* context;
  int num_threads;  // how many threads parallel_for will use at most
} ek_parallel;
// Everywhere below, a NULL ek_parallel means: this thread only.

// A small pool for programs that bring none. Threads sleep between calls. Not used under torch.
typedef struct ek_pool ek_pool;
EK_API ek_status ek_pool_create(int num_threads, ek_pool** pool);
EK_API void ek_pool_destroy(ek_pool* pool);
EK_API ek_parallel ek_pool_parallel(ek_pool* pool);

// --------------------------------------------------------------------------------------------------- types

typedef enum ek_dtype EK_ENUM_TYPE {
  EK_F32 = 0,
  EK_F16 = 1,
  EK_BF16 = 2,
  EK_U8 = 3  // of images alone
} ek_dtype;

typedef enum ek_activation EK_ENUM_TYPE {
  EK_NONE = 0,
  EK_RELU = 1,
  EK_GELU = 2,       // x/2 (1 + erf(x / sqrt 2))
  EK_GELU_TANH = 3,  // the tanh approximation
  EK_SILU = 4,       // x / (1 + exp(-x))
  EK_RELU6 = 5,      // min(max(x, 0), 6)
  EK_HARDSWISH = 6   // x * min(max(x + 3, 0), 6) / 6
} ek_activation;

typedef enum ek_index EK_ENUM_TYPE { EK_INDEX_I32 = 0, EK_INDEX_I64 = 1 } ek_index;  // what indices are stored as

// One of several layers that read the same lhs.
typedef struct ek_part {
  const void* packed;
  size_t packed_size;
  void* y;  // [m][ld_y], of lhs's dtype
  int64_t ld_y;
} ek_part;
#define EK_MAX_PARTS 8

// ---------------------------------------------------------------------------------------------- int8 (W8A8)
//
// y[m][n] = act( lhs_scale[m] * rhs_scale[n] * sum_k (q[m][k] - zero_point[m]) * w[n][k]  + bias[n] )
//
//   w  s8, symmetric per output channel; every s8 value is allowed, -128 too
//   q  u8, one scale and zero point per row, found from that row at run time; or one for all rows of all calls, found
//      beforehand and kept with the packed matrix (ek_int8_set_range): what lies beyond that range saturates
// The integer sum is exact and the same bit for bit on every ISA. A row that holds NaN or Inf gives a row of NaN, in either case.

#define EK_INT8_MAX_K_EXACT 65536  // up to here the sum is one int32; beyond it is a float sum of exact int32 blocks

// Canonical weights from floats: q[n][k] = round_half_even(w / scale[n]), scale[n] = max|w[n]| / 127 (1 for a zero row).
EK_API ek_status ek_int8_quantize_rhs(int64_t n, int64_t k, const void* rhs, ek_dtype dtype, int64_t ld_rhs, int8_t* q,
                                      int64_t ld_q, float* scale, const ek_parallel* parallel);

// How a matrix is packed. Every form holds any matrix and gives the same integers; they differ in bytes and in speed, and
// pruned weights (zeros of q) cost something in the dense one alone.
typedef enum ek_int8_form EK_ENUM_TYPE {
  EK_INT8_DENSE = 0,     // all weights, in panels of 16 output channels
  EK_INT8_BLOCKS_1 = 1,  // blocks that hold a weight: R output channels x the few k that one product takes. For many rows.
  EK_INT8_BLOCKS_2 = 2,
  EK_INT8_BLOCKS_4 = 4,
  EK_INT8_BLOCKS_8 = 8,
  EK_INT8_BITMAP = 16,    // the weights that are not zero, and a bit for each place. For few rows, and for memory.
  EK_INT8_BITMAP_4 = 17,  // the same by fours: 4 neighbouring k of one output channel, and a bit for each four
  EK_INT8_CSR = 32        // the weights that are not zero, and the k of each. For many rows, and for any mask.
} ek_int8_form;

// Packed bytes stand in the order that one ISA reads (isa NULL = default): never write them to a file. All x86 ISAs share an
// order of EK_INT8_DENSE and the bitmap forms with scalar; otherwise it differs from ISA to ISA.
//
// Bytes of a packed matrix; 0 for a shape that cannot be packed, an unknown form, or an ISA this CPU cannot run. What the
// other forms take depends on where the zeros of q are; for EK_INT8_DENSE q may be NULL.
EK_API size_t ek_int8_packed_size(const ek_isa* isa, ek_int8_form form, int64_t n, int64_t k, const int8_t* q, int64_t ld_q,
                                  const ek_parallel* parallel);
// packed must be 64-byte aligned and packed_size bytes, as ek_int8_packed_size tells for the same arguments. bias may be NULL.
EK_API ek_status ek_int8_pack(const ek_isa* isa, ek_int8_form form, int64_t n, int64_t k, const int8_t* q, int64_t ld_q,
                              const float* scale, const float* bias, void* packed, size_t packed_size,
                              const ek_parallel* parallel);

// A range of activations: x ~ scale * (q - zero_point), q from 0 to 255. 2^-100 <= scale <= 2^100, zero_point from 0 to 255.
typedef struct ek_int8_range {
  float scale;
  int32_t zero_point;
} ek_int8_range;
// The range that the rows of lhs are rounded by from now on, whatever they hold, which saves looking through each row for its own:
//   q = clamp(round(x * (1 / scale)) + zero_point, 0, 255)            round: half to even
// NULL: each row's own again, as after packing. EK_ERROR_VALUE for another scale or zero point; the matrix is then as it was.
EK_API ek_status ek_int8_set_range(void* packed, size_t packed_size, const ek_int8_range* range);

typedef struct ek_int8_shape {
  int64_t n, k;
  int has_bias;
  ek_int8_form form;
  int has_range;
  ek_int8_range range;  // where has_range is 1; zeros elsewhere
} ek_int8_shape;
EK_API ek_status ek_int8_describe(const void* packed, size_t packed_size, ek_int8_shape* shape);
// The exact inverse of ek_int8_pack. bias may be NULL when not wanted.
EK_API ek_status ek_int8_unpack(const void* packed, size_t packed_size, int8_t* q, int64_t ld_q, float* scale, float* bias,
                                const ek_parallel* parallel);

// Scratch that ek_int8_linear, ek_int8_linears and ek_int8_matmul_s32 need for these sizes; no alignment asked. isa NULL = default.
EK_API size_t ek_int8_workspace_size(const ek_isa* isa, ek_int8_form form, int64_t m, int64_t k);

// The whole layer in one parallel region: quantise lhs, multiply, scale, add bias, activate. y has lhs's dtype.
EK_API ek_status ek_int8_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                void* workspace, size_t workspace_size, const ek_parallel* parallel);
// ek_int8_linear for several layers of the same lhs, bit for bit: those in panels (EK_INT8_DENSE and the bitmap forms) quantise
// it once, in one parallel region. So all have one range, or none has. The workspace is the largest that any of them needs.
EK_API ek_status ek_int8_linears(const ek_isa* isa, const ek_part* parts, int64_t count, int64_t m, const void* lhs,
                                 ek_dtype dtype, int64_t ld_lhs, ek_activation activation, void* workspace,
                                 size_t workspace_size, const ek_parallel* parallel);

// The two halves of ek_int8_linear, for tests and for integer pipelines. By `range`, or where it is NULL by each row's own. A row
// with NaN or Inf has scale NaN, zero point 0 and q 0; a zero row has scale 1 when its range is its own.
EK_API ek_status ek_int8_quantize_lhs(const ek_isa* isa, int64_t m, int64_t k, const void* lhs, ek_dtype dtype, int64_t ld_lhs,
                                      const ek_int8_range* range, uint8_t* q, int64_t ld_q, float* scale, int32_t* zero_point,
                                      const ek_parallel* parallel);
// acc[m][n] = sum_k (q[m][k] - zero_point[m]) * w[n][k]; K <= EK_INT8_MAX_K_EXACT.
EK_API ek_status ek_int8_matmul_s32(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const uint8_t* q,
                                    int64_t ld_q, const int32_t* zero_point, int32_t* acc, int64_t ld_acc, void* workspace,
                                    size_t workspace_size, const ek_parallel* parallel);

// The layer with activations that stay floats: y = act( rhs_scale[n] * sum_k lhs[m][k] * w[n][k]  + bias[n] ). packed is of
// EK_INT8_DENSE, else EK_ERROR_FORM. Sums are f32, in an order that depends on the ISA and on m:
//   |y - exact| <= (k + 4) * 2^-23 * (rhs_scale[n] * sum_k |lhs[m][k] * w[n][k]| + |bias[n]|)
// before activation. NaN and Inf in a row reach all of its outputs. The number of threads changes no bit.
EK_API size_t ek_int8_float_workspace_size(const ek_isa* isa, int64_t m, int64_t k);
EK_API ek_status ek_int8_float_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                      ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                      void* workspace, size_t workspace_size, const ek_parallel* parallel);

// Rows of the matrix as floats, what an embedding does: y[i][k] = scale[indices[i]] * w[indices[i]][k], rounded once to f32 and
// once more to dtype. packed is of EK_INT8_DENSE, else EK_ERROR_FORM; its bias has no part in it. All indices are looked at
// before the first row is read: on EK_ERROR_INDEX y is as it was.
EK_API ek_status ek_int8_embedding(const ek_isa* isa, const void* packed, size_t packed_size, int64_t count,
                                   const void* indices, ek_index index, void* y, ek_dtype dtype, int64_t ld_y,
                                   const ek_parallel* parallel);

// ------------------------------------------------------------------------------------ int8, convolutions
//
// y[b][o][i][j] = act( x_scale[b] * scale[o] * sum_{c,r,s} (q[b][c][i * stride_h + r * dilation_h - top][...] - zero_point[b])
//                      * w[o][c][r][s]  + bias[o] )
//
// with c over the channels of o's group. Weights and activations are as above, but a scale and zero point serve a whole image;
// outside the image q is the zero point, which is 0.0. The integer sum is exact and the same bit for bit on every ISA. An image
// that holds NaN or Inf gives NaN everywhere.
//
// Instead of being found from each image at run time, x's range may be given: numbers beyond it are moved to its ends, and NaN
// to the lower. x may be of u8 with such a range already, and y be stored so, for the next layer:
//   u8 = clamp(round(y / scale) + zero_point, 0, 255)            right to a half and a few float roundings of the quotient

typedef struct ek_conv2d_shape {
  int64_t out_channels, in_channels, groups;  // of all groups together
  int64_t kernel_h, kernel_w;
} ek_conv2d_shape;

typedef struct ek_window {
  int64_t stride_h, stride_w, dilation_h, dilation_w;
  int64_t top, bottom, left, right;  // zeros around the image
} ek_window;

typedef enum ek_image_order EK_ENUM_TYPE {
  EK_NCHW = 0,
  EK_NHWC = 1  // torch's channels_last
} ek_image_order;

// Images one after the other, without gaps.
typedef struct ek_images {
  void* data;      // of x it is only read
  ek_dtype dtype;  // EK_U8 too, in EK_NHWC and with a range
  ek_image_order order;
  ek_int8_range range;  // zeros: x's is found, and y is not u8
} ek_images;

// Height and width of y; EK_ERROR_WINDOW where there are none.
EK_API ek_status ek_conv2d_output(const ek_conv2d_shape* shape, const ek_window* window, int64_t height, int64_t width,
                                  int64_t* out_height, int64_t* out_width);

// q is [out_channels][kernel_h][kernel_w][in_channels / groups] without gaps, torch's channels_last; scale and bias are by
// output channel, and bias may be NULL. A layer with as many groups as channels in and out, a depthwise one, is packed for a
// kernel of its own: it has EK_INT8_DENSE alone, else EK_ERROR_FORM.
// Bytes as ek_int8_packed_size tells them: 0 for what ek_int8_conv2d_pack refuses. For EK_INT8_DENSE q may be NULL.
EK_API size_t ek_int8_conv2d_packed_size(const ek_isa* isa, ek_int8_form form, const ek_conv2d_shape* shape, const int8_t* q,
                                         const ek_parallel* parallel);
EK_API ek_status ek_int8_conv2d_pack(const ek_isa* isa, ek_int8_form form, const ek_conv2d_shape* shape, const int8_t* q,
                                     const float* scale, const float* bias, void* packed, size_t packed_size,
                                     const ek_parallel* parallel);
typedef struct ek_int8_conv2d_packed {
  ek_conv2d_shape shape;
  int has_bias, depthwise;
  ek_int8_form form;
} ek_int8_conv2d_packed;
EK_API ek_status ek_int8_conv2d_describe(const void* packed, size_t packed_size, ek_int8_conv2d_packed* out);
// The exact inverse of ek_int8_conv2d_pack. bias may be NULL when not wanted.
EK_API ek_status ek_int8_conv2d_unpack(const void* packed, size_t packed_size, int8_t* q, float* scale, float* bias,
                                       const ek_parallel* parallel);

// Scratch that ek_int8_conv2d needs; no alignment asked; 0 for arguments that it refuses. It grows with the number of threads.
EK_API size_t ek_int8_conv2d_workspace_size(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                                            int64_t images, int64_t height, int64_t width, const ek_images* x,
                                            const ek_images* y, ek_activation activation, const ek_parallel* parallel);
// The whole layer in one parallel region. height and width are x's. y has the order of x, and its dtype unless one is EK_U8.
EK_API ek_status ek_int8_conv2d(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                                int64_t images, int64_t height, int64_t width, const ek_images* x, const ek_images* y,
                                ek_activation activation, void* workspace, size_t workspace_size, const ek_parallel* parallel);

// ------------------------------------------------------------- int8 and int4, several convolutions in one call
//
// A program: convolutions, sums and poolings, one after the other. Images are numbered: 0 is x, and step i makes number i + 1,
// the last one y. Each result is that of ek_int8_conv2d or ek_int4_conv2d for the same layer, bit for bit, and of the same float
// operations one by one. All that lies between x and y stands in the workspace, in EK_NHWC; what nobody reads any more makes room.
//
// Images that EK_ADD reads are floats of one dtype, or u8 that stands for (q - zero_point) * scale, rounded once. Its result may be
// u8 by `range`: as floats that a convolution reads are rounded, so that floats read by that range would have become the same.
// Without being told to, a program does so where it changes nothing, and adds what a convolution gives before it is stored.

typedef enum ek_step_kind EK_ENUM_TYPE {
  EK_CONV2D = 0,
  EK_ADD = 1,      // act(x + other), of the same sizes, the sum rounded to their float dtype; see below
  EK_MAX_POOL = 2  // what lies outside the image counts as the lowest there is, and NaN as the largest; u8 stays u8
} ek_step_kind;

typedef struct ek_conv2d_step {
  ek_step_kind kind;
  int64_t x, other;    // numbers of the images that it reads; other of EK_ADD alone
  const void* packed;  // of EK_CONV2D, by ek_int8_conv2d_pack or ek_int4_conv2d_pack
  size_t packed_size;
  ek_int8_range x_range;       // what x is rounded by, or has been; of EK_ADD where x is u8
  ek_int8_range other_range;   // of EK_ADD where other is u8: what it has been rounded by
  ek_int8_range range;         // y is u8 by this; zeros: floats, of x's dtype
  ek_dtype dtype;              // of y where x, and other of EK_ADD, are u8 and y is not
  int64_t kernel_h, kernel_w;  // of EK_MAX_POOL
  ek_window window;            // of EK_CONV2D and EK_MAX_POOL
  int same_padding;            // 1: not by the window's zeros, but as TensorFlow's "SAME", by the size of x
  ek_activation activation;    // of EK_ADD none, relu or relu6; of EK_CONV2D any
} ek_conv2d_step;

typedef struct ek_image_shape {
  int64_t channels, height, width;
  ek_dtype dtype;
} ek_image_shape;

// Shapes of all count + 1 images, the first of them x's. Looks at all that ek_int8_conv2d_program looks at but whether packed
// layers are whole and for its ISA.
EK_API ek_status ek_int8_conv2d_program_shapes(const ek_conv2d_step* steps, int64_t count, const ek_image_shape* x,
                                               ek_image_shape* shapes);
// Bytes of scratch; no alignment asked; 0 for arguments that it refuses. It grows with the number of threads.
EK_API size_t ek_int8_conv2d_program_workspace_size(const ek_isa* isa, const ek_conv2d_step* steps, int64_t count,
                                                    int64_t images, const ek_image_shape* x, ek_image_order x_order,
                                                    ek_image_order y_order, const ek_parallel* parallel);
// x and y are in these orders, u8 in EK_NHWC alone. Everything is looked at before the first step runs.
EK_API ek_status ek_int8_conv2d_program(const ek_isa* isa, const ek_conv2d_step* steps, int64_t count, int64_t images,
                                        const ek_image_shape* x_shape, const void* x, ek_image_order x_order, void* y,
                                        ek_image_order y_order, void* workspace, size_t workspace_size,
                                        const ek_parallel* parallel);

// ---------------------------------------------------------------------------------------------- int4 (W4A8)
//
// y[m][n] = act( lhs_scale[m] * sum_g scale[n][g] * sum_{k in g} (q[m][k] - zero_point[m]) * (w[n][k] - zero[n][g])  + bias[n] )
//
//   w  u4, by groups of group_size = 32, 64 or 128 neighbours along k (the last may be shorter), each with an f16 scale
//      and a zero point from 0 to 15; without zero points it is 8 everywhere (symmetric)
//   q  u8, one scale and zero point per row, as int8's
//
// The sum over a group is an int32 and exact on every ISA: sum_{k in g} (q - 128) * (w - zero). Each is scaled and added to an
// f32, group by group from the first on; 128 - zero_point[m] times the channel's sum of weights, an f32, comes last:
//   |y - exact| <= (groups + 3) * 2^-23 * (lhs_scale[m] * 255 * sum_k |scale[n][g] * (w[n][k] - zero[n][g])| + |bias[n]|)
// before activation. Where scales are powers of two and all sums below 2^24 of the smallest, no bit is rounded. The form and
// the number of threads change no bit. A row that holds NaN or Inf gives a row of NaN; a zero row gives the bias, exactly.
//
// Canonical weights: w is [n][ld_w] bytes of two weights each, k even in the low nibble; scale [n][groups] is f16 as bits, and
// zero [n][groups] may be NULL everywhere: symmetric. groups = ceil(k / group_size).

// Which weights of a group are moved in to its ends.
typedef enum ek_int4_clip EK_ENUM_TYPE {
  EK_INT4_CLIP_NONE = 0,  // none: the levels span all of them
  EK_INT4_CLIP_MSE = 1,   // where it lowers the group's squared error: the best of 17 ranges, from the whole to half of it
  EK_INT4_CLIP_HQQ = 2    // where it lowers the sum of |error|^(3/4): from the best such range by half-quadratic steps
} ek_int4_clip;

// From floats, rounded to the nearest, half to even. Symmetric (zero NULL): scale = max(max w / 7, -min w / 8). Otherwise
// scale = (high - low) / 15 and zero = round(-low / scale) with low = min(0, min w), high = max(0, max w): 0.0 is exact. Both
// by the scale as f16; a group of zeros, or one too small for an f16 scale, has scale 1. With clipping, low and high are a part
// of that, or the scale is another and the zero point at most one off. Weights of a group that lie on such levels already, rounded to their dtype, keep them: what was dequantised from
// int4 comes back with the same values. EK_ERROR_VALUE for weights that are not finite or need a scale beyond f16's range.
EK_API ek_status ek_int4_quantize_rhs(int64_t n, int64_t k, int64_t group_size, ek_int4_clip clip, const void* rhs,
                                      ek_dtype dtype, int64_t ld_rhs, uint8_t* w, int64_t ld_w, uint16_t* scale, uint8_t* zero,
                                      const ek_parallel* parallel);

// How a matrix is packed. Every form holds any matrix and gives the same bits.
typedef enum ek_int4_form EK_ENUM_TYPE {
  EK_INT4_DENSE = 0,     // all weights, in panels of 16 output channels
  EK_INT4_BITMAP = 16,   // the weights that are not zero (w != zero), and a bit for each place. For memory.
  EK_INT4_BITMAP_2 = 17  // the same by twos, the weights of a byte of the dense form: expanded in half the time. For few rows.
} ek_int4_form;

// Bytes of a packed matrix; 0 for arguments that ek_int4_pack refuses. For EK_INT4_DENSE w may be NULL, and of zero only
// whether it is NULL matters. Packed bytes stand in the order that one ISA reads (isa NULL = default): never write them to a file.
EK_API size_t ek_int4_packed_size(const ek_isa* isa, ek_int4_form form, int64_t n, int64_t k, int64_t group_size,
                                  const uint8_t* w, int64_t ld_w, const uint8_t* zero, const ek_parallel* parallel);
// packed must be 64-byte aligned and packed_size bytes, as ek_int4_packed_size tells for the same arguments. bias may be NULL.
// EK_ERROR_VALUE when a scale or bias is not finite, or a zero point is beyond 15.
EK_API ek_status ek_int4_pack(const ek_isa* isa, ek_int4_form form, int64_t n, int64_t k, int64_t group_size, const uint8_t* w,
                              int64_t ld_w, const uint16_t* scale, const uint8_t* zero, const float* bias, void* packed,
                              size_t packed_size, const ek_parallel* parallel);
typedef struct ek_int4_shape {
  int64_t n, k, group_size;
  int has_bias, has_zero;
  ek_int4_form form;
} ek_int4_shape;
EK_API ek_status ek_int4_describe(const void* packed, size_t packed_size, ek_int4_shape* shape);
// The exact inverse of ek_int4_pack; the nibble beyond an odd k comes back as 0. zero and bias may be NULL when not wanted.
EK_API ek_status ek_int4_unpack(const void* packed, size_t packed_size, uint8_t* w, int64_t ld_w, uint16_t* scale,
                                uint8_t* zero, float* bias, const ek_parallel* parallel);

// Scratch that ek_int4_linear and ek_int4_linears need for these sizes; no alignment asked. isa NULL = default.
EK_API size_t ek_int4_workspace_size(const ek_isa* isa, int64_t m, int64_t k);

// The whole layer in one parallel region: quantise lhs, multiply, scale, add bias, activate. y has lhs's dtype.
EK_API ek_status ek_int4_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                void* workspace, size_t workspace_size, const ek_parallel* parallel);
// As ek_int8_linears; layers of one group_size.
EK_API ek_status ek_int4_linears(const ek_isa* isa, const ek_part* parts, int64_t count, int64_t m, const void* lhs,
                                 ek_dtype dtype, int64_t ld_lhs, ek_activation activation, void* workspace,
                                 size_t workspace_size, const ek_parallel* parallel);

// As ek_int8_float_linear, y = act( sum_k lhs[m][k] * scale[n][g] * (w[n][k] - zero[n][g])  + bias[n] ), with the same bound.
EK_API size_t ek_int4_float_workspace_size(const ek_isa* isa, int64_t m, int64_t k);
EK_API ek_status ek_int4_float_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                      ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                      void* workspace, size_t workspace_size, const ek_parallel* parallel);

// As ek_int8_embedding, y[i][k] = scale[n][g] * (w[n][k] - zero[n][g]) with n = indices[i], which f32 holds exactly.
EK_API ek_status ek_int4_embedding(const ek_isa* isa, const void* packed, size_t packed_size, int64_t count,
                                   const void* indices, ek_index index, void* y, ek_dtype dtype, int64_t ld_y,
                                   const ek_parallel* parallel);

// ------------------------------------------------------------------------------------ int4, convolutions
//
// Of a window as a row of k = kernel_h * kernel_w * in_channels / groups activations in that order, the sum of int4 above; images,
// windows and ranges are those of int8's convolutions. An image of zeros gives the bias, exactly. u8 = clamp(round(y / scale) +
// zero_point, 0, 255), right to a half and what y may be off.
//
// Canonical weights: those of a matrix [out_channels][k]; groups of k are by row, whatever the convolution's groups are.

// As ek_int4_packed_size and ek_int4_pack; EK_ERROR_FORM for a depthwise layer.
EK_API size_t ek_int4_conv2d_packed_size(const ek_isa* isa, ek_int4_form form, const ek_conv2d_shape* shape, int64_t group_size,
                                         const uint8_t* w, int64_t ld_w, const uint8_t* zero, const ek_parallel* parallel);
EK_API ek_status ek_int4_conv2d_pack(const ek_isa* isa, ek_int4_form form, const ek_conv2d_shape* shape, int64_t group_size,
                                     const uint8_t* w, int64_t ld_w, const uint16_t* scale, const uint8_t* zero,
                                     const float* bias, void* packed, size_t packed_size, const ek_parallel* parallel);
typedef struct ek_int4_conv2d_packed {
  ek_conv2d_shape shape;
  int has_bias, has_zero;
  int64_t group_size;
  ek_int4_form form;
} ek_int4_conv2d_packed;
EK_API ek_status ek_int4_conv2d_describe(const void* packed, size_t packed_size, ek_int4_conv2d_packed* out);
// The exact inverse of ek_int4_conv2d_pack, as ek_int4_unpack is of ek_int4_pack.
EK_API ek_status ek_int4_conv2d_unpack(const void* packed, size_t packed_size, uint8_t* w, int64_t ld_w, uint16_t* scale,
                                       uint8_t* zero, float* bias, const ek_parallel* parallel);

// As ek_int8_conv2d_workspace_size and ek_int8_conv2d.
EK_API size_t ek_int4_conv2d_workspace_size(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                                            int64_t images, int64_t height, int64_t width, const ek_images* x,
                                            const ek_images* y, ek_activation activation, const ek_parallel* parallel);
EK_API ek_status ek_int4_conv2d(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                                int64_t images, int64_t height, int64_t width, const ek_images* x, const ek_images* y,
                                ek_activation activation, void* workspace, size_t workspace_size, const ek_parallel* parallel);

// ------------------------------------------------------------------------------------- f32, pruned
//
// y[m][n] = act( sum_k x[m][k] * w[n][k]  + bias[n] )        over the k of kept blocks alone
//
// For layers whose weights are mostly zeros and stay floats. A block is R neighbouring output channels (R = 1, 2, 4, 8) at
// one k; it is kept when any of its weights is not zero, and stored and multiplied whole. R = 1 keeps the fewest weights,
// a larger R loads fewer activations a product: it pays where the mask is made of blocks of that height.
//
// A zero weight outside kept blocks is not multiplied: NaN or Inf in an activation does not reach an output for which all its
// weights are such zeros. (0 * NaN would be NaN in a dense product.)
//
// Products are f32, fused with the sum except on "scalar", in an order that depends on the ISA, on R and on m:
// |y - exact| <= (kept + 2) * 2^-23 * (sum_k |x * w| + |bias|) before activation, with kept the weights of that channel
// that are not zero. The number of threads changes no bit.

// Bytes of a packed matrix: 0 for arguments that ek_f32_pack refuses (NaN and Inf aside). w is [n][ld_w] of dtype.
EK_API size_t ek_f32_packed_size(int64_t channels, int64_t n, int64_t k, const void* w, ek_dtype dtype, int64_t ld_w,
                                 const ek_parallel* parallel);
// channels: R. packed must be 64-byte aligned and packed_size bytes, as ek_f32_packed_size tells for the same arguments.
// bias may be NULL. Weights become f32, which is exact; weights and bias must be finite. Every ISA reads what this writes, but
// never write it to a file: it belongs to one version of the library.
EK_API ek_status ek_f32_pack(int64_t channels, int64_t n, int64_t k, const void* w, ek_dtype dtype, int64_t ld_w,
                             const float* bias, void* packed, size_t packed_size, const ek_parallel* parallel);
typedef struct ek_f32_shape {
  int64_t n, k;
  int has_bias;
  int64_t channels;
  int64_t blocks;  // kept
} ek_f32_shape;
EK_API ek_status ek_f32_describe(const void* packed, size_t packed_size, ek_f32_shape* shape);
// The inverse of ek_f32_pack, exact but for -0, which comes back as 0. bias may be NULL when not wanted.
EK_API ek_status ek_f32_unpack(const void* packed, size_t packed_size, float* w, int64_t ld_w, float* bias,
                               const ek_parallel* parallel);

// Scratch that ek_f32_linear needs for these sizes; no alignment asked. isa NULL = default.
EK_API size_t ek_f32_workspace_size(const ek_isa* isa, int64_t channels, int64_t m, int64_t k);

// The whole layer in one parallel region. lhs and y are of dtype.
EK_API ek_status ek_f32_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                               ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation, void* workspace,
                               size_t workspace_size, const ek_parallel* parallel);

// ----------------------------------------------------------------------------- f32, pruned, convolutions
//
// y[b][o][i][j] = act( sum_{r,s,c} x[b][c][i * stride_h + r * dilation_h - top][...] * w[o][r][s][c]  + bias[o] )
//
// with c over the channels of o's group, and zeros outside the image. Each group's weights are a matrix as above, of
// k = (r, s, c) in that order: what is kept, what is multiplied and how far y may be off is as there.

// w is [out_channels][kernel_h][kernel_w][in_channels / groups] of dtype without gaps, torch's channels_last; bias is by output
// channel, and may be NULL. As ek_f32_packed_size and ek_f32_pack; EK_ERROR_FORM for a depthwise layer, whose windows share no
// activations among channels.
EK_API size_t ek_f32_conv2d_packed_size(int64_t channels, const ek_conv2d_shape* shape, const void* w, ek_dtype dtype,
                                        const ek_parallel* parallel);
EK_API ek_status ek_f32_conv2d_pack(int64_t channels, const ek_conv2d_shape* shape, const void* w, ek_dtype dtype,
                                    const float* bias, void* packed, size_t packed_size, const ek_parallel* parallel);
typedef struct ek_f32_conv2d_packed {
  ek_conv2d_shape shape;
  int has_bias;
  int64_t channels;
  int64_t blocks;  // kept, of all groups
} ek_f32_conv2d_packed;
EK_API ek_status ek_f32_conv2d_describe(const void* packed, size_t packed_size, ek_f32_conv2d_packed* out);
// The inverse of ek_f32_conv2d_pack, exact but for -0, which comes back as 0. bias may be NULL when not wanted.
EK_API ek_status ek_f32_conv2d_unpack(const void* packed, size_t packed_size, float* w, float* bias,
                                      const ek_parallel* parallel);

// As ek_int8_conv2d_workspace_size and ek_int8_conv2d. x and y are of one float dtype and one order, and have no range.
EK_API size_t ek_f32_conv2d_workspace_size(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                                           int64_t images, int64_t height, int64_t width, const ek_images* x,
                                           const ek_images* y, ek_activation activation, const ek_parallel* parallel);
EK_API ek_status ek_f32_conv2d(const ek_isa* isa, const void* packed, size_t packed_size, const ek_window* window,
                               int64_t images, int64_t height, int64_t width, const ek_images* x, const ek_images* y,
                               ek_activation activation, void* workspace, size_t workspace_size, const ek_parallel* parallel);

// ------------------------------------------------------------------------------------- f16, pruned
//
// The same with weights of two bytes, w = f16 * 2^e with one e for each output channel, and two ways to multiply:
//
//   where ek_f16_halves(isa) is 1 (ARMv8.2)   in f16, twice the products an instruction: x is rounded to f16, times a power of
//                                             two for its row. Sums of up to 64 products are f16 and cannot overflow, and
//                                             these are added up in f32. A row that holds NaN or Inf gives a row of NaN.
//   elsewhere                                 in f32, as ek_f32_linear, on weights that are made f32 on the way
//
// By the weights as they are packed, which ek_f16_unpack gives back, and with `kept` as above, |y - exact| is in f32 at most
//   (kept + 2) * 2^-23 * (sum_k |x * w| + |bias|)
// before activation, and in halves at most
//   (1.1 * p + 2) * 2^-11 * sum_k |x * w|  +  kept * 2^-29 * max|x| * max|w|  +  (kept + 3) * 2^-23 * |bias|
// with p = min(kept, 64) and the maxima over that row and that channel. Errors add up by chance: their root mean square, where it
// was measured, is below 0.15 % of that of y.

// 1 where this ISA (NULL = default) multiplies halves; 0 elsewhere, and for an ISA that this CPU cannot run.
EK_API int ek_f16_halves(const ek_isa* isa);

typedef ek_f32_shape ek_f16_shape;
EK_API size_t ek_f16_packed_size(int64_t channels, int64_t n, int64_t k, const void* w, ek_dtype dtype, int64_t ld_w,
                                 const ek_parallel* parallel);
// As ek_f32_pack. A weight is rounded to the nearest f16 times its channel's 2^e, by at most 2^-11 of it, or 2^-25 of the
// channel's largest where that is more; below 2^128 it has to stay. Float16 weights of a channel below 2 are not rounded, nor is
// what ek_f16_unpack gave.
EK_API ek_status ek_f16_pack(int64_t channels, int64_t n, int64_t k, const void* w, ek_dtype dtype, int64_t ld_w,
                             const float* bias, void* packed, size_t packed_size, const ek_parallel* parallel);
EK_API ek_status ek_f16_describe(const void* packed, size_t packed_size, ek_f16_shape* shape);
// The weights as they were rounded.
EK_API ek_status ek_f16_unpack(const void* packed, size_t packed_size, float* w, int64_t ld_w, float* bias,
                               const ek_parallel* parallel);
EK_API size_t ek_f16_workspace_size(const ek_isa* isa, int64_t channels, int64_t m, int64_t k);
EK_API ek_status ek_f16_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                               ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation, void* workspace,
                               size_t workspace_size, const ek_parallel* parallel);

// ------------------------------------------------------------------------------------- rows of floats, between layers
//
// What a decoder does between its linear layers, of rows [m][n] of dtype, in one parallel region. All of it is computed in f32,
// and rounded once. isa NULL = default.

// y = x * weight[n] / sqrt(mean of the row's x^2 + eps). weight is of dtype too. y may be x.
EK_API ek_status ek_rms_norm(const ek_isa* isa, int64_t m, int64_t n, const void* x, ek_dtype dtype, int64_t ld_x,
                             const void* weight, float eps, void* y, int64_t ld_y, const ek_parallel* parallel);

// y = activation(z) * x. y may be z or x.
EK_API ek_status ek_gate(const ek_isa* isa, int64_t m, int64_t n, const void* z, int64_t ld_z, const void* x, int64_t ld_x,
                         ek_dtype dtype, ek_activation activation, void* y, int64_t ld_y, const ek_parallel* parallel);

// Rotary position embedding of [batch][tokens][heads][n], n even: the pair x[i], x[i + n/2] is turned by the angle with
// cos[i], sin[i], as transformers turns it:
//   y[i] = x[i] * cos[i] - x[i + n/2] * sin[i]    y[i + n/2] = x[i + n/2] * cos[i + n/2] + x[i] * sin[i + n/2]
// In f32 products and sums are rounded one by one, the same bits on every ISA. cos and sin are [batch][tokens][n], or of one
// batch for all where table_batch is 0. Strides are in elements; the n of a head lie side by side. y may not be x.
typedef struct {
  int64_t batch, tokens, heads, n;
  int64_t x_batch, x_token, x_head;  // strides of x
  int64_t y_batch, y_token, y_head;
  int64_t table_batch, table_token;
} ek_rotary;
EK_API ek_status ek_rotate(const ek_isa* isa, const ek_rotary* shape, const void* x, ek_dtype dtype, const void* cos,
                           const void* sin, void* y, const ek_parallel* parallel);

// ------------------------------------------------------------------------------------- the machine's limits

// Runs `steps` rounds of this ISA's int8 multiply-add from registers; returns the multiply-adds done, for timing.
EK_API int64_t ek_peak_int8_macs(const ek_isa* isa, int64_t steps);
// Reads bytes [data, data + size) with this ISA's widest loads; returns a checksum so that nothing is optimised away.
EK_API uint64_t ek_stream_read(const ek_isa* isa, const void* data, size_t size);

#ifdef __cplusplus
}
#endif
