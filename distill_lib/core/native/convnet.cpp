// The ConvNet's embedding and its first derivatives on a CPU, in float32. Compiled, loaded and called by fast.py.
//
// A network is a chain of blocks: convolution 3x3 - instance norm (or bias alone) - ReLU - 2x2 average pooling.
//
//   First block (few input channels). The T = 9 C numbers under a pixel's window are its patch p; the map is y = w.p. Mean and
//   variance of y over the image follow from the patches alone, mean(y) = w.m and var(y) = w' Cov(p) w, so norm and convolution
//   become one product z = (w gamma r).p + shift with r = 1/sqrt(var + eps), and ReLU and pooling are applied while z is in cache:
//   the largest map is never stored. (A norm removes the convolution's bias, so it does not appear.)
//
//   Other blocks. Winograd's F(4x4, 3x3): a 4x4 tile of the output is Y = At [ (G g Gt) * (Bt d B) ] A, d the 6x6 tile of the
//   input under it; summed over channels, the products * are 36 matrix products with 1/4 of the plain convolution's work.
//   The transforms evaluate polynomials at 0, +-3/4, +-3/2 and infinity, where float32 loses least; all their numbers but
//   G's are exact in binary.
//
// Maps are kept [row][column][channel] and arithmetic runs over channels, PANEL of them at a time. Threads share out images.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "parallel.h"

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int PANEL = 2 * LANES;  // channels that are computed together
constexpr int STRIP = 48;         // tiles that are transformed together, so that a strip of all 36 products stays in cache
constexpr int POINTS = 36;        // 6 x 6 products per tile

template <class F> struct Vector { typedef F type __attribute__((vector_size(4 * LANES), aligned(sizeof(F)), may_alias)); };
using vec = Vector<float>::type;
using wide = Vector<double>::type;

static inline vec load(const float *p) { return *reinterpret_cast<const vec *>(p); }
static inline void store(float *p, vec v) { *reinterpret_cast<vec *>(p) = v; }
static inline vec relu(vec v) { return v < 0.0f ? vec{} : v; }                       // NaN stays NaN
static inline vec where_positive(vec z, vec v) { return z > 0.0f ? v : vec{}; }

static inline double over_lanes(wide v) {
    double sum = 0;
    for (int i = 0; i < LANES / 2; i++) sum += v[i];
    return sum;
}

// Memory that is not initialised: every buffer below is written before it is read.
template <class F> struct Buffer {
    F *data;
    explicit Buffer(size_t n) : data(static_cast<F *>(std::aligned_alloc(64, (n * sizeof(F) + 127) / 64 * 64))) {}
    ~Buffer() { std::free(data); }
    Buffer(const Buffer &) = delete;
    operator F *() const { return data; }
    F *zero(size_t n) { std::memset(data, 0, n * sizeof(F)); return data; }
};

// --- matrix products --------------------------------------------------------------------------------------------------
// C[r][0..W) (+)= sum over k of A[r][k] B[k][0..W), W two vectors wide. Element (r, k) of A lies at a[r * row + k * step] within a
// run of `run` values of k; run after run is `jump` further on.
struct Left { long row, step, run, jump; };

template <int R, class F>
static inline void product_rows(long K, const F *a, Left A, const F *b, long b_step, F *c, long c_row, bool add) {
    typedef typename Vector<F>::type V;
    constexpr int L = sizeof(V) / sizeof(F);
    V sum[R][2] = {};
    if (add)
        for (int r = 0; r < R; r++)
            for (int v = 0; v < 2; v++) sum[r][v] = *reinterpret_cast<const V *>(c + r * c_row + v * L);
    for (long k0 = 0; k0 < K; k0 += A.run, a += A.jump)
        for (long k = 0; k < A.run; k++, b += b_step) {
            const V b0 = *reinterpret_cast<const V *>(b), b1 = *reinterpret_cast<const V *>(b + L);
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) {
                const F s = a[r * A.row + k * A.step];
                sum[r][0] += s * b0;
                sum[r][1] += s * b1;
            }
        }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 2; v++) *reinterpret_cast<V *>(c + r * c_row + v * L) = sum[r][v];
}

template <class F>
static void product(long rows, long K, const F *a, Left A, const F *b, long b_step, F *c, long c_row, bool add) {
    for (; rows >= 6; rows -= 6, a += 6 * A.row, c += 6 * c_row) product_rows<6>(K, a, A, b, b_step, c, c_row, add);
    switch (rows) {
        case 5: return product_rows<5>(K, a, A, b, b_step, c, c_row, add);
        case 4: return product_rows<4>(K, a, A, b, b_step, c, c_row, add);
        case 3: return product_rows<3>(K, a, A, b, b_step, c, c_row, add);
        case 2: return product_rows<2>(K, a, A, b, b_step, c, c_row, add);
        case 1: return product_rows<1>(K, a, A, b, b_step, c, c_row, add);
    }
}

// --- the one-dimensional transforms of F(4, 3) ---------------------------------------------------------------------------
// Points 0, a, -a, b, -b, infinity; N(x) = x (x^2 - a^2) (x^2 - b^2).
constexpr float pa = 0.75f, pb = 1.5f, a2 = pa * pa, b2 = pb * pb;
constexpr float g0 = 1 / (a2 * b2), ga = 1 / (2 * a2 * (a2 - b2)), gb = 1 / (2 * b2 * (b2 - a2));  // 1 / N'(point)

