// A Llama layer in bfloat16 on a CPU with AMX, for amx.py, which compiles this file.
//
// What follows a matrix product (rotation, gate, sum) is done in float32 while its result is in the first cache,
// and rows go through a layer's products `CHUNK` at a time, so that what lies between them stays in the second.
// Matrices are packed in tiles of 32 inputs × 16 outputs (`_packed` in amx.py). All widths are multiples of 32.

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "avx512.h"

static constexpr long CHUNK = 256;  // rows
static constexpr long DEPTH = 576;  // of a product's inputs at a time: 32 outputs of these fit the first cache
static constexpr long SPARE = 32;   // columns after each row of scratch, else rows would share cache sets

// The tile registers, 16 rows of 64 bytes each, for as long as this lives; then as they were.
struct Tiles {
    alignas(64) uint8_t before[64];
    Tiles() {
        alignas(64) uint8_t ours[64] = {1};
        for (int i = 0; i < 8; i++) ours[16 + 2 * i] = 64, ours[48 + i] = 16;
        _tile_storeconfig(before);
        _tile_loadconfig(ours);
    }
    ~Tiles() {
        if (before[0])
            _tile_loadconfig(before);
        else
            _tile_release();
    }
};

// a (rows, k) times the first k rows of a packed matrix (depth, n). Each row's results go to `finish(row, column,
// those of column…column + 15, the next 16)` while the next 32 × 32 are being multiplied. At most CHUNK rows; as many
// as fill up 32 are read, whatever they hold.
template <class Finish>
static void multiply(const bf16* a, long lda, long rows, const bf16* b, long depth, long n, long k,
                     Finish finish) {
    alignas(64) float sums[CHUNK / 32][4][256], done[2][4][256];
    float(*last)[256] = done[0];
    long last_row = 0, last_column = 0, at = 32, last_rows = 32;
    auto drain = [&](long to) {
        for (to = std::min(to, last_rows); at < to; at++) {
            const float* left = last[at / 16 * 2] + at % 16 * 16;
            finish(last_row + at, last_column, _mm512_load_ps(left), _mm512_load_ps(left + 256));
        }
    };
    __asm__ volatile("" ::: "memory");  // gcc doesn't know that tiles are loaded from what was stored before
    long parts = (k + DEPTH - 1) / DEPTH, step = (k / 32 + parts - 1) / parts * 32;
    for (long column = 0; column < n; column += 32) {
        const bf16 *b0 = b + column * depth, *b1 = b0 + 16 * depth;
        for (long from = 0; from < k; from += step) {
            long to = std::min(from + step, k);
            for (long row = 0; row < rows; row += 32) {
                const bf16 *a0 = a + row * lda, *a1 = a0 + 16 * lda;
                float(*c)[256] = sums[row / 32];
                if (from) {
                    _tile_loadd(0, c[0], 64); _tile_loadd(1, c[1], 64);
                    _tile_loadd(2, c[2], 64); _tile_loadd(3, c[3], 64);
                } else {
                    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
                }
                for (long i = from; i < to; i += 32) {
                    // Streamed, rows don't drive the matrix, which the next rows need, from the first cache.
                    _tile_loadd(6, b0 + i * 16, 64);
                    _tile_stream_loadd(4, a0 + i, lda * 2);
                    _tile_loadd(7, b1 + i * 16, 64);
                    _tile_stream_loadd(5, a1 + i, lda * 2);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                    drain(at + 2);
                }
                drain(32);
                if (to == k) {
                    c = last = last == done[0] ? done[1] : done[0];
                    last_row = row, last_column = column, at = 0, last_rows = std::min(32L, rows - row);
                }
                _tile_stored(0, c[0], 64); _tile_stored(1, c[1], 64);
                _tile_stored(2, c[2], 64); _tile_stored(3, c[3], 64);
            }
        }
    }
    drain(32);
}

