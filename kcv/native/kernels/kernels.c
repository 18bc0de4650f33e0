/* What torch computes slowly on CPUs: the weights' gradient of depthwise convolutions, those of them with more padding
   on one side than on the other, and batch normalisation with its activation in as few passes over memory as there can
   be.

   All images are float32 in channels-last memory: [images, height, width, channels]. Every sum is formed in the same
   order whatever the number of threads, so that results are the same to the bit. `library.py` compiles this file. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* ------------------------------------------------------------------------------ batch normalisation and activation */

enum { PLAIN, RELU, RELU6, SILU };
enum { CHUNK = 16 }; /* channels whose sums one thread adds up */

INLINE float exponential(float x)
{
    /* exp(x) = 2^n exp(r), |r| <= ln(2) / 2, with the series of exp(r): its rest is below 1e-8. The comparisons keep
       NaN. */
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504088896f);
    float r = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

INLINE float activated(float z, int kind)
{
    if (kind == RELU) return z < 0 ? 0 : z;
    if (kind == RELU6) return z < 0 ? 0 : z > 6 ? 6 : z;
    if (kind == SILU) return z / (1 + exponential(-z));
    return z;
}

/* The derivative; where it has none, torch's. */
INLINE float slope(float z, int kind)
{
    if (kind == RELU) return z <= 0 ? 0 : 1;
    if (kind == RELU6) return z <= 0 || z >= 6 ? 0 : 1;
    if (kind == SILU) {
        float s = 1 / (1 + exponential(-z));
        return s * (1 + z * (1 - s));
    }
    return 1;
}

/* Adds one row to the sums of a block: of the distances from `origin`, and of their squares. */
INLINE void add_row(const float *restrict x, const float *restrict origin, float *restrict s, float *restrict q,
                    int64_t c)
{
    for (int64_t j = 0; j < c; j++) {
        float d = x[j] - origin[j];
        s[j] += d;
        q[j] += d * d;
    }
}

INLINE void activate_row(const float *restrict x, float *restrict y, const float *restrict mean,
                         const float *restrict scale, const float *restrict beta, int64_t c, int kind)
{
    for (int64_t j = 0; j < c; j++) y[j] = activated((x[j] - mean[j]) * scale[j] + beta[j], kind);
}

/* Adds one row to the sums of a block: of the gradient before the activation, and of that times x - mean. */
INLINE void add_gradient_row(const float *restrict x, const float *restrict g, const float *restrict mean,
                             const float *restrict scale, const float *restrict beta, float *restrict s,
                             float *restrict q, int64_t c, int kind)
{
    for (int64_t j = 0; j < c; j++) {
        float d = g[j] * slope((x[j] - mean[j]) * scale[j] + beta[j], kind);
        s[j] += d;
        q[j] += d * (x[j] - mean[j]);
    }
}

INLINE void gradient_row(const float *restrict x, const float *restrict g, float *restrict dx,
                         const float *restrict mean, const float *restrict scale, const float *restrict beta,
                         const float *restrict along, const float *restrict offset, int64_t c, int kind)
{
    for (int64_t j = 0; j < c; j++) {
        float d = g[j] * slope((x[j] - mean[j]) * scale[j] + beta[j], kind);
        dx[j] = scale[j] * d - along[j] * (x[j] - mean[j]) - offset[j];
    }
}

/* Calls a function with the activation as a constant, so that the compiler makes a loop without branches for each. */
#define FOR_EACH_KIND(function, ...) \
    switch (kind) { \
    case RELU: function(__VA_ARGS__, RELU); break; \
    case RELU6: function(__VA_ARGS__, RELU6); break; \
    case SILU: function(__VA_ARGS__, SILU); break; \
    default: function(__VA_ARGS__, PLAIN); \
    }

/* Adds up what the blocks of rows have in their two sums, for some channels. part: [blocks, 2, c]. */
INLINE void totals(const float *part, int64_t blocks, int64_t c, int64_t first, int64_t count, double *s, double *q)
{
    for (int64_t j = 0; j < count; j++) s[j] = q[j] = 0;
    for (int64_t block = 0; block < blocks; block++) {
        const float *row = part + block * 2 * c + first;
        for (int64_t j = 0; j < count; j++) {
            s[j] += row[j];
            q[j] += row[c + j];
        }
    }
}

/* y = activation(batch norm(x)) with the statistics of the batch. x, y: [rows, c]; the others: [c], but for
   part: [blocks, 2, c]. Writes y, mean, variance (unbiased), inverse (of the deviation) and scale. */