static inline void input_transform(const vec d[6], vec v[6]) {  // Bt: coefficients of N(x) / (x - point)
    const vec even_a = d[4] - b2 * d[2], odd_a = pa * (d[3] - b2 * d[1]);
    const vec even_b = d[4] - a2 * d[2], odd_b = pb * (d[3] - a2 * d[1]);
    v[0] = (a2 * b2) * d[0] - (a2 + b2) * d[2] + d[4];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = (a2 * b2) * d[1] - (a2 + b2) * d[3] + d[5];
}
static inline void output_transform(const vec m[6], vec y[4]) {  // At: powers 0..3 of the points
    const vec sum_a = m[1] + m[2], dif_a = m[1] - m[2], sum_b = m[3] + m[4], dif_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = pa * dif_a + pb * dif_b;
    y[2] = a2 * sum_a + b2 * sum_b;
    y[3] = (a2 * pa) * dif_a + (b2 * pb) * dif_b + m[5];
}
static inline void output_adjoint(const vec y[4], vec m[6]) {  // A
    const vec even_a = y[0] + a2 * y[2], odd_a = pa * y[1] + (a2 * pa) * y[3];
    const vec even_b = y[0] + b2 * y[2], odd_b = pb * y[1] + (b2 * pb) * y[3];
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
}
static inline void filter_transform(const vec g[3], vec u[6]) {  // G: the filter at the points, over N'
    const vec even_a = ga * (g[0] + a2 * g[2]), odd_a = (ga * pa) * g[1];
    const vec even_b = gb * (g[0] + b2 * g[2]), odd_b = (gb * pb) * g[1];
    u[0] = g0 * g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
}
static inline void filter_adjoint(const vec u[6], vec g[3]) {  // Gt
    const vec sum_a = ga * (u[1] + u[2]), dif_a = (ga * pa) * (u[1] - u[2]);
    const vec sum_b = gb * (u[3] + u[4]), dif_b = (gb * pb) * (u[3] - u[4]);
    g[0] = g0 * u[0] + sum_a + sum_b;
    g[1] = dif_a + dif_b;
    g[2] = a2 * sum_a + b2 * sum_b + u[5];
}

// A transform of rows and then of columns: X (n x n) -> T X Tt (m x m).
template <int n, int m, void transform(const vec *, vec *)>
static inline void two_dimensional(const vec (&x)[n][n], vec (&y)[m][m]) {
    vec half[n][m];
    for (int i = 0; i < n; i++) transform(x[i], half[i]);
    for (int j = 0; j < m; j++) {
        vec column[n], out[m];
        for (int i = 0; i < n; i++) column[i] = half[i][j];
        transform(column, out);
        for (int i = 0; i < m; i++) y[i][j] = out[i];
    }
}

// --- sizes -----------------------------------------------------------------------------------------------------------------
struct Block {
    int in, out;                 // channels
    int height, width;           // of the convolution's map
    int tiles_y, tiles_x;        // 4x4 tiles that cover it
    int pooled_h, pooled_w;
    long map() const { return (long)height * width; }
    long pooled() const { return (long)pooled_h * pooled_w; }
    long tiles() const { return (long)tiles_y * tiles_x; }
};

struct Parameters { const float *weight, *bias, *scale, *shift; };  // (out, in, 3, 3), (out), (out), (out)
struct Gradients { float *weight, *bias, *scale, *shift; };

struct Net {
    int channels, height, width, padding;  // of the images; padding of the first convolution
    bool norm;                             // instance norm, or the convolution's bias alone
    float eps;
    std::vector<Block> blocks;
    const Parameters *parameters;
    long group;                            // images that go through the network together

    Net(const int *shape, int padding, bool norm, float eps, int depth, const int *widths, const Parameters *parameters)
        : channels(shape[0]), height(shape[1]), width(shape[2]), padding(padding), norm(norm), eps(eps), parameters(parameters) {
        int in = channels, h = height + 2 * padding - 2, w = width + 2 * padding - 2;
        for (int i = 0; i < depth; i++) {
            blocks.push_back({in, widths[i], h, w, (h + 3) / 4, (w + 3) / 4, h / 2, w / 2});
            in = widths[i], h /= 2, w /= 2;
        }
        group = depth > 1 ? std::clamp<long>(STRIP / blocks[1].tiles(), 1, 24) : 1;
    }
    long image() const { return (long)channels * height * width; }
    long embedding() const { return blocks.back().pooled() * blocks.back().out; }
    int taps() const { return 9 * channels; }
    int tap_row() const { return (taps() + 1 + PANEL - 1) / PANEL * PANEL; }  // a patch, a one, and room up to whole panels
    // What the backward pass wants from the forward pass, per image and block after the first: input, map, mean, 1/deviation.
    long saved(const Block &b) const { return b.map() * (b.in + b.out) + 2 * b.out; }
    long saved() const {
        long n = 0;
        for (size_t i = 1; i < blocks.size(); i++) n += saved(blocks[i]);
        return n;
    }
    long widest() const {  // numbers in the largest map after the first block, input or output
        long n = 1;
        for (size_t i = 1; i < blocks.size(); i++) n = std::max(n, blocks[i].map() * std::max(blocks[i].in, blocks[i].out));
        return n;
    }
    long broadest() const {
        long n = PANEL;
        for (const Block &b : blocks) n = std::max<long>(n, b.out);
        return n;
    }
};

// --- convolution by tiles ----------------------------------------------------------------------------------------------------
// Floats from one point to the next: a panel more than it holds, lest all points fall into one set of the cache.
static long pitch(long a, long b) { return a * b + PANEL; }

// Filters for the products: [point][panel of outputs][input][PANEL]. `adjoint` gives those of the map from output to input gradients:
// inputs and outputs exchanged, filters rotated by half a turn.
static void transform_filters(const float *weight, int in, int out, bool adjoint, float *filters, int threads) {
    const int from = adjoint ? out : in, to = adjoint ? in : out;
    in_parallel(threads, to / PANEL, [&](int, long first, long last) {
        constexpr int RUN = 8;  // inputs at a time, which lie together in `weight`
        float taps[RUN][9][PANEL];
        for (long panel = first; panel < last; panel++)
            for (int c = 0; c < from; c += RUN) {
                for (int lane = 0; lane < PANEL; lane++)
                    for (int i = 0; i < RUN; i++) {
                        const long k = panel * PANEL + lane;
                        const float *w = weight + (adjoint ? (long)(c + i) * in + k : k * in + c + i) * 9;
                        for (int t = 0; t < 9; t++) taps[i][t][lane] = w[adjoint ? 8 - t : t];
                    }
                for (int i = 0; i < RUN; i++)
                    for (int half = 0; half < PANEL; half += LANES) {
                        vec g[3][3], u[6][6];
                        for (int t = 0; t < 9; t++) g[t / 3][t % 3] = load(taps[i][t] + half);
                        two_dimensional<3, 6, filter_transform>(g, u);
                        float *at = filters + (panel * from + c + i) * PANEL + half;
                        for (int p = 0; p < POINTS; p++) store(at + p * pitch(from, to), u[p / 6][p % 6]);
                    }
            }
    });
}

