// Weights of a depthwise convolution into lanes, and back (depthwise_layout.h has the picture).
#include <string.h>

#include "base/at.h"
#include "formats/int8/conv2d_layout.h"

namespace edgekern::int8 {
namespace {

// Word: how a weight stands in a word, int8_t or int16_t.
template <class Word>
void pack_words(const DepthwiseLayout& layout, const int8_t* q, Word* words, int32_t* column_sum) {
  for (int64_t g = 0; g < layout.row_groups(); ++g)
    for (int64_t s = 0; s < layout.kernel_w; ++s)
      for (int64_t c = 0; c < layout.padded_channels(); ++c)
        for (int64_t d = 0; d < layout.depth; ++d, ++words) {
          int64_t r = g * layout.depth + d;
          bool used = c < layout.channels && r < layout.kernel_h;
          *words = used ? q[(c * layout.kernel_h + r) * layout.kernel_w + s] : Word{0};
          column_sum[c] += *words;
        }
}

template <class Word>
void unpack_words(const DepthwiseLayout& layout, const Word* words, int8_t* q) {
  for (int64_t c = 0; c < layout.channels; ++c)
    for (int64_t r = 0; r < layout.kernel_h; ++r)
      for (int64_t s = 0; s < layout.kernel_w; ++s, ++q) {
        int64_t word = (r / layout.depth * layout.kernel_w + s) * layout.padded_channels() + c;
        *q = static_cast<int8_t>(words[word * layout.depth + r % layout.depth]);
      }
}

void copy_padded(const float* values, const DepthwiseLayout& layout, float* out) {
  memset(out, 0, static_cast<size_t>(layout.padded_channels()) * sizeof(float));
  if (values != nullptr) memcpy(out, values, static_cast<size_t>(layout.channels) * sizeof(float));
}

}  // namespace

void pack_depthwise(const DepthwiseLayout& layout, const int8_t* q, const float* scale, const float* bias, void* packed) {
  memset(packed, 0, 64);
  int32_t* column_sum = at<int32_t>(packed, layout.column_sum_offset());
  memset(column_sum, 0, static_cast<size_t>(layout.padded_channels()) * sizeof(int32_t));
  copy_padded(scale, layout, at<float>(packed, layout.scale_offset()));
  copy_padded(bias, layout, at<float>(packed, layout.bias_offset()));
  if (layout.depth == 4)
    pack_words(layout, q, at<int8_t>(packed, layout.words_offset()), column_sum);
  else
    pack_words(layout, q, at<int16_t>(packed, layout.words_offset()), column_sum);
}

void unpack_depthwise(const DepthwiseLayout& layout, const void* packed, int8_t* q, float* scale, float* bias) {
  size_t floats = static_cast<size_t>(layout.channels) * sizeof(float);
  memcpy(scale, at<float>(packed, layout.scale_offset()), floats);
  if (bias != nullptr) memcpy(bias, at<float>(packed, layout.bias_offset()), floats);
  if (layout.depth == 4)
    unpack_words(layout, at<int8_t>(packed, layout.words_offset()), q);
  else
    unpack_words(layout, at<int16_t>(packed, layout.words_offset()), q);
}

}  // namespace edgekern::int8
