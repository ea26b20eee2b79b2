/* Elementwise work of layers in float32, each number read and written once. Sizes are multiples of
   WIDTH. */

#include "vectors.h"

static const float LOG2E = 1.4426950408889634f;

/* 1 / (1 + exp(-x)): by exp of what is not positive, so nothing overflows. */
INLINE floats sigmoid(floats x)
{
    ints negative = x < 0.0f;
    floats size = (floats)((ints)x & 0x7fffffff);
    floats small = power(size * -LOG2E);
    floats upper = (floats)((ints)((floats){0} + 1.0f) & ~negative);
    return (upper + (floats)((ints)small & negative)) / (1.0f + small);
}

/* out = silu(gate) * up, of n numbers */
void gated(int64_t n, int64_t threads, const float *gate, const float *up, float *out)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += WIDTH) {
        floats x = load(gate + i);
        store(out + i, x * sigmoid(x) * load(up + i));
    }
}

/* From the gradient of silu(gate) * up, which becomes that of gate: also that of up, and the value
   itself again. */
void gated_gradients(int64_t n, int64_t threads, const float *gate, const float *up, float *grad,
                     float *to_up, float *out)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += WIDTH) {
        floats x = load(gate + i), y = load(up + i), g = load(grad + i);
        floats open = sigmoid(x), silu = x * open;
        store(out + i, silu * y);
        store(to_up + i, silu * g);
        store(grad + i, g * y * (open + silu * (1.0f - open)));
    }
}

/* out = x * scale * weight, (rows, width), scale = 1 / sqrt(mean(x^2) + epsilon) of each row */
void norm(int64_t rows, int64_t width, int64_t threads, float epsilon, const float *x,
          const float *weight, float *out, float *scale)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const float *mine = x + i * width;
        floats squares = {0};
        for (int64_t j = 0; j < width; j += WIDTH) squares += load(mine + j) * load(mine + j);
        scale[i] = 1 / sqrtf(total(squares) / width + epsilon);
        for (int64_t j = 0; j < width; j += WIDTH)
            store(out + i * width + j, load(mine + j) * scale[i] * load(weight + j));
    }
}

/* Gradients of x, and of weight, which each thread sums in its share, (threads, width). */
void norm_gradients(int64_t rows, int64_t width, int64_t threads, const float *grad, const float *x,
                    const float *weight, const float *scale, float *to_x, float *to_weight,
                    float *shares)
{
#pragma omp parallel num_threads(threads)
    {
        float *share = shares + width * omp_get_thread_num();
        memset(share, 0, width * sizeof(float));
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            const float *mine = x + i * width, *g = grad + i * width;
            floats pairs = {0};
            for (int64_t j = 0; j < width; j += WIDTH) {
                floats pair = load(g + j) * load(mine + j);
                pairs += pair * load(weight + j);
                store(share + j, load(share + j) + pair * scale[i]);
            }
            /* d (x scale weight) / d scale, times d scale / d x = -x scale^3 / width */
            float along = -total(pairs) * scale[i] * scale[i] * scale[i] / width;
            for (int64_t j = 0; j < width; j += WIDTH)
                store(to_x + i * width + j,
                      load(g + j) * load(weight + j) * scale[i] + load(mine + j) * along);
        }
        const int64_t team = omp_get_num_threads(); /* may be fewer than asked for */
#pragma omp for schedule(static)
        for (int64_t j = 0; j < width; j++) {
            to_weight[j] = 0;
            for (int64_t thread = 0; thread < team; thread++)
                to_weight[j] += shares[width * thread + j];
        }
    }
}

/* Rotary embedding of heads of one kind, the halves of each rotated into each other by the angles
   (tokens, width): out = x cos + (-second, first) sin; or, backward, the gradient of x from out's.
   Heads lie side by side in `out`; in `x` a head and a token lie so far from the next. */
void rotated(int64_t tokens, int64_t heads, int64_t width, int64_t threads, int64_t backward,
             int64_t head, int64_t token, const float *x, const float *cosines, const float *sines,
             float *out)
{
    const int64_t half = width / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++) {
            const float *from = x + t * token + h * head;
            const float *cosine = cosines + t * width, *sine = sines + t * width;
            float *to = out + (t * heads + h) * width;
            for (int64_t j = 0; j < half; j += WIDTH) {
                floats first = load(from + j), second = load(from + half + j);
                floats a = load(sine + j), b = load(sine + half + j);
                if (backward) {
                    floats was = a;
                    a = -b;
                    b = -was;
                }
                store(to + j, first * load(cosine + j) - second * a);
                store(to + half + j, second * load(cosine + half + j) + first * b);
            }
        }
}