void normalise(const float *x, float *y, const float *gamma, const float *beta, float *mean, float *variance,
               float *inverse, float *scale, float *part, int64_t rows, int64_t c, int64_t block_rows,
               double epsilon, int kind, int threads)
{
    int64_t blocks = (rows + block_rows - 1) / block_rows;
#pragma omp parallel num_threads(threads)
    {
        /* Sums of the distances from the first pixel: squares of numbers far from 0 would lose digits. */
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            float *s = part + block * 2 * c;
            int64_t end = (block + 1) * block_rows < rows ? (block + 1) * block_rows : rows;
            memset(s, 0, 2 * c * sizeof(float));
            for (int64_t r = block * block_rows; r < end; r++) add_row(x + r * c, x, s, s + c, c);
        }
#pragma omp for schedule(static)
        for (int64_t first = 0; first < c; first += CHUNK) {
            double s[CHUNK], q[CHUNK];
            int64_t count = c - first < CHUNK ? c - first : CHUNK;
            totals(part, blocks, c, first, count, s, q);
            for (int64_t k = 0; k < count; k++) {
                int64_t j = first + k;
                double d = s[k] / rows, biased = q[k] / rows - d * d;
                biased = biased < 0 ? 0 : biased;
                mean[j] = x[j] + d;
                variance[j] = rows > 1 ? biased * rows / (rows - 1) : biased;
                /* Beyond 1e18 the squares overflow: a run that diverges must not look as if it normalised to 0. */
                inverse[j] = isfinite(biased) ? 1 / sqrt(biased + epsilon) : NAN;
                scale[j] = gamma[j] * inverse[j];
            }
        }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) FOR_EACH_KIND(activate_row, x + r * c, y + r * c, mean, scale, beta, c)
    }
}

/* The gradients of `normalise` by x, gamma and beta, from that by y (g) and what `normalise` has written.
   part: [blocks + 1, 2, c]. */
void normalise_gradient(const float *x, const float *g, float *dx, const float *mean, const float *inverse,
                        const float *scale, const float *beta, float *dgamma, float *dbeta, float *part,
                        int64_t rows, int64_t c, int64_t block_rows, int kind, int threads)
{
    int64_t blocks = (rows + block_rows - 1) / block_rows;
    float *along = part + blocks * 2 * c, *offset = along + c;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; block++) {
            float *s = part + block * 2 * c;
            int64_t end = (block + 1) * block_rows < rows ? (block + 1) * block_rows : rows;
            memset(s, 0, 2 * c * sizeof(float));
            for (int64_t r = block * block_rows; r < end; r++)
                FOR_EACH_KIND(add_gradient_row, x + r * c, g + r * c, mean, scale, beta, s, s + c, c)
        }
#pragma omp for schedule(static)
        for (int64_t first = 0; first < c; first += CHUNK) {
            double s[CHUNK], q[CHUNK];
            int64_t count = c - first < CHUNK ? c - first : CHUNK;
            totals(part, blocks, c, first, count, s, q);
            for (int64_t k = 0; k < count; k++) {
                int64_t j = first + k;
                double i = inverse[j];
                dgamma[j] = q[k] * i;
                dbeta[j] = s[k];
                along[j] = scale[j] * i * i * q[k] / rows;
                offset[j] = scale[j] * s[k] / rows;
            }
        }
        /* Ioffe and Szegedy 2015 (arXiv 1502.03167), section 3, behind the activation's own gradient. */
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            FOR_EACH_KIND(gradient_row, x + r * c, g + r * c, dx + r * c, mean, scale, beta, along, offset, c)
    }
}

/* ------------------------------------------------------------------------------------------ depthwise convolutions */

#if defined(__AVX512F__)
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE lanes load(const float *from) { return *(const lanes *)from; }

enum { LARGEST = 7 }; /* height and width of a window */

/* Of one image and `LANES` channels. x and g point at the first of the channels, part at [size, size, c] of the image.
   The window moves over the output once per row of the window, whose sums stay in registers meanwhile. */
INLINE void window(const float *restrict x, const float *restrict g, float *restrict part, int64_t c, int64_t h,
                   int64_t w, int64_t out_h, int64_t out_w, int64_t stride, int64_t top, int64_t left, int size)
{
    for (int i = 0; i < size; i++) {
        lanes sums[LARGEST] = {{0}};
        for (int64_t oy = 0; oy < out_h; oy++) {
            int64_t iy = oy * stride + i - top;
            if (iy < 0 || iy >= h) continue;
            const float *row = x + iy * w * c, *up = g + oy * out_w * c;
            for (int64_t ox = 0; ox < out_w; ox++) {
                int64_t ix = ox * stride - left;
                lanes slope_here = load(up + ox * c);
                if (ix >= 0 && ix + size <= w) {
#pragma GCC unroll 7
                    for (int j = 0; j < size; j++) sums[j] += slope_here * load(row + (ix + j) * c);
                } else {
#pragma GCC unroll 7
                    for (int j = 0; j < size; j++)
                        if (ix + j >= 0 && ix + j < w) sums[j] += slope_here * load(row + (ix + j) * c);
                }
            }
        }
#pragma GCC unroll 7
        for (int j = 0; j < size; j++) *(lanes *)(part + (i * size + j) * c) = sums[j];
    }
}