// The adjoint: gradients of the products' filters -> gradient of the weight.
static void filters_to_weight(const float *filters, int in, int out, float *weight, int threads) {
    in_parallel(threads, out / PANEL, [&](int, long first, long last) {
        for (long panel = first; panel < last; panel++)
            for (int c = 0; c < in; c++)
                for (int half = 0; half < PANEL; half += LANES) {
                    vec u[6][6], g[3][3];
                    for (int p = 0; p < POINTS; p++) u[p / 6][p % 6] = load(filters + p * pitch(in, out) + (panel * in + c) * PANEL + half);
                    two_dimensional<6, 3, filter_adjoint>(u, g);
                    for (int t = 0; t < 9; t++)
                        for (int lane = 0; lane < LANES; lane++)
                            weight[((panel * PANEL + half + lane) * in + c) * 9 + t] = g[t / 3][t % 3][lane];
                }
    });
}

// Tiles of one block's maps. Transformed, a strip of them is [point][panel of channels][tile][PANEL].
struct Tiles {
    const Block &block;
    const float *zeros;  // a pixel outside the map

    // Where the size x size pixels lie, from `before` pixels above and left of the tile's corner on.
    template <int size> void pixels(const float *map, int channels, long tile, int before, const float *(&at)[size][size]) const {
        const int top = (int)(tile / block.tiles_x) * 4 - before, left = (int)(tile % block.tiles_x) * 4 - before;
        for (int i = 0; i < size; i++)
            for (int j = 0; j < size; j++) {
                const int y = top + i, x = left + j;
                const bool inside = y >= 0 && y < block.height && x >= 0 && x < block.width;
                at[i][j] = inside ? map + ((long)y * block.width + x) * channels : zeros;
            }
    }

    // Tiles first.. of the images' maps, `stride` floats apart, transformed.
    template <int size, int before, void transform(const vec *, vec *)>
    void gather(const float *maps, long stride, int channels, long first, long count, float *out) const {
        for (long t = 0; t < count; t++) {
            const float *at[size][size];
            pixels<size>(maps + (first + t) / block.tiles() * stride, channels, (first + t) % block.tiles(), before, at);
            for (int c = 0; c < channels; c += LANES) {
                vec x[size][size], v[6][6];
                for (int i = 0; i < size; i++)
                    for (int j = 0; j < size; j++) x[i][j] = load(at[i][j] + c);
                two_dimensional<size, 6, transform>(x, v);
                float *to = out + (c / PANEL * count + t) * PANEL + c % PANEL;
                for (int p = 0; p < POINTS; p++) store(to + p * pitch(channels, count), v[p / 6][p % 6]);
            }
        }
    }

    // The products of tiles first.., transformed back into the maps (dense).
    void scatter(const float *products, int channels, long first, long count, float *maps) const {
        for (long t = 0; t < count; t++) {
            const float *at[4][4];
            pixels<4>(maps + (first + t) / block.tiles() * block.map() * channels, channels, (first + t) % block.tiles(), 0, at);
            for (int c = 0; c < channels; c += LANES) {
                vec m[6][6], y[4][4];
                const float *from = products + (c / PANEL * count + t) * PANEL + c % PANEL;
                for (int p = 0; p < POINTS; p++) m[p / 6][p % 6] = load(from + p * pitch(channels, count));
                two_dimensional<6, 4, output_transform>(m, y);
                for (int i = 0; i < 4; i++)
                    for (int j = 0; j < 4; j++)
                        if (at[i][j] != zeros) store(const_cast<float *>(at[i][j]) + c, y[i][j]);
            }
        }
    }
};

// maps (images, height, width, from) -> out (images, height, width, to)
static void convolve(const Block &block, const float *zeros, long images, const float *maps, int from, int to, const float *filters,
                     float *strip, float *products, float *out) {
    const Tiles tiles{block, zeros};
    const long total = images * block.tiles(), panels = to / PANEL;
    for (long first = 0; first < total; first += STRIP) {
        const long count = std::min<long>(STRIP, total - first);
        tiles.gather<6, 1, input_transform>(maps, block.map() * from, from, first, count, strip);
        for (int p = 0; p < POINTS; p++)
            for (long panel = 0; panel < panels; panel++)
                product<float>(count, from, strip + p * pitch(from, count), {PANEL, 1, PANEL, count * PANEL},
                               filters + p * pitch(from, to) + panel * from * PANEL, PANEL,
                               products + p * pitch(to, count) + panel * count * PANEL, PANEL, false);
        tiles.scatter(products, to, first, count, out);
    }
}

// Adds the gradient of the products' filters: sum over tiles of (transformed input) x (adjoint-transformed output gradient).
// maps (images, height, width, in), `stride` floats apart; grad (images, height, width, out)
static void filter_gradient(const Block &block, const float *zeros, long images, const float *maps, long stride, const float *grad,
                            float *strip, float *products, float *filters) {
    const Tiles tiles{block, zeros};
    const long total = images * block.tiles(), panels = block.out / PANEL;
    for (long first = 0; first < total; first += STRIP) {
        const long count = std::min<long>(STRIP, total - first);
        tiles.gather<6, 1, input_transform>(maps, stride, block.in, first, count, strip);
        tiles.gather<4, 0, output_adjoint>(grad, block.map() * block.out, block.out, first, count, products);
        for (int p = 0; p < POINTS; p++)
            for (long panel = 0; panel < panels; panel++)
                for (int c = 0; c < block.in; c += PANEL)
                    product<float>(PANEL, count, strip + p * pitch(block.in, count) + c * count, {1, PANEL, count, 0},
                                   products + p * pitch(block.out, count) + panel * count * PANEL, PANEL,
                                   filters + p * pitch(block.in, block.out) + (panel * block.in + c) * PANEL, PANEL, true);
    }
}

