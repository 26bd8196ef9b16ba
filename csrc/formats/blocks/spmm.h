// The multiplication by kept blocks. Vectors run along M: a block's weights are each spread over a vector and multiply the
// same few k of neighbouring rows of lhs, so the work is that of the kept blocks and no product is wasted on a zero.
//
//   for 64 output channels at a time, whose sums stay in L1:
//     for each k panel, whose activations stay in L1:
//       for each group of R channels:   accumulate its blocks in registers, add to the sums
//     turn the sums, and make y of them as the format says
//
// Register budget of accumulate: R x V accumulators of the tile's V vectors, R weights, one vector of activations.
// Each vector of activations that is loaded serves R products. PH > 1 sums every PH-th block separately, where R x V chains
// are too few to hide the latency of a product.
//
// What a format's product is, over an ISA, it says by a struct Product:
//
//   Word, Vector, kLanes       what lhs is in tiles: int32_t, float or the bits of an f16; a vector of them
//   Weight, Sum                what weights are as packed, and sums between panels: often a Word too
//   Scratch<R>, open(p, count, scratch)    the `count` weights of a group in a panel, as load_weights takes them
//   load, store, add, transpose    of a Vector, of the sums of one; transpose turns kLanes of them
//   Acc, zero, merge, sum      what one vector of sums is while it is in registers; sum(acc) is what is stored of it
//   load_weights<R, B>(p)      the weights of B neighbouring blocks
//   kMostBlocks                that are summed in one Acc before they go to the sums; 0: all of a panel
//   multiply<i>(acc, a, weights)    acc and the products of vector a by weight i of these
//   vectors(R), phases(R, V)   the widest tile; PH
#pragma once

#include "formats/blocks/layout.h"
#include "formats/finish.h"
#include "isa/kernels.h"
#include "isa/tile.h"