/* The gradient of the weights. x: [n, h, w, c], c >= LANES; g: [n, out_h, out_w, c]; part: [n, size, size, c]; result:
   [c, size, size]; size: 3, 5 or 7. Above and left of the images are `top` and `left` pixels of padding. */
void depthwise_weight_gradient(const float *x, const float *g, float *part, float *result, int64_t n, int64_t c,
                               int64_t h, int64_t w, int64_t out_h, int64_t out_w, int64_t stride, int64_t top,
                               int64_t left, int size, int threads)
{
    int64_t taps = (int64_t)size * size;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t m = 0; m < n; m++)
            for (int64_t first = 0; first < c; first += LANES) {
                /* The last ones overlap with those before, and compute the same. */
                int64_t at = first + LANES <= c ? first : c - LANES;
                const float *xs = x + m * h * w * c + at, *gs = g + m * out_h * out_w * c + at;
                float *out = part + m * taps * c + at;
                if (size == 3) window(xs, gs, out, c, h, w, out_h, out_w, stride, top, left, 3);
                else if (size == 5) window(xs, gs, out, c, h, w, out_h, out_w, stride, top, left, 5);
                else window(xs, gs, out, c, h, w, out_h, out_w, stride, top, left, 7);
            }
#pragma omp for schedule(static)
        for (int64_t channel = 0; channel < c; channel++)
            for (int64_t t = 0; t < taps; t++) {
                float sum = 0;
                for (int64_t m = 0; m < n; m++) sum += part[(m * taps + t) * c + channel];
                result[channel * taps + t] = sum;
            }
    }
}

/* What a pixel is computed from: pixels, and the weights of as many places in the window. */
typedef struct {
    const float *pixels[LARGEST * LARGEST], *weights[LARGEST * LARGEST];
    int count;
} taps;

/* out = start + the sum of pixels times weights. out, start (or NULL: 0): [c]. */
INLINE void add_up(const taps *from, const float *start, float *restrict out, int64_t c)
{
    for (int64_t first = 0; first < c; first += LANES) {
        int64_t at = first + LANES <= c ? first : c - LANES;
        lanes sum = {0};
        if (start) sum = load(start + at);
        for (int t = 0; t < from->count; t++) sum += load(from->pixels[t] + at) * load(from->weights[t] + at);
        *(lanes *)(out + at) = sum;
    }
}

/* The convolution. As above, and y: like g; weights: [size, size, c]; bias: [c] or NULL. */
void depthwise(const float *x, const float *weights, const float *bias, float *y, int64_t n, int64_t c, int64_t h,
               int64_t w, int64_t out_h, int64_t out_w, int64_t stride, int64_t top, int64_t left, int size, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < n * out_h; row++)
        for (int64_t ox = 0; ox < out_w; ox++) {
            taps from = {.count = 0};
            for (int i = 0; i < size; i++) {
                int64_t iy = row % out_h * stride + i - top;
                if (iy < 0 || iy >= h) continue;
                for (int j = 0; j < size; j++) {
                    int64_t ix = ox * stride + j - left;
                    if (ix < 0 || ix >= w) continue;
                    from.pixels[from.count] = x + ((row / out_h * h + iy) * w + ix) * c;
                    from.weights[from.count++] = weights + (i * size + j) * c;
                }
            }
            add_up(&from, bias, y + (row * out_w + ox) * c, c);
        }
}

/* The gradient of the images, dx: like x. */
void depthwise_image_gradient(const float *g, const float *weights, float *dx, int64_t n, int64_t c, int64_t h,
                              int64_t w, int64_t out_h, int64_t out_w, int64_t stride, int64_t top, int64_t left,
                              int size, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < n * h; row++)
        for (int64_t ix = 0; ix < w; ix++) {
            taps from = {.count = 0};
            for (int i = 0; i < size; i++) {
                int64_t down = row % h + top - i, oy = down / stride;
                if (down < 0 || down % stride || oy >= out_h) continue;
                for (int j = 0; j < size; j++) {
                    int64_t right = ix + left - j, ox = right / stride;
                    if (right < 0 || right % stride || ox >= out_w) continue;
                    from.pixels[from.count] = g + ((row / h * out_h + oy) * out_w + ox) * c;
                    from.weights[from.count++] = weights + (i * size + j) * c;
                }
            }
            add_up(&from, NULL, dx + (row * w + ix) * c, c);
        }
}

int64_t fewest_channels(void) { return LANES; }
