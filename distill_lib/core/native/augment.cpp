// The operations of augmentations on float images, each pixel read once or twice and written once, and their adjoints.
//
// A set is the images that share an operation's numbers. Kinds, and their numbers:
//   0 color   brightness, saturation, contrast     1 shift  rows, columns          2 erase  top, left, height, width
//   3 flip    whether                              4 warp, zeros outside           5 warp, the edge repeated: 2 x 3 matrix
// Positions of a warp are as grid_sample's without aligned corners: from edge to edge -1 to 1.

#include <algorithm>
#include <cmath>
#include <cstring>
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
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
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

// Saturation moves pixels about their mean over channels, contrast about the image's mean, which neither moves: one linear map of the
// image and these means, which is its own adjoint.
void color(const float* x, float* out, long channels, long size, const float* p, bool adjoint, float* grey) {
  const float brightness = adjoint ? 0 : p[0], s = channels == 1 ? 1 : p[1], k = p[2];
  constexpr int LANES = 16;
  float lanes[LANES] = {}, sum = 0;
  const float part = 1 / float(channels);
  for (long q = 0; q < size; ++q) grey[q] = x[q];
  for (long c = 1; c < channels; ++c)
    for (long q = 0; q < size; ++q) grey[q] += x[c * size + q];
  for (long q = 0; q < size; ++q) grey[q] *= part;
  long q = 0;
  for (; q + LANES <= size; q += LANES)
    for (int l = 0; l < LANES; ++l) lanes[l] += grey[q + l];
  for (; q < size; ++q) sum += grey[q];
  for (float lane : lanes) sum += lane;
  const float level = sum / size * (1 - k) + brightness, of_grey = k * (1 - s), own = s * k;
  for (long q = 0; q < size; ++q) grey[q] = fused(grey[q], of_grey, level);
  for (long c = 0; c < channels; ++c)
    for (long q = 0; q < size; ++q) out[c * size + q] = fused(x[c * size + q], own, grey[q]);
}

void shift(const float* x, float* out, long planes, long h, long w, long dy, long dx) {
  const long from = std::clamp(-dx, 0L, w), to = std::clamp(w - dx, from, w);  // columns that are not from outside
  for (long p = 0; p < planes; ++p)
    for (long i = 0; i < h; ++i, out += w) {
      const long row = i + dy;
      if (row < 0 || row >= h) {
        std::fill(out, out + w, 0.0f);
        continue;
      }
      std::fill(out, out + from, 0.0f);
      if (to > from) std::memcpy(out + from, x + (p * h + row) * w + from + dx, (to - from) * sizeof(float));
      std::fill(out + to, out + w, 0.0f);
    }
}

void erase(const float* x, float* out, long planes, long h, long w, const float* p) {
  const long top = std::clamp(long(p[0]), 0L, h), bottom = std::clamp(long(p[0] + p[2]), 0L, h);
  const long left = std::clamp(long(p[1]), 0L, w), right = std::clamp(long(p[1] + p[3]), left, w);
  std::memcpy(out, x, planes * h * w * sizeof(float));
  for (; planes > 0; --planes, out += h * w)
    for (long i = top; i < bottom; ++i) std::fill(out + i * w + left, out + i * w + right, 0.0f);
}

void flip(const float* x, float* out, long rows, long w) {
  for (; rows > 0; --rows, x += w, out += w)
    for (long j = 0; j < w; ++j) out[j] = x[w - 1 - j];
}

}  // namespace

// x, out: (groups, images, channels, h, w); kinds: (groups); numbers: (groups, sets, 6), sets = 1 for all images of a group or `images`.
extern "C" void operate(
    const float* x, float* out, long groups, long sets, long images, long channels, long h, long w, const int* kinds, const float* numbers,
    int adjoint, int threads) {
  const long size = h * w, image = channels * size, total = groups * images;
  const long parts = std::max(1L, std::min<long>(threads, total * image / 65536));
  in_parallel((int)parts, total, [=](int, long first, long last) {
    Taps taps;
    std::vector<float> grey(size);
    for (long i = first, end; i < last; i = end) {  // the images of a set
      const long group = i / images, planes = ((end = sets == 1 ? std::min(last, (group + 1) * images) : i + 1) - i) * channels;
      const float *p = numbers + 6 * (sets == 1 ? group : i), *from = x + i * image;
      float* to = out + i * image;
      switch (kinds[group]) {
        case 0:
          for (long j = i; j < end; ++j) color(x + j * image, out + j * image, channels, size, p, adjoint, grey.data());
          break;
        case 1: shift(from, to, planes, h, w, adjoint ? -long(p[0]) : long(p[0]), adjoint ? -long(p[1]) : long(p[1])); break;
        case 2: erase(from, to, planes, h, w, p); break;
        case 3: p[0] ? flip(from, to, planes * h, w) : (void)std::memcpy(to, from, planes * size * sizeof(float)); break;
        default: {
          taps.fill(p, h, w, kinds[group] == 5);
          long q = 0;
          if (adjoint)
            for (; q < planes; ++q) spread(taps, from + q * size, to + q * size, size);
          for (; q + 4 <= planes; q += 4) sample<4>(taps, from + q * size, to + q * size, size);
          for (; q + 3 <= planes; q += 3) sample<3>(taps, from + q * size, to + q * size, size);
          for (; q < planes; ++q) sample<1>(taps, from + q * size, to + q * size, size);
        }
      }
    }
  });
}
