/* Attention of a packed row in float32, tile by tile: forward pass and gradients.

   A tile is some queries of one head that follow each other in one stretch of the row (a prompt, a
   response). It meets the keys of its prompt and those of its own stretch up to its last query, in
   blocks; what a query of the tile does not see of them is hidden. Scores are made, used and gone.
   Scores are in units of log 2: the scale given here has log2(e) in it. */

#include "vectors.h"

enum { VECTORS = WIDTH == 8 ? 2 : 4, ROWS = 6 }; /* sums of a product that wide registers hold */
/* QUERIES of a tile and KEYS of a block are given when this is compiled. */

/* Number d of token t of head h lies at start[h * head + t * token + d]. */
typedef struct { float *start; int64_t head, token; } states;
/* Keys that lie side by side. */
typedef struct { int64_t first, number; } block;
/* Queries [first, end) of the stretch that starts at `own`; the first blocks of its keys, and of
   its prompt's. */
typedef struct { int64_t first, end, own, own_block, prompt, prompt_block; } tile;
typedef struct {
    int64_t tokens, width, heads, key_heads, n_tiles, n_blocks, threads, sharing, scratch;
    float scale, natural; /* with log2(e), and without */
    const tile *tiles;
    const block *blocks;
} row;

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t whole(int64_t n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }
INLINE float *of(states x, int64_t head, int64_t token)
{
    return x.start + head * x.head + token * x.token;
}

/* --- products --------------------------------------------------------------------------------- */

/* c (m, n vectors) = a (m, k) * b (k, n vectors), added to c if `add`; m and n are constants. */
INLINE void corner(int m, int n, int64_t k, const float *a, int64_t a_row, int64_t a_column,
                   const float *b, int64_t b_row, float *c, int64_t c_row, int add)
{
    floats sum[ROWS][VECTORS];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < n; j++)
            sum[i][j] = add ? load(c + i * c_row + j * WIDTH) : (floats){0};
    for (int64_t l = 0; l < k; l++) {
        floats right[VECTORS];
        UNROLL for (int j = 0; j < n; j++) right[j] = load(b + l * b_row + j * WIDTH);
        UNROLL for (int i = 0; i < m; i++) {
            float left = a[i * a_row + l * a_column];
            UNROLL for (int j = 0; j < n; j++) sum[i][j] += left * right[j];
        }
    }
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < n; j++) store(c + i * c_row + j * WIDTH, sum[i][j]);
}

/* c (m, n) = a (m, k) * b (k, n), added to c if `add`; n is a multiple of WIDTH. */
static void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row,
                    int64_t a_column, const float *b, int64_t b_row, float *c, int64_t c_row,
                    int add)
{
#define CORNER(rows, vectors)                                                                    \
    corner(rows, vectors, k, a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j,    \
           c_row, add)
#define STRIP(vectors)                                                                           \
    for (int64_t i = 0; i < m; i += ROWS) switch (least(ROWS, m - i)) {                          \
        case 1: CORNER(1, vectors); break;                                                       \
        case 2: CORNER(2, vectors); break;                                                       \
        case 3: CORNER(3, vectors); break;                                                       \
        case 4: CORNER(4, vectors); break;                                                       \
        case 5: CORNER(5, vectors); break;                                                       \
        default: CORNER(6, vectors);                                                             \
    }
    int64_t j = 0;
    for (; j + VECTORS * WIDTH <= n; j += VECTORS * WIDTH) STRIP(VECTORS)
    for (; j + 2 * WIDTH <= n; j += 2 * WIDTH) STRIP(2)
    for (; j < n; j += WIDTH) STRIP(1)
}

/* --- elementwise ------------------------------------------------------------------------------ */

/* Scores (columns) of one query to 2^(score - highest), their sum and the highest. */
INLINE float powers(float *scores, int64_t columns, float *highest)
{
    floats high = load(scores), sum = {0};
    for (int64_t j = WIDTH; j < columns; j += WIDTH) {
        floats x = load(scores + j);
        ints more = x > high;
        high = (floats)(((ints)x & more) | ((ints)high & ~more));
    }
    *highest = high[0];
    for (int j = 1; j < WIDTH; j++) *highest = high[j] > *highest ? high[j] : *highest;
    for (int64_t j = 0; j < columns; j += WIDTH) {
        floats x = power(load(scores + j) - *highest);
        store(scores + j, x);
        sum += x;
    }
    return total(sum);
}