// --- norm, ReLU and pooling of one image's map ---------------------------------------------------------------------------------
// y (height, width, channels) -> mean and 1 / sqrt(variance + eps) per channel
static void moments(const Block &b, const float *y, float eps, float *mean, float *inverse) {
    const long n = b.map();
    std::vector<float> row(b.out);
    const auto average = [&](float *out, auto &&value) {  // row sums first: float32 sums of few terms
        std::fill(out, out + b.out, 0.0f);
        for (int i = 0; i < b.height; i++) {
            std::fill(row.begin(), row.end(), 0.0f);
            for (int j = 0; j < b.width; j++)
                for (int c = 0; c < b.out; c += LANES) store(&row[c], load(&row[c]) + value(y + ((long)i * b.width + j) * b.out, c));
            for (int c = 0; c < b.out; c += LANES) store(out + c, load(out + c) + load(&row[c]));
        }
        for (int c = 0; c < b.out; c += LANES) store(out + c, load(out + c) / (float)n);
    };
    average(mean, [](const float *pixel, int c) { return load(pixel + c); });
    average(inverse, [&](const float *pixel, int c) { const vec d = load(pixel + c) - load(mean + c); return d * d; });
    for (int c = 0; c < b.out; c++) inverse[c] = 1 / std::sqrt(inverse[c] + eps);
}

// z = y * factor + offset is what the ReLU sees
static void affine(const Net &net, const Parameters &p, const Block &b, const float *mean, const float *inverse, float *factor,
                   float *offset) {
    for (int c = 0; c < b.out; c++) {
        factor[c] = net.norm ? p.scale[c] * inverse[c] : 1;
        offset[c] = net.norm ? p.shift[c] - mean[c] * factor[c] : p.bias[c];
    }
}

// out (pooled_h, pooled_w, channels) = 2x2 averages of ReLU(y * factor + offset)
static void relu_pool(const Block &b, const float *y, const float *factor, const float *offset, float *out) {
    for (int i = 0; i < b.pooled_h; i++)
        for (int j = 0; j < b.pooled_w; j++) {
            const float *top = y + ((2L * i) * b.width + 2 * j) * b.out, *bottom = top + (long)b.width * b.out;
            float *to = out + ((long)i * b.pooled_w + j) * b.out;
            for (int c = 0; c < b.out; c += LANES) {
                const vec f = load(factor + c), o = load(offset + c);
                const vec sum = relu(load(top + c) * f + o) + relu(load(top + b.out + c) * f + o) + relu(load(bottom + c) * f + o) +
                                relu(load(bottom + b.out + c) * f + o);
                store(to + c, 0.25f * sum);
            }
        }
}

// Gradient through pooling, ReLU and norm: grad (pooled_h, pooled_w, channels) -> dy (height, width, channels), and adds the
// parameters' gradients. With dz the gradient where the ReLU looked and n pixels:
//   dy = gamma r (dz - mean(dz) - yhat mean(dz yhat)),  d gamma = sum dz yhat,  d beta = sum dz,  yhat = (y - mean) r.
static void relu_pool_backward(const Net &net, const Block &b, const float *y, const float *mean, const float *inverse, const float *factor,
                               const float *offset, const float *grad, float *dy, float *dscale, float *dshift, float *sums) {
    const long n = b.map();
    float *sum = sums, *moment = sums + b.out;  // of dz, and of dz (y - mean)
    std::memset(dy, 0, n * b.out * sizeof(float));
    std::memset(sums, 0, 2 * b.out * sizeof(float));
    for (int i = 0; i < 2 * b.pooled_h; i++)
        for (int j = 0; j < 2 * b.pooled_w; j++) {
            const long at = ((long)i * b.width + j) * b.out;
            const float *g = grad + ((long)(i / 2) * b.pooled_w + j / 2) * b.out;
            for (int c = 0; c < b.out; c += LANES) {
                const vec v = load(y + at + c);
                const vec dz = where_positive(v * load(factor + c) + load(offset + c), 0.25f * load(g + c));
                store(dy + at + c, dz);
                store(sum + c, load(sum + c) + dz);
                store(moment + c, load(moment + c) + dz * (v - (net.norm ? load(mean + c) : vec{})));
            }
        }
    if (!net.norm) {
        for (int c = 0; c < b.out; c++) dshift[c] += sum[c];
        return;
    }
    for (int c = 0; c < b.out; c++) {
        dshift[c] += sum[c];
        dscale[c] += moment[c] * inverse[c];
        moment[c] *= factor[c] * inverse[c] * inverse[c] / n;  // so that dy = factor dz - sum - (y - mean) moment
        sum[c] *= factor[c] / n;
    }
    for (long p = 0; p < n; p++)
        for (int c = 0; c < b.out; c += LANES) {
            float *d = dy + p * b.out + c;
            store(d, load(factor + c) * load(d) - load(sum + c) - (load(y + p * b.out + c) - load(mean + c)) * load(moment + c));
        }
}

// --- the first block -------------------------------------------------------------------------------------------------------------
struct First {
    const Net &net;
    const Block &b;
    const int T, row;           // taps; numbers per patch: T taps, a one, zeros up to whole panels
    const int padded_w;
    const long plane;           // pixels of a padded channel
    std::vector<int> offset;    // of tap t from the window's corner in the padded image
    Buffer<float> padded, patches, z, weight, adjoint;
    static constexpr int EDGE = 2;  // zeros left and, at least, right of a line of `exact`
    const int exact_w;
    const long exact_plane;
    Buffer<double> exact, tap_weight, second, image_of;  // padded image; weight (T, out); Cov(p); Cov(p) w
    std::vector<double> mean;   // of the taps
    std::vector<float> inverse; // per channel: 1 / sqrt(var + eps)

    explicit First(const Net &net)
        : net(net), b(net.blocks[0]), T(net.taps()), row(net.tap_row()), padded_w(net.width + 2 * net.padding),
          plane((long)(net.height + 2 * net.padding) * padded_w), padded(net.channels * plane), patches(4L * (b.width + 1) * row),
          z(4L * (b.width + 1) * PANEL), weight((long)(T + 1) * b.out), adjoint((long)b.out * row),
          exact_w((padded_w + LANES - 1) / LANES * LANES + 2 * EDGE), exact_plane((long)(net.height + 2 * net.padding) * exact_w),
          exact(net.channels * exact_plane), tap_weight((long)T * b.out), second((long)(T + 6) * row), image_of((long)(T + 6) * b.out),
          mean(T), inverse(b.out) {
        for (int t = 0; t < T; t++) offset.push_back((int)(t / 9 * plane) + t % 9 / 3 * padded_w + t % 3);
        const float *w = net.parameters[0].weight;
        for (int t = 0; t < T; t++)
            for (int k = 0; k < b.out; k++) tap_weight[(long)t * b.out + k] = w[(long)k * T + t];
        std::memset(patches, 0, 4L * (b.width + 1) * row * sizeof(float));
    }

