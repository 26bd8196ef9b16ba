// The int8 layer: validate, carve the workspace, and run quantisation and multiplication in one parallel region.
//
// Work is handed out by tickets, not by thread number. First every thread takes blocks of rows to quantise until none is
// left; then it waits for the blocks that others still hold, and takes output tiles. A thread waits only for tickets that
// some running thread has taken, so the region is right for any number of threads, one included, whatever the pool does.
#include <stdint.h>

#include <atomic>

#include "base/parallel.h"
#include "formats/int8/layout.h"
#include "isa/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace edgekern::int8 {
namespace {

// Below this many multiply-adds a second thread costs more than it brings (fork and join: about 3 us under torch).
constexpr int64_t kSerialMacs = 256 * 1024;
// Activations are quantised in slabs of rows whose packed form stays in L2 / L3 and bounds the workspace.
constexpr int64_t kSlabBytes = 4 << 20;
constexpr int64_t kQuantizeTicketElements = 16 * 1024;
constexpr int64_t kPanelsPerTicket = 4;  // 64 columns, the widest tile
constexpr int64_t kTicketsPerThread = 4;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Where a slab's quantised rows and their numbers sit in the caller's workspace.
struct Slab {
  int64_t rows;  // whole groups; the last may have rows that are never filled
  int64_t stride, blocks;

  Slab(const Kernels& kernels, int64_t m, int64_t k) {
    // 64 bytes beyond the row: tails are stored whole, and rows do not all start in the same cache set.
    stride = round_up(k, 64) * kernels.lhs_bytes + 64;
    rows = round_up(min_of(m, max_of(round_up(kSlabBytes / stride, kernels.rows), 8 * kernels.rows)), kernels.group_rows);
    blocks = blocks_of(k);
  }
  size_t bytes() const { return static_cast<size_t>(64 + rows * (stride + 4 * (2 + blocks))); }

  LhsRows at(void* workspace) const {
    uintptr_t start = (reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63};
    uint8_t* data = reinterpret_cast<uint8_t*>(start);
    float* scale = reinterpret_cast<float*>(data + rows * stride);
    int32_t* zero_point = reinterpret_cast<int32_t*>(scale + rows);
    return {data, stride, scale, zero_point, zero_point + rows, rows};
  }
};

// Output tiles of one slab: groups of panels, and, where N alone gives too few, pieces of M.
struct Tiles {
  int64_t groups, pieces, piece_rows;

  Tiles(const Kernels& kernels, int64_t rows, int64_t panels, int threads) {
    groups = ceil_div(panels, kPanelsPerTicket);
    int64_t wanted = threads == 1 ? 1 : ceil_div(kTicketsPerThread * threads, max_of(groups, 1));
    piece_rows = round_up(ceil_div(rows, wanted), kernels.rows);
    pieces = ceil_div(rows, piece_rows);
  }
  int64_t count() const { return groups * pieces; }
};

// One parallel region over `rows` rows. quantize(m0, m1) fills args.lhs.
template <class Quantize>
void run_slab(const Kernels& kernels, const GemmArgs& args, int64_t rows, int64_t k, const ek_parallel* parallel,
              const Quantize& quantize) {
  int64_t panels = args.rhs.padded_n / kPanelColumns;
  int threads = rows * args.rhs.n * k < kSerialMacs ? 1 : thread_count(parallel);
  if (threads == 1) {
    quantize(int64_t{0}, rows);
    kernels.gemm(args, 0, rows, 0, panels);
    return;
  }
  int64_t ticket_rows = min_of(ceil_div(rows, threads), max_of(1, kQuantizeTicketElements / max_of(k, 1)));
  int64_t row_tickets = ceil_div(rows, ticket_rows);
  Tiles tiles(kernels, rows, panels, threads);
  std::atomic<int64_t> next_rows{0}, rows_done{0}, next_tile{0};
  parallel_for(parallel, threads, [&](int64_t, int64_t) {
    for (int64_t t; (t = next_rows.fetch_add(1, std::memory_order_relaxed)) < row_tickets;) {
      quantize(t * ticket_rows, min_of(rows, (t + 1) * ticket_rows));
      rows_done.fetch_add(1, std::memory_order_release);
    }
    while (rows_done.load(std::memory_order_acquire) < row_tickets) pause();
    for (int64_t t; (t = next_tile.fetch_add(1, std::memory_order_relaxed)) < tiles.count();) {
      int64_t m0 = t % tiles.pieces * tiles.piece_rows, p0 = t / tiles.pieces * kPanelsPerTicket;
      kernels.gemm(args, m0, min_of(rows, m0 + tiles.piece_rows), p0, min_of(panels, p0 + kPanelsPerTicket));
    }
  });
}

RhsPanels panels_of(const void* packed, const Layout& layout) {
  const char* base = static_cast<const char*>(packed);
  return {layout.n,
          layout.padded_n(),
          layout.padded_k(),
          layout.blocks(),
          reinterpret_cast<const int8_t*>(base + layout.panels_offset()),
          reinterpret_cast<const int32_t*>(base + layout.column_sum_offset()),
          reinterpret_cast<const int32_t*>(base + layout.odd_sum_offset()),
          reinterpret_cast<const float*>(base + layout.scale_offset()),
          reinterpret_cast<const float*>(base + layout.bias_offset())};
}

// What every entry point checks first. On EK_OK, *layout and *kernels are set; *work is false when there is nothing to do.
struct Call {
  Layout layout{};
  const Kernels* kernels = nullptr;
  bool work = false;
};

ek_status open_call(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs, int64_t ld_lhs,
                    const void* y, int64_t ld_y, const void* workspace, size_t workspace_size, Call* call) {
  ek_status status = open_packed(packed, packed_size, &call->layout);
  if (status != EK_OK) return status;
  const edgekern::Kernels* kernels = nullptr;
  status = resolve_isa(isa, &kernels);
  if (status != EK_OK) return status;
  call->kernels = &kernels->int8;
  const Layout& layout = call->layout;
  if (!(layout.order == call->kernels->order)) return EK_ERROR_ORDER;
  if (m < 0) return EK_ERROR_SHAPE;
  if (m == 0 || layout.n == 0) return EK_OK;
  call->work = true;
  if ((lhs == nullptr && layout.k > 0) || y == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (ld_lhs < layout.k || ld_y < layout.n)) return EK_ERROR_STRIDE;
  return workspace_size < Slab(*call->kernels, m, layout.k).bytes() ? EK_ERROR_WORKSPACE : EK_OK;
}

bool valid_dtype(ek_dtype dtype) { return dtype == EK_F32 || dtype == EK_F16 || dtype == EK_BF16; }
int64_t dtype_bytes(ek_dtype dtype) { return dtype == EK_F32 ? 4 : 2; }

}  // namespace
}  // namespace edgekern::int8

