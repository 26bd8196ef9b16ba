// Sixteen levels for the weights of one group: scale * (0..15 - zero). Which ones is decided here, from the floats.
//
//   as it is     weights that lie on such levels already, as dequantised or jointly pruned ones do, keep theirs, to the bit
//   range        else the levels span what the weights do
//   clipped      or less than that, where it lowers the squared error: what sticks out is moved in, the rest is rounded finer
//   robust       or what lowers an error that counts large ones for less, found by half-quadratic steps from the best range
//
// The same arithmetic on every machine: a float is rounded after each operation, and lanes are added up in order.
#pragma once

#include <math.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/math.h"
#include "formats/int4/layout.h"

namespace edgekern::int4 {
namespace {

constexpr int64_t kLanes = 8, kMostValues = 128;
constexpr int kTop = 15;

struct Group {
  alignas(64) float values[kMostValues];  // zeros from count on
  int64_t count;
  float low, high;  // with zero between them
  bool finite;
  bool symmetric;
  ek_dtype dtype;
};

struct Grid {
  uint16_t half;  // the scale
  float scale;    // its value; 0 where no f16 is as small
  int zero;

  int lowest() const { return -zero; }
  int highest() const { return kTop - zero; }
};

Group read_group(const void* rhs, ek_dtype dtype, int64_t offset, int64_t count, bool symmetric) {
  Group group{{}, count, 0.0f, 0.0f, true, symmetric, dtype};
  for (int64_t i = 0; i < count; ++i) {
    float value = float_at(rhs, dtype, offset + i);
    group.values[i] = value;
    group.finite = group.finite && isfinite(value);
    group.low = value < group.low ? value : group.low;
    group.high = value > group.high ? value : group.high;
  }
  return group;
}

int clamp_int(long value, int low, int high) { return static_cast<int>(value < low ? low : value > high ? high : value); }

// Of the group's step of a level: a weight may round to beyond the last.
int level_of(float value, const Grid& grid) { return clamp_int(lrintf(value / grid.scale), grid.lowest(), grid.highest()); }

Grid grid_of_scale(uint16_t half, float low, bool symmetric) {
  float scale = f16_to_f32(half);
  int zero = symmetric ? kSymmetricZero : scale == 0.0f ? 0 : clamp_int(lrintf(-low / scale), 0, kTop);
  return {half, scale, zero};
}

// Levels from low to high.
Grid grid_of_range(float low, float high, bool symmetric) {
  // Divided first: high - low may overflow.
  float scale = symmetric ? fmaxf(high / 7.0f, -low / 8.0f) : high / 15.0f - low / 15.0f;
  return grid_of_scale(f32_to_f16(scale), low, symmetric);
}

// ---------------------------------------------------------------------------------------------- as it is

float rounded_as(float value, ek_dtype dtype) {
  if (dtype == EK_F32) return value;
  return dtype == EK_F16 ? f16_to_f32(f32_to_f16(value)) : bf16_to_f32(f32_to_bf16(value));
}

bool lies_on(const Group& group, const Grid& grid) {
  for (int64_t i = 0; i < group.count; ++i) {
    float value = group.values[i];
    if (value != 0.0f && rounded_as(grid.scale * static_cast<float>(level_of(value, grid)), group.dtype) != value) return false;
  }
  return true;
}

// The widest levels that all weights lie on, once those are rounded to the weights' dtype. False when there are none.
bool find_grid(const Group& group, Grid* found) {
  float span = group.symmetric ? fmaxf(group.high, -group.low) : group.high - group.low;
  // The span was rounded, if the weights are halves: to 11 or 8 bits, where f16 has 11. By so many f16s may the scale be another.
  int reach = group.dtype == EK_F32 ? 0 : group.dtype == EK_F16 ? 2 : 9;
  for (int levels = 1; levels <= (group.symmetric ? kSymmetricZero : kTop); ++levels) {
    float step = span / static_cast<float>(levels);
    int nearest = f32_to_f16(step);
    if (group.dtype == EK_F32 && f16_to_f32(static_cast<uint16_t>(nearest)) != step) continue;
    for (int i = 0; i <= 2 * reach; ++i) {  // nearest, and then those on either side
      int half = nearest + (i % 2 == 0 ? i / 2 : -(i + 1) / 2);
      if (half <= 0 || half >= 0x7c00) continue;  // zero and infinity
      *found = grid_of_scale(static_cast<uint16_t>(half), group.low, group.symmetric);
      if (lies_on(group, *found)) return true;
    }
  }
  return false;
}

// ---------------------------------------------------------------------------------------------- clipped

// Of a search for the range to cover: the part of the weights' own by which it is narrowed at each step, and how often. To half
// of it: no group of twelve of MiniLM's layers wanted less than two thirds, and steps half as wide gained 0.03 dB at most.
constexpr float kNarrowing = 1.0f / 32.0f;
constexpr int kNarrowings = 16;
// A narrower range has to be better than the rounding of these sums.
constexpr float kBetter = 1.0f - 1e-4f;

// As level_of, for a weight divided by the scale, and such that a loop over it is vectors all the way.
inline float nearest_level(float value, const Grid& grid) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves no place for a fraction
  const float lowest = static_cast<float>(grid.lowest()), highest = static_cast<float>(grid.highest());
  float level = (value + kRound) - kRound;
  level = level < lowest ? lowest : level;
  return level > highest ? highest : level;
}

// Sum of (value - level * scale)^2, by lanes.
float squared_error(const Group& group, const Grid& grid) {
  const float inverse = 1.0f / grid.scale;
  float sums[kLanes] = {};
  for (int64_t k = 0; k < group.count; k += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      float value = group.values[k + lane] * inverse, level = nearest_level(value, grid);
      sums[lane] += (value - level) * (value - level);
    }
  float sum = 0.0f;
  for (float part : sums) sum += part;
  return sum * grid.scale * grid.scale;
}

// The range with the lowest error, of the whole and its parts.
template <float (*error_of)(const Group&, const Grid&)>
Grid clip(const Group& group, const Grid& whole) {
  Grid best = whole;
  float least = error_of(group, whole);
  for (int i = 1; i <= kNarrowings; ++i) {
    float part = 1.0f - static_cast<float>(i) * kNarrowing;
    Grid grid = grid_of_range(group.low * part, group.high * part, group.symmetric);
    if (grid.scale == 0.0f) break;
    float error = error_of(group, grid);
    if (error >= least * kBetter) continue;
    best = grid;
    least = error;
  }
  return best;
}

// ---------------------------------------------------------------------------------------------- robust

// HQQ, half-quadratic quantisation (Badri and Shaji 2023, mobiusml.github.io/hqq_blog): the sum of |error|^p for p < 1 is
// lowered in turns. Which part of each error is to be put up with has a closed form, a soft threshold; and so have the levels
// that fit the rest in squares. HQQ moves zero points that are floats; these are integers, so that zeros stay zero, and it is
// the scale that moves, for the zero point at hand and those beside it. p is 3/4, where HQQ has 0.7: its powers are square
// roots, which are rounded alike everywhere.

// How often, and by what the threshold falls each time.
constexpr int kTurns = 5;
constexpr float kSharper = 2.0f;

// Sum of |value - level * scale|^(3/4).
float robust_error(const Group& group, const Grid& grid) {
  const float inverse = 1.0f / grid.scale;
  float sums[kLanes] = {};
  for (int64_t k = 0; k < group.count; k += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      float value = group.values[k + lane] * inverse, root = sqrtf(fabsf(value - nearest_level(value, grid)));
      sums[lane] += root * sqrtf(root);
    }
  float sum = 0.0f;
  for (float part : sums) sum += part;
  float root = sqrtf(grid.scale);
  return sum * root * sqrtf(root);
}

// The levels, for the same integers, that fit best in squares what the soft threshold leaves of the errors: an error x, in
// levels, is put up with but for |x|^(-1/4) / sharpness.
Grid refit(const Group& group, const Grid& grid, float sharpness) {
  const float inverse = 1.0f / grid.scale;
  float products[kLanes] = {}, squares[kLanes] = {};
  for (int64_t k = 0; k < group.count; k += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      float value = group.values[k + lane] * inverse, level = nearest_level(value, grid), error = value - level;
      float size = fabsf(error), kept = size - 1.0f / (sharpness * sqrtf(sqrtf(size)));  // -infinity for no error
      kept = kept > 0.0f ? kept : 0.0f;
      products[lane] += (value - (error < 0.0f ? -kept : kept)) * level;
      squares[lane] += level * level;
    }
  float product = 0.0f, square = 0.0f;
  for (float part : products) product += part;
  for (float part : squares) square += part;
  if (!(product > 0.0f)) return grid;
  uint16_t half = f32_to_f16(grid.scale * (product / square));
  return {half, f16_to_f32(half), grid.zero};
}

Grid robust(const Group& group, const Grid& whole) {
  const Grid start = clip<robust_error>(group, whole);
  Grid best = start;
  float least = robust_error(group, start);
  constexpr int kShifts[] = {0, -1, 1};
  for (int shift : kShifts) {
    Grid grid = start;
    grid.zero += shift;
    if (grid.zero < 0 || grid.zero > kTop || (shift != 0 && group.symmetric)) continue;
    float sharpness = 1.0f;
    for (int turn = 0; turn < kTurns; ++turn, sharpness *= kSharper) {
      grid = refit(group, grid, sharpness);
      if (grid.scale == 0.0f || !isfinite(grid.scale)) break;
      float error = robust_error(group, grid);
      if (error >= least * kBetter) continue;
      best = grid;
      least = error;
    }
  }
  return best;
}

// The levels for a group of finite weights; scale 0 when they are all too small for any, infinite when too large.
Grid choose_grid(const Group& group, ek_int4_clip how) {
  Grid grid = grid_of_range(group.low, group.high, group.symmetric), found;
  if (group.low == 0.0f && group.high == 0.0f) return grid;
  if (find_grid(group, &found)) return found;
  if (grid.scale == 0.0f || !isfinite(grid.scale)) return grid;
  if (how == EK_INT4_CLIP_NONE) return grid;
  return how == EK_INT4_CLIP_MSE ? clip<squared_error>(group, grid) : robust(group, grid);
}

}  // namespace
}  // namespace edgekern::int4