    // The start of an image row within padded channels.
    float *inside(float *channels, int c, int i) const {
        return channels + c * plane + (long)(i + net.padding) * padded_w + net.padding;
    }

    // Read an image; find the statistics of its patches and, from them, the weights that include the norm.
    void prepare(const float *image) {
        padded.zero(net.channels * plane);
        for (int c = 0; c < net.channels; c++)
            for (int i = 0; i < net.height; i++)
                std::memcpy(inside(padded, c, i), image + ((long)c * net.height + i) * net.width, net.width * sizeof(float));
        if (net.norm) statistics();
        const Parameters &p = net.parameters[0];
        for (int k = 0; k < b.out; k++) {  // a quarter for the pooling's mean; ReLU commutes with it
            double centre = 0;
            for (int t = 0; t < T; t++) centre += net.norm ? mean[t] * tap_weight[(long)t * b.out + k] : 0;
            const float factor = net.norm ? p.scale[k] * inverse[k] : 1;
            float *to = weight + (long)(k / PANEL) * (T + 1) * PANEL + k % PANEL;  // [panel][tap][PANEL]
            for (int t = 0; t < T; t++) to[t * PANEL] = 0.25f * factor * (float)tap_weight[(long)t * b.out + k];
            to[T * PANEL] = 0.25f * (net.norm ? p.shift[k] - factor * (float)centre : p.bias[k]);
        }
    }

    // Mean and covariance of the patches in float64 (differences of large numbers), then var = w' Cov w for every channel.
    //
    // The sum over all pixels of tap t times tap u is the image's own correlation at the taps' distance: a sum over the whole padded
    // image, less its outermost line of pixels on the side where both taps' windows end before it. (Where only one ends, the other
    // reads padding.) With padding over 1 that line is zero itself.
    void statistics() {
        constexpr int WIDE = PANEL / 2;  // doubles in a panel
        const int padded_h = net.height + 2 * net.padding, C = net.channels, top = 1, bottom = padded_h - 2, left = 1, right = padded_w - 2;
        const double n = (double)b.map();
        exact.zero(C * exact_plane);
        for (int c = 0; c < C; c++)
            for (int i = 0; i < net.height; i++) {
                const float *from = inside(padded, c, i);
                double *to = exact + c * exact_plane + (long)(i + net.padding) * exact_w + net.padding + EDGE;
                for (int j = 0; j < net.width; j++) to[j] = from[j];
            }
        const auto at = [&](int c, int i, int j) { return exact[c * exact_plane + (long)i * exact_w + j + EDGE]; };
        const auto along_row = [&](int c, int d, int i, int lag) {
            double sum = 0;
            for (int j = std::max(0, -lag); j < padded_w - std::max(0, lag); j++) sum += at(c, i, j) * at(d, i, j + lag);
            return sum;
        };
        const auto along_column = [&](int c, int d, int j, int lag) {
            double sum = 0;
            for (int i = std::max(0, -lag); i < padded_h - std::max(0, lag); i++) sum += at(c, i, j) * at(d, i + lag, j);
            return sum;
        };
        for (int c = 0; c < C; c++) {
            double rows[3] = {}, columns[3] = {};  // what taps 0, 1, 2 leave out
            wide lanes = {};
            for (const double *p = exact + c * exact_plane + EDGE, *end = p + padded_h * exact_w; p < end; p += exact_w)
                for (int j = 0; j < padded_w; j += LANES / 2) lanes += *reinterpret_cast<const wide *>(p + j);
            const double whole = over_lanes(lanes);
            for (int j = 0; j < padded_w; j++) rows[0] += at(c, bottom, j), rows[2] += at(c, top, j);
            for (int i = 0; i < padded_h; i++) columns[0] += at(c, i, right), columns[2] += at(c, i, left);
            for (int t = 0; t < 9; t++) {
                const int dy = t / 3, dx = t % 3;
                const double corner = dy == 1 || dx == 1 ? 0 : at(c, dy ? top : bottom, dx ? left : right);
                mean[9 * c + t] = (whole - rows[dy] - columns[dx] + corner) / n;
            }
        }
        for (int c = 0; c < C; c++)
            for (int d = c; d < C; d++) {
                double whole[5][5], rows[3][5] = {}, columns[3][5] = {};  // by lag, from -2 to 2
                for (int y = -2; y <= 2; y++) correlate(c, d, y, padded_h, whole[y + 2]);
                if (net.padding == 1)
                    for (int lag = -2; lag <= 2; lag++) {
                        rows[0][lag + 2] = along_row(c, d, bottom, lag), rows[2][lag + 2] = along_row(c, d, top, lag);
                        columns[0][lag + 2] = along_column(c, d, right, lag), columns[2][lag + 2] = along_column(c, d, left, lag);
                    }
                for (int t = 0; t < 9; t++)
                    for (int u = c == d ? t : 0; u < 9; u++) {
                        const int y = t / 3, x = t % 3, dy = u / 3 - y, dx = u % 3 - x;
                        double sum = whole[dy + 2][dx + 2];
                        if (!dy) sum -= rows[y][dx + 2];
                        if (!dx) sum -= columns[x][dy + 2];
                        if (!dy && !dx && y != 1 && x != 1) {
                            const int i = y ? top : bottom, j = x ? left : right;
                            sum += at(c, i, j) * at(d, i, j);
                        }
                        const int first = 9 * c + t, last = 9 * d + u;
                        second[(long)first * row + last] = second[(long)last * row + first] = sum / n - mean[first] * mean[last];
                    }
            }
        for (int k = 0; k < b.out; k += WIDE)
            product<double>(T, T, second, {row, 1, T, 0}, tap_weight + k, b.out, image_of + k, b.out, false);
        for (int k = 0; k < b.out; k++) {
            double variance = 0;
            for (int t = 0; t < T; t++) variance += tap_weight[(long)t * b.out + k] * image_of[(long)t * b.out + k];
            inverse[k] = (float)(1 / std::sqrt(std::max(variance, 0.0) + net.eps));
        }
    }