// h = weight · x / √(mean(x²) + eps), row by row.
static void normalise(const bf16* x, long rows, long d, const bf16* weight, float eps, bf16* h, long ldh) {
    for (long r = 0; r < rows; r++, x += d, h += ldh) {
        __m512 sum = _mm512_setzero_ps();
        for (long i = 0; i < d; i += 16) sum = _mm512_fmadd_ps(load(x + i), load(x + i), sum);
        __m512 factor = _mm512_set1_ps(1.f / __builtin_sqrtf(_mm512_reduce_add_ps(sum) / d + eps));
        for (long i = 0; i < d; i += 16)
            store(h + i, _mm512_mul_ps(load(weight + i), _mm512_mul_ps(load(x + i), factor)));
    }
}

// Ask the system for the tile registers; whether this process may use them.
extern "C" int ask() { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }

// out (rows, n) = norm(x) · w, of which the first `turned` columns, heads of `width`, are rotated: row r by row
// r mod `period` of cos and sin. The matrix has the two columns of a head that turn together 16 apart.
extern "C" void before_attention(const bf16* x, long rows, long d, const bf16* weight, float eps, const bf16* w,
                                 long n, long turned, long width, const bf16* cos, const bf16* sin, long period,
                                 bf16* out, long threads) {
#pragma omp parallel num_threads(threads)
    {
        Tiles tiles;
        bf16* h = scratch<bf16>(0, CHUNK * (d + SPARE));
#pragma omp for schedule(dynamic)
        for (long first = 0; first < rows; first += CHUNK) {
            long some = std::min(CHUNK, rows - first);
            normalise(x + first * d, some, d, weight, eps, h, d + SPARE);
            multiply(h, d + SPARE, some, w, d, n, d, [=](long row, long column, __m512 left, __m512 right) {
                bf16* y = out + (first + row) * n + column;
                if (column >= turned) {
                    store(y, left), store(y + 16, right);
                    return;
                }
                long inside = column % width / 2, half = width / 2;
                long angle = (first + row) % period * width + inside;
                y += inside - column % width;
                const bf16 *c = cos + angle, *s = sin + angle;
                store(y, _mm512_fnmadd_ps(right, load(s), _mm512_mul_ps(left, load(c))));
                store(y + half, _mm512_fmadd_ps(left, load(s + half), _mm512_mul_ps(right, load(c + half))));
            });
        }
    }
}