INLINE void hide(float *scores, int64_t from, int64_t to)
{
    for (int64_t j = from; j < to; j++) scores[j] = -INFINITY;
}

/* (tokens, width) of one head, times a factor. */
INLINE void gather(float *to, states from, int64_t head, tile t, int64_t width, float factor)
{
    for (int64_t i = 0; i < t.end - t.first; i++)
        for (int64_t d = 0; d < width; d += WIDTH)
            store(to + i * width + d, load(of(from, head, t.first + i) + d) * factor);
}

/* Blocks of keys or values, each transposed: (heads, blocks, width, KEYS), the last ones filled up
   with zeros. */
static void pack(const row *r, states from, float *to)
{
#pragma omp parallel for collapse(2) num_threads(r->threads) schedule(static)
    for (int64_t head = 0; head < r->key_heads; head++)
        for (int64_t b = 0; b < r->n_blocks; b++) {
            float *block = to + (head * r->n_blocks + b) * r->width * KEYS;
            int64_t number = r->blocks[b].number;
            const float *first = of(from, head, r->blocks[b].first);
            for (int64_t d = 0; d < r->width; d++) {
                for (int64_t j = 0; j < number; j++) block[d * KEYS + j] = first[j * from.token + d];
                for (int64_t j = number; j < KEYS; j++) block[d * KEYS + j] = 0;
            }
        }
}

/* --- the two passes --------------------------------------------------------------------------- */

/* Output, and of each query the logarithm of its sum, (heads, tokens). `packed` holds the keys'
   blocks, `scratch` of each thread QUERIES * (width + most keys of a tile). */
void attend(const row *r, states q, states k, states v, states out, float *log_sums, float *packed,
            float *scratch)
{
    const int64_t width = r->width, block_size = width * KEYS;
    pack(r, k, packed);
#pragma omp parallel num_threads(r->threads)
    {
        float *query = scratch + r->scratch * omp_get_thread_num();
        float *scores = query + QUERIES * width;
#pragma omp for schedule(static, 1)
        for (int64_t task = 0; task < r->n_tiles * r->heads; task++) {
            const tile t = r->tiles[task / r->heads];
            const int64_t head = task % r->heads, kv = head / (r->heads / r->key_heads);
            const int64_t n = t.end - t.first, seen = t.end - t.own;
            const int64_t own = whole(t.prompt), columns = own + whole(seen);
            const float *keys = packed + kv * r->n_blocks * block_size;
            gather(query, q, head, t, width, r->scale);
            for (int64_t j = 0; j < t.prompt; j += KEYS)
                product(n, whole(least(KEYS, t.prompt - j)), width, query, width, 1,
                        keys + (t.prompt_block + j / KEYS) * block_size, KEYS, scores + j, columns,
                        0);
            for (int64_t j = 0; j < seen; j += KEYS)
                product(n, whole(least(KEYS, seen - j)), width, query, width, 1,
                        keys + (t.own_block + j / KEYS) * block_size, KEYS, scores + own + j,
                        columns, 0);
            float sums[QUERIES];
            for (int64_t i = 0; i < n; i++) {
                float *mine = scores + i * columns, highest;
                hide(mine, t.prompt, own);
                hide(mine, own + t.first + i + 1 - t.own, columns);
                sums[i] = powers(mine, columns, &highest);
                log_sums[head * r->tokens + t.first + i] = highest + log2f(sums[i]);
            }
            float *to = of(out, head, t.first);
            product(n, width, seen, scores + own, columns, 1, of(v, kv, t.own), v.token, to,
                    out.token, 0);
            if (t.prompt)
                product(n, width, t.prompt, scores, columns, 1,
                        of(v, kv, r->blocks[t.prompt_block].first), v.token, to, out.token, 1);
            for (int64_t i = 0; i < n; i++)
                for (int64_t d = 0; d < width; d += WIDTH)
                    store(to + i * out.token + d, load(to + i * out.token + d) / sums[i]);
        }
    }
}

/* Gradients of queries, keys and values from that of the output, `g`; keys' and values' are
   (key_heads, tokens, width). `packed` holds the blocks of keys and of values, `scratch` of each
   thread QUERIES * (3 * width + 2 * KEYS), and `shares` of each its gradients of keys and values.
   The first `sharing` threads have tiles, so that shares do not grow with the machine. */