    // found[x + 2] = sum over pixels of channel c at (i, j) times channel d at (i + y, j + x), for x from -2 to 2
    void correlate(int c, int d, int y, int height, double found[5]) const {
        wide sum[5] = {};
        for (int i = std::max(0, -y); i < height - std::max(0, y); i++) {
            const double *one = exact + c * exact_plane + (long)i * exact_w + EDGE, *other = exact + d * exact_plane + (long)(i + y) * exact_w + EDGE;
            for (int j = 0; j < padded_w; j += LANES / 2) {
                const wide here = *reinterpret_cast<const wide *>(one + j);
                for (int x = -2; x <= 2; x++) sum[x + 2] += here * *reinterpret_cast<const wide *>(other + j + x);
            }
        }
        for (int x = 0; x < 5; x++) found[x] = over_lanes(sum[x]);
    }

    // Patches of pooled row i: for every pooled pixel its four pixels, one patch each.
    void gather(int i) {
        float *p = patches;
        for (int j = 0; j < b.pooled_w; j++)
            for (int q = 0; q < 4; q++, p += row) {
                const float *corner = padded + (2L * i + q / 2) * padded_w + 2 * j + q % 2;
                for (int t = 0; t < T; t++) p[t] = corner[offset[t]];
                p[T] = 1;
            }
    }

    void activate(int panel) {  // z of the gathered patches, before the ReLU, over 4
        product<float>(4L * b.pooled_w, T + 1, patches, {row, 1, T + 1, 0}, weight + (long)panel * (T + 1) * PANEL, PANEL, z, PANEL, false);
    }

    // A panel of P neighbouring pooled pixels, over whose first window `corner` lies.
    template <int P> void pool(const float *corner, const float *weights, float *out) const {
        vec sum[P][2] = {};
        for (int line = 0; line < 2; line++, corner += padded_w) {
            vec z[2 * P][2] = {};
            for (int t = 0; t < T; t++) {
                const float *p = corner + offset[t];
                const vec w0 = load(weights + t * PANEL), w1 = load(weights + t * PANEL + LANES);
#pragma GCC unroll 6
                for (int q = 0; q < 2 * P; q++) {
                    z[q][0] += p[q] * w0;
                    z[q][1] += p[q] * w1;
                }
            }
            for (int half = 0; half < 2; half++) {
                const vec one = load(weights + (long)T * PANEL + half * LANES);
                for (int q = 0; q < 2 * P; q++) sum[q / 2][half] += relu(z[q][half] + one);
            }
        }
        for (int j = 0; j < P; j++)
            for (int half = 0; half < 2; half++) store(out + (long)j * b.out + half * LANES, sum[j][half]);
    }

    // (C, H, W) image -> out (pooled_h, pooled_w, channels)
    void forward(const float *image, float *out) {
        prepare(image);
        for (int panel = 0; panel < b.out / PANEL; panel++) {
            const float *weights = weight + (long)panel * (T + 1) * PANEL;
            for (int i = 0; i < b.pooled_h; i++) {
                const float *corner = padded + 2L * i * padded_w;
                float *to = out + (long)i * b.pooled_w * b.out + panel * PANEL;
                int j = 0;
                for (; j + 3 <= b.pooled_w; j += 3) pool<3>(corner + 2 * j, weights, to + (long)j * b.out);
                if (j + 2 == b.pooled_w) pool<2>(corner + 2 * j, weights, to + (long)j * b.out);
                if (j + 1 == b.pooled_w) pool<1>(corner + 2 * j, weights, to + (long)j * b.out);
            }
        }
    }

    // Adds the gradients of the parameters and, unless null, of the image. With S_t = sum dz p_t over pixels, everything the norm adds
    // follows from S and the patches' statistics, sum yhat p_t = n r (Cov w)_t:
    //   d beta = S_one,  d gamma = r (w.S - S_one w.m),  d w_t = gamma r (S_t - S_one m_t - d gamma r (Cov w)_t)
    // and the image's part is the adjoint window of  sum_k gamma r w_t (dz - S_one / n - (d gamma / n) yhat),  yhat = r w.(p - m).
    void backward(const float *image, const float *grad, const Gradients &d, float *sums, float *dpadded, float *dimage) {
        prepare(image);
        const Parameters &p = net.parameters[0];
        std::memset(sums, 0, (long)(T + 6) * b.out * sizeof(float));
        if (dimage) {
            std::memset(dpadded, 0, net.channels * plane * sizeof(float));
            std::memset(adjoint, 0, (long)b.out * row * sizeof(float));
            for (int k = 0; k < b.out; k++)
                for (int t = 0; t < T; t++)
                    adjoint[(long)k * row + t] = (float)tap_weight[(long)t * b.out + k] * (net.norm ? p.scale[k] * inverse[k] : 1);
        }
        std::vector<float> window(4L * b.pooled_w * row);
        for (int i = 0; i < b.pooled_h; i++) {
            gather(i);
            for (int panel = 0; panel < b.out / PANEL; panel++) {
                activate(panel);
                for (int j = 0; j < b.pooled_w; j++)
                    for (int half = 0; half < PANEL; half += LANES) {
                        const vec g = 0.25f * load(grad + ((long)i * b.pooled_w + j) * b.out + panel * PANEL + half);
                        for (int q = 0; q < 4; q++) {
                            float *at = z + (4L * j + q) * PANEL + half;
                            store(at, where_positive(load(at), g));  // dz
                        }
                    }
                product<float>(T + 1, 4L * b.pooled_w, patches, {1, row, 4L * b.pooled_w, 0}, z, PANEL, sums + panel * PANEL, b.out, true);
                if (dimage)
                    for (int t = 0; t < row; t += PANEL)
                        product<float>(4L * b.pooled_w, PANEL, z, {PANEL, 1, PANEL, 0}, adjoint + (long)panel * PANEL * row + t, row,
                                       &window[t], row, panel > 0);
            }
            if (dimage)
                for (int j = 0; j < b.pooled_w; j++)
                    for (int q = 0; q < 4; q++) spread(&window[(4L * j + q) * row], 2 * i + q / 2, 2 * j + q % 2, 1, dpadded);
        }
        if (net.norm) norm_backward(d, sums, dimage ? dpadded : nullptr);
        else
            for (int k = 0; k < b.out; k++) {
                d.bias[k] += sums[(long)T * b.out + k];
                for (int t = 0; t < T; t++) d.weight[(long)k * T + t] += sums[(long)t * b.out + k];
            }
        if (dimage)
            for (int c = 0; c < net.channels; c++)
                for (int i = 0; i < net.height; i++)
                    std::memcpy(dimage + ((long)c * net.height + i) * net.width, inside(dpadded, c, i), net.width * sizeof(float));
    }