namespace edgekern::blocks {
namespace {

template <class Word, class Weight = Word, class Sum = Word>
struct Run {
  const Word* lhs;         // the tile's k panel
  const uint32_t* starts;  // [groups + 1]
  int64_t groups;
  const Weight* weights;
  const void* places;
  Sum* sums;   // [groups * R][tile rows]
  bool first;  // k panel: the sums are set, not added to
};

template <class Product>
using RunOf = Run<typename Product::Word, typename Product::Weight, typename Product::Sum>;

// The types of a Product whose load_weights takes weights as they are packed.
template <class W, class PackedW = W, class S = W>
struct AsPacked {
  using Word = W;
  using Weight = PackedW;
  using Sum = S;
  static constexpr int64_t kMostBlocks = 0;
  template <int>
  struct Scratch {};
  template <int R>
  static EK_INLINE const Weight* open(const Weight* p, int64_t, Scratch<R>&) {
    return p;
  }
};

template <int R>
struct PlaceOf {
  using Type = uint16_t;
};
template <>
struct PlaceOf<1> {
  using Type = uint8_t;
};
template <>
struct PlaceOf<2> {
  using Type = uint8_t;
};

template <class Product, int R, int V>
void accumulate(const RunOf<Product>& run) {
  using Vector = typename Product::Vector;
  using Word = typename Product::Word;
  using Sum = typename Product::Sum;
  constexpr int PH = Product::phases(R, V);
  constexpr int64_t kLanes = Product::kLanes;
  using Place = typename PlaceOf<R>::Type;
  const Place* places = static_cast<const Place*>(run.places);
  Sum* sums = run.sums;
  typename Product::template Scratch<R> scratch;
  for (int64_t g = 0; g < run.groups; ++g, sums += R * V * kLanes) {
    int64_t block = run.starts[g], end = run.starts[g + 1];
    auto* packed = Product::template open<R>(run.weights + block * R, (end - block) * R, scratch);
    bool first = run.first;
    do {
      const int64_t until = Product::kMostBlocks == 0 ? end : min_of(end, block + Product::kMostBlocks);
      typename Product::Acc acc[PH][R][V];
      unroll<PH>([&](auto ph) EK_LAMBDA_INLINE {
        unroll<R>([&](auto r)
                      EK_LAMBDA_INLINE { unroll<V>([&](auto v) EK_LAMBDA_INLINE { acc[ph][r][v] = Product::zero(); }); });
      });
      auto step = [&](auto count) EK_LAMBDA_INLINE {
        auto weights = Product::template load_weights<R, count>(packed);
        unroll<count>([&](auto ph) EK_LAMBDA_INLINE {
          const Word* lhs = run.lhs + places[block + ph] * (V * kLanes);
          unroll<V>([&](auto v) EK_LAMBDA_INLINE {
            Vector a = Product::load(lhs + v * kLanes);
            unroll<R>([&](auto r) EK_LAMBDA_INLINE {
              acc[ph][r][v] = Product::template multiply<ph * R + r>(acc[ph][r][v], a, weights);
            });
          });
        });
      };
      for (; block + PH <= until; block += PH, packed += PH * R) step(Index<PH>{});
      if constexpr (PH > 1)
        for (; block < until; ++block, packed += R) step(Index<1>{});
      unroll<R>([&](auto r) EK_LAMBDA_INLINE {
        unroll<V>([&](auto v) EK_LAMBDA_INLINE {
          unroll<PH - 1>([&](auto ph) EK_LAMBDA_INLINE { acc[0][r][v] = Product::merge(acc[0][r][v], acc[ph + 1][r][v]); });
          Sum* sum = sums + (r * V + v) * kLanes;
          auto more = Product::sum(acc[0][r][v]);
          Product::store(sum, first ? more : Product::add(more, Product::load(sum)));
        });
      });
      first = false;
    } while (Product::kMostBlocks > 0 && block < end);
  }
}

template <class Word, class Weight = Word, class Sum = Word>
using Accumulate = void (*)(const Run<Word, Weight, Sum>&);

// accumulate for every tile width: 1, 2, 4, ... vectors up to the product's for this R.
template <class Product, int R>
auto choose_accumulate(int64_t vectors) {
  void (*found)(const RunOf<Product>&) = nullptr;
  unroll<5>([&](auto log2) EK_LAMBDA_INLINE {
    if constexpr ((1 << log2) <= Product::vectors(R))
      if (vectors == 1 << log2) found = accumulate<Product, R, (1 << log2)>;
  });
  return found;
}

// Sums of a tile of w rows x panels [p0, p1), to visit(sums [channels][w], n0, channels) for up to 64 channels at a time.
template <int R, int kTileWords, class Word, class Weight, class Sum, class Visit>
EK_INLINE void multiply(const Rhs<Weight>& rhs, Accumulate<Word, Weight, Sum> accumulate_panel, const Word* tile, int64_t w,
                        int64_t p0, int64_t p1, Visit&& visit) {
  constexpr int64_t kChunk = kTileColumns / kPanelChannels;
  alignas(64) Sum sums[kTileColumns * kTileWords];
  int64_t groups = rhs.padded_n / R;
  for (int64_t p = p0; p < p1; p += kChunk) {
    int64_t n0 = p * kPanelChannels, channels = min_of(min_of(kChunk, p1 - p) * kPanelChannels, rhs.padded_n - n0);
    for (int64_t panel = 0; panel < rhs.k_panels; ++panel)
      accumulate_panel({tile + panel * rhs.panel_blocks * w, rhs.starts + panel * groups + n0 / R, channels / R, rhs.weights,
                        rhs.places, sums, panel == 0});
    if (rhs.k_panels == 0) memset(sums, 0, sizeof(sums));
    visit(static_cast<const Sum*>(sums), n0, min_of(channels, rhs.n - n0));
  }
}

// `at`, which moves on by `step`. What is there is read or written here and now where a square has more than four rows:
// compilers would collect the addresses of all of them first, for which they have no registers.
template <int kRows>
EK_INLINE int64_t next(int64_t& at, int64_t step) {
  int64_t now = at;
  at += step;
  if constexpr (kRows > 4) __asm__ volatile("" : "+r"(at) : : "memory");
  return now;
}

// Sums [channels][w] of a tile to y. A square of them is turned in registers and goes straight to y from there. Through a tile
// in memory, as the dense kernels' sums go, 64 x 1536 sums took 33 us instead of 22 on Zen 4: half of a call with few weights.
//
// of(c) gives, for kLanes channels from c on, what makes values of their sums in row m: value(sums, m), F32.
template <class Isa, class Product, ek_dtype D, ek_activation A, class Of>
EK_INLINE void store_turned(const typename Product::Word* sums, int64_t w, const TileOut to, Of&& of) {
  constexpr int64_t kLanes = Product::kLanes;
  for (int64_t m = 0; m < to.rows; m += kLanes)
    for (int64_t c = 0; c < to.columns; c += kLanes) {
      typename Product::Vector v[kLanes];
      int64_t in = c * w + m, out = to.start + m * to.ld_y + c;
      unroll<Product::kLanes>([&](auto j) EK_LAMBDA_INLINE { v[j] = Product::load(sums + next<Product::kLanes>(in, w)); });
      Product::transpose(v);
      auto value = of(c);
      const int64_t rows = to.rows - m, columns = to.columns - c;
      auto y = [&](auto r) EK_LAMBDA_INLINE { return activate_apart<Isa, A>(value(v[r], m + r)); };
      if (rows >= kLanes && columns >= kLanes)
        unroll<Product::kLanes>(
            [&](auto r) EK_LAMBDA_INLINE { Isa::template store_as<D>(to.y, next<Product::kLanes>(out, to.ld_y), y(r)); });
      else
        unroll<Product::kLanes>([&](auto r) EK_LAMBDA_INLINE {
          if (r < rows) Isa::template store_as<D>(to.y, out + r * to.ld_y, y(r), min_of(columns, kLanes));
        });
    }
}

}  // namespace
}  // namespace edgekern::blocks