void gradients(const row *r, states g, states q, states k, states v, states out,
               const float *log_sums, states to_q, float *to_k, float *to_v, float *packed,
               float *scratch, float *shares)
{
    const int64_t width = r->width, block_size = width * KEYS;
    const int64_t size = r->key_heads * r->tokens * width;
    float *packed_v = packed + r->key_heads * r->n_blocks * block_size;
    pack(r, k, packed);
    pack(r, v, packed_v);
#pragma omp parallel num_threads(r->threads)
    {
        const int64_t me = omp_get_thread_num();
        const int64_t team = least(r->sharing, omp_get_num_threads()); /* fewer than asked for? */
        const int64_t tasks = me < team ? r->n_tiles * r->heads : 0, mine = me < team ? me : 0;
        float *query = scratch + r->scratch * mine;
        float *grad = query + QUERIES * width, *to_query = grad + QUERIES * width;
        float *probs = to_query + QUERIES * width, *to_scores = probs + QUERIES * KEYS;
        float *share_k = shares + 2 * size * mine, *share_v = share_k + size;
        if (me < team) memset(share_k, 0, 2 * size * sizeof(float));
        for (int64_t task = me; task < tasks; task += team) {
            const tile t = r->tiles[task / r->heads];
            const int64_t head = task % r->heads, kv = head / (r->heads / r->key_heads);
            const int64_t n = t.end - t.first;
            const float *sums = log_sums + head * r->tokens + t.first;
            float along[QUERIES]; /* gradient of the output along the output */
            gather(query, q, head, t, width, r->scale);
            gather(grad, g, head, t, width, 1);
            for (int64_t i = 0; i < n; i++) {
                floats sum = {0};
                for (int64_t d = 0; d < width; d += WIDTH)
                    sum += load(grad + i * width + d) * load(of(out, head, t.first + i) + d);
                along[i] = total(sum);
            }
            const int64_t of_prompt = (t.prompt + KEYS - 1) / KEYS;
            const int64_t of_own = (t.end - t.own + KEYS - 1) / KEYS;
            for (int64_t b = 0; b < of_prompt + of_own; b++) {
                const int is_own = b >= of_prompt;
                const int64_t index = is_own ? t.own_block + b - of_prompt : t.prompt_block + b;
                const block keys = r->blocks[index];
                const int64_t seen = is_own ? least(KEYS, t.end - keys.first) : keys.number;
                const int64_t at = (kv * r->n_blocks + index) * block_size;
                product(n, whole(seen), width, query, width, 1, packed + at, KEYS, probs, KEYS, 0);
                product(n, whole(seen), width, grad, width, 1, packed_v + at, KEYS, to_scores,
                        KEYS, 0);
                for (int64_t i = 0; i < n; i++) {
                    float *p = probs + i * KEYS, *s = to_scores + i * KEYS;
                    const int64_t after = t.first + i + 1 - keys.first; /* later than the query */
                    if (is_own && after < seen) hide(p, after > 0 ? after : 0, seen);
                    for (int64_t j = 0; j < seen; j += WIDTH) {
                        floats x = power(load(p + j) - sums[i]);
                        store(p + j, x);
                        store(s + j, x * (load(s + j) - along[i]));
                    }
                }
                const int64_t to = (kv * r->tokens + keys.first) * width;
                product(seen, width, n, probs, 1, KEYS, grad, width, share_v + to, width, 1);
                product(seen, width, n, to_scores, 1, KEYS, query, width, share_k + to, width, 1);
                product(n, width, seen, to_scores, KEYS, 1, of(k, kv, keys.first), k.token,
                        to_query, width, b > 0);
            }
            for (int64_t i = 0; i < n; i++)
                for (int64_t d = 0; d < width; d += WIDTH)
                    store(of(to_q, head, t.first + i) + d,
                          load(to_query + i * width + d) * r->natural);
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t x = 0; x < size; x++) {
            float sum_k = 0, sum_v = 0;
            for (int64_t thread = 0; thread < team; thread++) {
                sum_k += shares[2 * size * thread + x];
                sum_v += shares[2 * size * thread + size + x];
            }
            to_k[x] = sum_k * 0.6931471805599453f /* log(2), for the scale */;
            to_v[x] = sum_v;
        }
    }
}