  private:
    void spread(const float *window, int y, int x, float sign, float *dpadded) const {
        float *corner = dpadded + (long)y * padded_w + x;
        for (int t = 0; t < T; t++) corner[offset[t]] += sign * window[t];
    }

    void norm_backward(const Gradients &d, const float *sums, float *dpadded) {
        const double n = (double)b.map();
        const Parameters &p = net.parameters[0];
        // The norm's part of the image's gradient is constant + mixing p, mixing_tu = sum_k gamma r^2 (d gamma / n) w_t w_u.
        std::vector<double> mixing(dpadded ? (long)T * T : 0), constant(T);
        for (int k = 0; k < b.out; k++) {
            const double one = sums[(long)T * b.out + k], r = inverse[k], factor = p.scale[k] * r;
            double dscale = 0;
            for (int t = 0; t < T; t++) dscale += r * tap_weight[(long)t * b.out + k] * (sums[(long)t * b.out + k] - one * mean[t]);
            d.shift[k] += (float)one;
            d.scale[k] += (float)dscale;
            for (int t = 0; t < T; t++) {
                const double own = sums[(long)t * b.out + k] - one * mean[t];
                d.weight[(long)k * T + t] += (float)(factor * (own - dscale * r * image_of[(long)t * b.out + k]));
            }
            if (dpadded)
                for (int t = 0; t < T; t++) {
                    const double w = tap_weight[(long)t * b.out + k], share = w * factor * r * dscale / n;
                    constant[t] += w * factor * one / n;
                    for (int u = 0; u < T; u++) mixing[(long)t * T + u] += share * tap_weight[(long)u * b.out + k];
                }
        }
        if (!dpadded) return;
        std::vector<float> matrix((long)(T + 1) * row), window((long)b.width * row);  // patch and its one -> window
        for (int t = 0; t < T; t++)
            for (int u = 0; u < T; u++) {
                matrix[(long)u * row + t] = (float)mixing[(long)t * T + u];
                constant[t] -= mixing[(long)t * T + u] * mean[u];
            }
        for (int t = 0; t < T; t++) matrix[(long)T * row + t] = (float)constant[t];
        for (int y = 0; y < b.height; y++) {
            float *patch = patches;
            for (int x = 0; x < b.width; x++, patch += row) {
                const float *corner = padded + (long)y * padded_w + x;
                for (int t = 0; t < T; t++) patch[t] = corner[offset[t]];
                patch[T] = 1;
            }
            for (int t = 0; t < row; t += PANEL)
                product<float>(b.width, T + 1, patches, {row, 1, T + 1, 0}, &matrix[t], row, &window[t], row, false);
            for (int x = 0; x < b.width; x++) spread(&window[(long)x * row], y, x, -1, dpadded);
        }
    }
};

// --- the whole network -------------------------------------------------------------------------------------------------------------
// What the backward pass reads of one image and block: pointers into its part of `saved`.
struct Saved {
    float *input, *map, *mean, *inverse;
    Saved(float *at, const Block &b) : input(at), map(at + b.map() * b.in), mean(map + b.map() * b.out), inverse(mean + b.out) {}
};

static void forward(const Net &net, long images, const float *x, float *out, float *saved, int threads) {
    const size_t depth = net.blocks.size();
    std::vector<std::vector<float>> filters(depth);
    for (size_t i = 1; i < depth; i++) {
        const Block &b = net.blocks[i];
        filters[i].resize(POINTS * pitch(b.in, b.out));
        transform_filters(net.parameters[i].weight, b.in, b.out, false, filters[i].data(), threads);
    }
    const std::vector<float> zeros(net.broadest(), 0.0f);
    in_parallel(threads, images, [&](int, long begin, long end) {
        First first(net);
        const long widest = std::max(net.widest(), net.blocks[0].pooled() * net.blocks[0].out), broadest = net.broadest();
        Buffer<float> maps(net.group * widest), convolved(net.group * widest), strip(POINTS * pitch(broadest, STRIP)),
            products(POINTS * pitch(broadest, STRIP));
        std::vector<float> mean(broadest), inverse(broadest), factor(broadest), offset(broadest);
        for (long start = begin; start < end; start += net.group) {
            const long group = std::min(net.group, end - start);
            for (long g = 0; g < group; g++)
                first.forward(x + (start + g) * net.image(), maps + g * net.blocks[0].pooled() * net.blocks[0].out);
            float *store_at = saved ? saved + start * net.saved() : nullptr;
            long done = 0;  // numbers of an image's part of `saved` that earlier blocks fill
            for (size_t i = 1; i < depth; i++) {
                const Block &b = net.blocks[i];
                convolve(b, zeros.data(), group, maps, b.in, b.out, filters[i].data(), strip, products, convolved);
                for (long g = 0; saved && g < group; g++) {
                    const Saved s(store_at + g * net.saved() + done, b);
                    std::memcpy(s.input, maps + g * b.map() * b.in, b.map() * b.in * sizeof(float));
                    std::memcpy(s.map, convolved + g * b.map() * b.out, b.map() * b.out * sizeof(float));
                }
                for (long g = 0; g < group; g++) {
                    const float *map = convolved + g * b.map() * b.out;
                    if (net.norm) moments(b, map, net.eps, mean.data(), inverse.data());
                    affine(net, net.parameters[i], b, mean.data(), inverse.data(), factor.data(), offset.data());
                    relu_pool(b, map, factor.data(), offset.data(), maps + g * b.pooled() * b.out);
                    if (saved) {
                        const Saved s(store_at + g * net.saved() + done, b);
                        std::copy(mean.begin(), mean.begin() + b.out, s.mean);
                        std::copy(inverse.begin(), inverse.begin() + b.out, s.inverse);
                    }
                }
                done += net.saved(b);
            }
            const Block &last = net.blocks.back();
            for (long g = 0; g < group; g++)
                for (long p = 0; p < last.pooled(); p++)
                    for (int c = 0; c < last.out; c++)
                        out[(start + g) * net.embedding() + c * last.pooled() + p] = maps[(g * last.pooled() + p) * last.out + c];
        }
    });
}

