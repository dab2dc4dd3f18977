// Bilinear sampling at affine positions, and its adjoint, for sets of planes (h x w floats) that share their positions.
// Positions are as grid_sample's without aligned corners: from edge to edge -1 to 1.

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"

namespace {

struct Taps {  // four for every output pixel: where to read, and how much of it
  std::vector<int> at;
  std::vector<float> share;

  void fill(const float* m, long h, long w, bool border) {
    at.resize(4 * h * w);
    share.resize(4 * h * w);
    long q = 0;
    for (long i = 0; i < h; ++i) {
      const float ys = (2 * i + 1) / float(h) - 1;
      for (long j = 0; j < w; ++j, q += 4) {
        const float xs = (2 * j + 1) / float(w) - 1;
        float x = ((m[0] * xs + (m[1] * ys + m[2]) + 1) * w - 1) / 2;
        float y = ((m[3] * xs + (m[4] * ys + m[5]) + 1) * h - 1) / 2;
        if (border) {
          x = std::min(std::max(x, 0.0f), float(w - 1));
          y = std::min(std::max(y, 0.0f), float(h - 1));
        }
        const float left = std::floor(x), top = std::floor(y), ax = x - left, ay = y - top;
        for (int k = 0; k < 4; ++k) {
          const float column = left + (k & 1), row = top + (k >> 1);
          const bool inside = column >= 0 && column < w && row >= 0 && row < h;
          at[q + k] = inside ? int(row) * int(w) + int(column) : 0;
          share[q + k] = inside ? ((k & 1) ? ax : 1 - ax) * ((k >> 1) ? ay : 1 - ay) : 0;
        }
      }
    }
  }
};

inline float fused(float a, float b, float c) {  // one rounding or two, but always the same
#ifdef __FMA__
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

template <int planes>
void sample(const Taps& taps, const float* x, float* out, long size) {
  const int* at = taps.at.data();
  const float* share = taps.share.data();
  for (long q = 0; q < size; ++q, at += 4, share += 4)
    for (int p = 0; p < planes; ++p) {
      const float* from = x + p * size;
      out[p * size + q] = fused(share[3], from[at[3]], fused(share[2], from[at[2]], fused(share[1], from[at[1]], share[0] * from[at[0]])));
    }
}

void spread(const Taps& taps, const float* gradient, float* out, long size) {
  const int* at = taps.at.data();
  const float* share = taps.share.data();
  std::fill(out, out + size, 0.0f);
  for (long q = 0; q < size; ++q, at += 4, share += 4)
    for (int k = 0; k < 4; ++k) out[at[k]] = fused(share[k], gradient[q], out[at[k]]);
}

}  // namespace

// x, out: (sets * planes, h, w); matrices: (sets, 2, 3). The adjoint takes gradients of outputs to gradients of inputs.
extern "C" void warp(
    const float* x, float* out, long sets, long planes, long h, long w, const float* matrices, int border, int adjoint, int threads) {
  const long size = h * w, total = sets * planes;
  const long parts = std::max(1L, std::min<long>(threads, total * size / 65536));
  in_parallel((int)parts, total, [=](int, long first, long last) {
    Taps taps;
    for (long p = first; p < last;) {
      const long set = p / planes, end = std::min(last, (set + 1) * planes);
      taps.fill(matrices + 6 * set, h, w, border);
      if (adjoint)
        for (; p < end; ++p) spread(taps, x + p * size, out + p * size, size);
      for (; p + 4 <= end; p += 4) sample<4>(taps, x + p * size, out + p * size, size);
      for (; p < end; ++p) sample<1>(taps, x + p * size, out + p * size, size);
    }
  });
}