using namespace edgekern;
using namespace edgekern::int8;

extern "C" size_t ek_int8_workspace_size(const ek_isa* isa, int64_t m, int64_t k) {
  const edgekern::Kernels* kernels = nullptr;
  if (m < 0 || !valid_shape(0, k) || resolve_isa(isa, &kernels) != EK_OK) return 0;
  return Slab(kernels->int8, m, k).bytes();
}

extern "C" ek_status ek_int8_linear(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const void* lhs,
                                    ek_dtype dtype, int64_t ld_lhs, void* y, int64_t ld_y, ek_activation activation,
                                    void* workspace, size_t workspace_size, const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (activation < EK_NONE || activation > EK_SILU) return EK_ERROR_ACTIVATION;
  Call call;
  ek_status status = open_call(isa, packed, packed_size, m, lhs, ld_lhs, y, ld_y, workspace, workspace_size, &call);
  if (status != EK_OK || !call.work) return status;
  const int8::Kernels& kernels = *call.kernels;
  int64_t k = call.layout.k;
  Slab slab(kernels, m, k);
  GemmArgs args{slab.at(workspace), panels_of(packed, call.layout), y, ld_y, dtype, activation, false};
  for (int64_t m0 = 0; m0 < m; m0 += slab.rows) {
    const char* x = static_cast<const char*>(lhs) + m0 * ld_lhs * dtype_bytes(dtype);
    args.y = static_cast<char*>(y) + m0 * ld_y * dtype_bytes(dtype);
    run_slab(kernels, args, min_of(slab.rows, m - m0), k, parallel,
             [&](int64_t begin, int64_t end) { kernels.quantize(x, dtype, ld_lhs, k, begin, end, args.lhs); });
  }
  return EK_OK;
}

extern "C" ek_status ek_int8_quantize_lhs(const ek_isa* isa, int64_t m, int64_t k, const void* lhs, ek_dtype dtype,
                                          int64_t ld_lhs, uint8_t* q, int64_t ld_q, float* scale, int32_t* zero_point,
                                          const ek_parallel* parallel) {
  if (!valid_dtype(dtype)) return EK_ERROR_DTYPE;
  if (m < 0 || !valid_shape(0, k)) return EK_ERROR_SHAPE;
  const edgekern::Kernels* kernels = nullptr;
  ek_status status = resolve_isa(isa, &kernels);
  if (status != EK_OK || m == 0) return status;
  if (scale == nullptr || zero_point == nullptr || (k > 0 && (lhs == nullptr || q == nullptr))) return EK_ERROR_NULL_POINTER;
  if (m > 1 && (ld_lhs < k || ld_q < k)) return EK_ERROR_STRIDE;
  parallel_for(parallel, m, [&](int64_t begin, int64_t end) {
    kernels->int8.quantize_u8(lhs, dtype, ld_lhs, k, begin, end, q, ld_q, scale, zero_point);
  });
  return EK_OK;
}

extern "C" ek_status ek_int8_matmul_s32(const ek_isa* isa, const void* packed, size_t packed_size, int64_t m, const uint8_t* q,
                                        int64_t ld_q, const int32_t* zero_point, int32_t* acc, int64_t ld_acc, void* workspace,
                                        size_t workspace_size, const ek_parallel* parallel) {
  Call call;
  ek_status status = open_call(isa, packed, packed_size, m, q, ld_q, acc, ld_acc, workspace, workspace_size, &call);
  if (status != EK_OK || !call.work) return status;
  if (zero_point == nullptr) return EK_ERROR_NULL_POINTER;
  const int8::Kernels& kernels = *call.kernels;
  int64_t k = call.layout.k;
  if (k > kBlockDepth) return EK_ERROR_SHAPE;
  Slab slab(kernels, m, k);
  GemmArgs args{slab.at(workspace), panels_of(packed, call.layout), acc, ld_acc, EK_F32, EK_NONE, true};
  for (int64_t m0 = 0; m0 < m; m0 += slab.rows) {
    args.y = acc + m0 * ld_acc;
    run_slab(kernels, args, min_of(slab.rows, m - m0), k, parallel, [&](int64_t begin, int64_t end) {
      kernels.load_u8(q + m0 * ld_q, ld_q, zero_point + m0, k, begin, end, args.lhs);
    });
  }
  return EK_OK;
}