static void backward(const Net &net, long images, const float *x, const float *saved, const float *grad, float *dx,
                     const Gradients *gradients, int threads) {
    const size_t depth = net.blocks.size();
    threads = (int)std::clamp<long>(threads, 1, std::max<long>(images, 1));
    std::vector<std::vector<float>> filters(depth);
    for (size_t i = 1; i < depth; i++) {
        const Block &b = net.blocks[i];
        filters[i].resize(POINTS * pitch(b.in, b.out));
        transform_filters(net.parameters[i].weight, b.in, b.out, true, filters[i].data(), threads);
    }
    const std::vector<float> zeros(net.broadest(), 0.0f);
    const bool weights = gradients != nullptr;
    const long taps = (long)net.taps() * net.blocks[0].out;
    // Every thread its own sums, added up in order: the result depends on the number of threads alone.
    std::vector<std::vector<std::vector<float>>> filter_sums(threads), vector_sums(threads);
    std::vector<std::vector<float>> first_sums(threads);
    in_parallel(threads, images, [&](int thread, long begin, long end) {
        First first(net);
        const long widest = std::max(net.widest(), net.blocks[0].pooled() * net.blocks[0].out), broadest = net.broadest();
        Buffer<float> flowing(net.group * widest), dy(net.group * widest), strip(POINTS * pitch(broadest, STRIP)),
            products(POINTS * pitch(broadest, STRIP)), sums((long)(net.taps() + 6) * broadest), dpadded(net.channels * first.plane);
        std::vector<float> factor(broadest), offset(broadest);
        auto &filter_sum = filter_sums[thread], &vector_sum = vector_sums[thread];
        filter_sum.resize(depth), vector_sum.resize(depth), first_sums[thread].assign(taps, 0);
        for (size_t i = 0; i < depth; i++) {
            if (i && weights) filter_sum[i].assign(filters[i].size(), 0);
            vector_sum[i].assign(2 * net.blocks[i].out, 0);
        }
        for (long start = begin; start < end; start += net.group) {
            const long group = std::min(net.group, end - start);
            const Block &last = net.blocks.back();
            for (long g = 0; g < group; g++)
                for (long p = 0; p < last.pooled(); p++)
                    for (int c = 0; c < last.out; c++)
                        flowing[(g * last.pooled() + p) * last.out + c] = grad[(start + g) * net.embedding() + c * last.pooled() + p];
            long done = net.saved();
            for (size_t i = depth - 1; i > 0; i--) {
                const Block &b = net.blocks[i];
                done -= net.saved(b);
                for (long g = 0; g < group; g++) {
                    const Saved s(const_cast<float *>(saved) + (start + g) * net.saved() + done, b);
                    affine(net, net.parameters[i], b, s.mean, s.inverse, factor.data(), offset.data());
                    relu_pool_backward(net, b, s.map, s.mean, s.inverse, factor.data(), offset.data(), flowing + g * b.pooled() * b.out,
                                       dy + g * b.map() * b.out, vector_sum[i].data(), vector_sum[i].data() + b.out, sums);
                }
                if (weights)
                    filter_gradient(b, zeros.data(), group, saved + start * net.saved() + done, net.saved(), dy, strip, products,
                                    filter_sum[i].data());
                convolve(b, zeros.data(), group, dy, b.out, b.in, filters[i].data(), strip, products, flowing);
            }
            const Block &b = net.blocks[0];
            float *vectors = vector_sum[0].data();
            const Gradients d{first_sums[thread].data(), vectors, vectors, vectors + b.out};
            for (long g = 0; g < group; g++)
                first.backward(x + (start + g) * net.image(), flowing + g * b.pooled() * b.out, d, sums, dpadded,
                               dx ? dx + (start + g) * net.image() : nullptr);
        }
    });
    if (!weights) return;
    for (int t = 1; t < threads; t++)
        for (size_t i = 0; i < depth; i++) {
            const auto add = [](std::vector<float> &to, const std::vector<float> &from) {
                for (size_t j = 0; j < from.size(); j++) to[j] += from[j];
            };
            add(vector_sums[0][i], vector_sums[t][i]);
            if (i) add(filter_sums[0][i], filter_sums[t][i]);
            else add(first_sums[0], first_sums[t]);
        }
    for (size_t i = 0; i < depth; i++) {
        const Block &b = net.blocks[i];
        const float *vectors = vector_sums[0][i].data();
        if (i) filters_to_weight(filter_sums[0][i].data(), b.in, b.out, gradients[i].weight, threads);
        else std::copy(first_sums[0].begin(), first_sums[0].end(), gradients[0].weight);
        if (net.norm) {
            std::copy(vectors, vectors + b.out, gradients[i].scale);
            std::copy(vectors + b.out, vectors + 2 * b.out, gradients[i].shift);
        } else {
            std::copy(i ? vectors + b.out : vectors, (i ? vectors + b.out : vectors) + b.out, gradients[i].bias);
        }
    }
}

// --- what fast.py calls --------------------------------------------------------------------------------------------------------------
extern "C" {
// Floats that `embed_forward` saves per image for `embed_backward`.
long saved_floats(const int *shape, int padding, int depth, const int *widths) {
    return Net(shape, padding, true, 0, depth, widths, nullptr).saved();
}

// x (images, C, H, W) -> out (images, D). `parameters`: per block weight, bias, scale, shift. `saved` may be null.
void embed_forward(const int *shape, int padding, int norm, float eps, int depth, const int *widths, const void *const *parameters,
                   long images, const float *x, float *out, float *saved, int threads) {
    const Net net(shape, padding, norm, eps, depth, widths, reinterpret_cast<const Parameters *>(parameters));
    forward(net, images, x, out, saved, threads);
}

// grad (images, D) -> dx (images, C, H, W), which may be null, and `gradients` like `parameters`, or null.
void embed_backward(const int *shape, int padding, int norm, float eps, int depth, const int *widths, const void *const *parameters,
                    long images, const float *x, const float *saved, const float *grad, float *dx, void *const *gradients, int threads) {
    const Net net(shape, padding, norm, eps, depth, widths, reinterpret_cast<const Parameters *>(parameters));
    backward(net, images, x, saved, grad, dx, reinterpret_cast<const Gradients *>(gradients), threads);
}
}