// Causal attention of texts of `length` rows of qkv (…, n): `heads` queries, then `groups` keys, then as many
// values, each of `width` columns. 32 queries at a time, against no key that stands after the last of them.
extern "C" void attention(const bf16* qkv, long texts, long length, long n, long heads, long groups, long width,
                          float scale, bf16* out, long threads) {
    long padded = (length + 31) / 32 * 32, each = heads / groups;
#pragma omp parallel num_threads(threads)
    {
        Tiles tiles;
        bf16 *keys = scratch<bf16>(0, padded * width), *values = scratch<bf16>(1, padded * width);
        bf16* shares = scratch<bf16>(2, 32 * (padded + SPARE));
        float *scores = scratch<float>(3, 32 * padded + 32), *sums = scores + 32 * padded;
#pragma omp for schedule(dynamic)
        for (long pair = 0; pair < texts * groups; pair++) {
            const bf16* text = qkv + pair / groups * length * n;
            const __m512 steep = _mm512_set1_ps(scale * LOG2_E);
            const bf16 *k = text + (heads + pair % groups) * width, *v = k + groups * width;
            for (long i = 0; i < padded; i++)
                for (long j = 0; j < width; j += 2)
                    put(keys + i / 16 * 16 * width + j * 16 + i % 16 * 2, i < length ? two(k + i * n + j) : 0);
            for (long i = 0; i < padded; i += 2)
                for (long j = 0; j < width; j += 16) {
                    __m512i even = i < length ? bits(v + i * n + j) : _mm512_setzero_si512();
                    __m512i odd = i + 1 < length ? bits(v + (i + 1) * n + j) : _mm512_setzero_si512();
                    odd = _mm512_slli_epi32(odd, 16);
                    _mm512_storeu_si512(values + j * padded + i * 16, _mm512_or_si512(even, odd));
                }
            for (long head = pair % groups * each; head < (pair % groups + 1) * each; head++)
                for (long first = 0; first < length; first += 32) {
                    long seen = first + 32, some = std::min(32L, length - first);
                    multiply(text + first * n + head * width, n, some, keys, width, seen, width,
                             [=](long row, long column, __m512 left, __m512 right) {
                                 _mm512_store_ps(scores + row * padded + column, left);
                                 _mm512_store_ps(scores + row * padded + column + 16, right);
                             });
                    for (long row = 0; row < some; row++) {
                        const float* mine = scores + row * padded;
                        bf16* share = shares + row * (padded + SPARE);
                        long end = first + row + 1;
                        auto visible = [=](long j) { return (__mmask16)((1u << std::clamp(end - j, 0L, 16L)) - 1); };
                        __m512 low = _mm512_set1_ps(-__builtin_inff()), most = low, sum = _mm512_setzero_ps();
                        for (long j = 0; j < end; j += 16)
                            most = _mm512_max_ps(most, _mm512_mask_loadu_ps(low, visible(j), mine + j));
                        most = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(most)), steep);
                        for (long j = 0; j < seen; j += 16) {
                            __m512 e = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(mine + j), steep, most));
                            e = _mm512_maskz_mov_ps(visible(j), e);
                            sum = _mm512_add_ps(sum, e);
                            store(share + j, e);
                        }
                        sums[row] = _mm512_reduce_add_ps(sum);
                    }
                    bf16* into = out + ((pair / groups * length + first) * heads + head) * width;
                    multiply(shares, padded + SPARE, some, values, padded, width, seen,
                             [=](long row, long column, __m512 left, __m512 right) {
                                 __m512 whole = _mm512_set1_ps(1.f / sums[row]);
                                 bf16* y = into + row * heads * width + column;
                                 store(y, _mm512_mul_ps(left, whole));
                                 store(y + 16, _mm512_mul_ps(right, whole));
                             });
                }
        }
    }
}

// y = x + attended · wo, then y += (silu(g) ∘ u) · down, where (g, u) = norm(y) · up, 16 columns of each in turn.
extern "C" void after_attention(const bf16* x, const bf16* attended, long rows, long d, long inner, const bf16* wo,
                                const bf16* weight, float eps, const bf16* up, long middle, const bf16* down,
                                bf16* y, long threads) {
#pragma omp parallel num_threads(threads)
    {
        Tiles tiles;
        bf16* h = scratch<bf16>(0, CHUNK * (std::max(d, inner) + SPARE));
        bf16* gated = scratch<bf16>(1, CHUNK * (middle + SPARE));
#pragma omp for schedule(dynamic)
        for (long first = 0; first < rows; first += CHUNK) {
            long some = std::min(CHUNK, rows - first);
            const bf16* before = x + first * d;
            bf16* after = y + first * d;
            auto add_to = [=](const bf16* from) {
                return [=](long row, long column, __m512 left, __m512 right) {
                    long at = row * d + column;
                    store(after + at, _mm512_add_ps(load(from + at), left));
                    store(after + at + 16, _mm512_add_ps(load(from + at + 16), right));
                };
            };
            for (long r = 0; r < some; r++)
                std::copy_n(attended + (first + r) * inner, inner, h + r * (inner + SPARE));
            multiply(h, inner + SPARE, some, wo, inner, d, inner, add_to(before));
            normalise(after, some, d, weight, eps, h, d + SPARE);
            multiply(h, d + SPARE, some, up, d, 2 * middle, d, [=](long row, long column, __m512 g, __m512 u) {
                __m512 below = power_of_two(_mm512_mul_ps(g, _mm512_set1_ps(-LOG2_E)));
                __m512 silu = _mm512_div_ps(g, _mm512_add_ps(below, _mm512_set1_ps(1.f)));
                store(gated + row * (middle + SPARE) + column / 2, _mm512_mul_ps(silu, u));
            });
            multiply(gated, middle + SPARE, some, down, middle, d, middle, add_to(after));
        }
    }
}
