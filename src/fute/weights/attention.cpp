// Attention in bfloat16 on a CPU with AVX512-BF16, for attention.py: the scores of a few queries at a time are made,
// in float32, and used up in the first cache.

#include <algorithm>

#include "avx512.h"

// `product` for any multiple of 16 columns.
template <int down>
static void multiply(const bf16* a, long lda, const uint32_t* b, long ldb, long columns, long steps, float* to) {
    long c = 0;
    for (; c + 64 <= columns; c += 64) product<down, 4>(a, lda, b + c, ldb, steps, to + c, columns);
    for (; c + 32 <= columns; c += 32) product<down, 2>(a, lda, b + c, ldb, steps, to + c, columns);
    for (; c < columns; c += 16) product<down, 1>(a, lda, b + c, ldb, steps, to + c, columns);
}

static long rounded(long keys) { return (keys + 15) / 16 * 16; }

// What a row of scores becomes: 2^(steep · score + bias − most) where the mask lets it, in bfloat16; returns their sum.
static float shares(float* scores, long keys, long padded, float steep, const bf16* bias, const uint8_t* mask,
                    bf16* to) {
    const __m512 low = _mm512_set1_ps(-__builtin_inff());
    __m512 most = _mm512_set1_ps(-1e30f), sum = _mm512_setzero_ps();  // a row without keys has no share of −∞
    for (long k = 0; k < padded; k += 16) {
        __mmask16 seen = (1u << std::clamp(keys - k, 0L, 16L)) - 1;
        __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + k), _mm512_set1_ps(steep));
        if (bias) {
            __m512i own = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(seen, bias + k));
            score = _mm512_fmadd_ps((__m512)_mm512_slli_epi32(own, 16), _mm512_set1_ps(LOG2_E), score);
        }
        if (mask) seen = _mm_test_epi8_mask(_mm_maskz_loadu_epi8(seen, mask + k), _mm_set1_epi8(-1));
        score = _mm512_mask_mov_ps(low, seen, score);
        most = _mm512_max_ps(most, score);
        _mm512_storeu_ps(scores + k, score);
    }
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (long k = 0; k < padded; k += 16) {
        __m512 share = power_of_two(_mm512_sub_ps(_mm512_loadu_ps(scores + k), most));
        sum = _mm512_add_ps(sum, share);
        store(to + k, share);
    }
    return _mm512_reduce_add_ps(sum);
}

struct Head {  // what one head of one text reads and makes, and how far its rows are apart
    const bf16 *query, *bias;
    const uint8_t* mask;
    bf16* out;
    const uint32_t *key, *value;  // in pairs, of `rounded(keys)`
    long query_next, bias_next, mask_next, out_next, keys, size;
    float steep;
    bool causal;
};

// `down` queries' outputs, from row `first` on.
template <int down>
static void attend_some(const Head& h, long first, float* scores, bf16* share) {
    const long last = h.causal ? std::min(h.keys, first + down) : h.keys, padded = rounded(last);
    float sums[down];
    multiply<down>(h.query + first * h.query_next, h.query_next, h.key, rounded(h.keys), padded, h.size / 2, scores);
    for (long r = 0; r < down; r++)
        sums[r] = shares(scores + r * padded, h.causal ? std::min(last, first + r + 1) : last, padded, h.steep,
                         h.bias ? h.bias + (first + r) * h.bias_next : nullptr,
                         h.mask ? h.mask + (first + r) * h.mask_next : nullptr, share + r * padded);
    multiply<down>(share, padded, h.value, h.size, h.size, padded / 2, scores);
    for (long r = 0; r < down; r++)
        for (long c = 0; c < h.size; c += 16)
            store(h.out + (first + r) * h.out_next + c,
                  _mm512_mul_ps(_mm512_loadu_ps(scores + r * h.size + c), _mm512_set1_ps(sums[r] ? 1 / sums[r] : 0)));
}

// out (texts, queries, heads, size) = softmax(scale · Q Kᵀ + bias) V, where Q's, K's and V's rows of `size` numbers
// stand (text, head, row) strides apart, as their strides say; `each` heads of queries share one of keys. The bias is
// (heads, queries, keys), the same for all texts, the mask (texts, queries, keys) with a byte that isn't 0 where a
// query sees a key; either may be null. Causal: query i sees no key behind the i-th. `size` is a multiple of 16.
extern "C" void attend(const bf16* q, long q_text, long q_head, long q_row, const bf16* k, long k_text, long k_head,
                       long k_row, const bf16* v, long v_text, long v_head, long v_row, const bf16* bias,
                       long bias_head, long bias_row, const uint8_t* mask, long mask_text, long mask_row, long causal,
                       long texts, long heads, long each, long queries, long keys, long size, float scale, bf16* out,
                       long threads) {
    const long padded = rounded(keys), groups = heads / each;
#pragma omp parallel num_threads(threads)
    {
        uint32_t *key = scratch<uint32_t>(0, padded * size / 2), *value = scratch<uint32_t>(1, padded * size / 2);
        bf16* share = scratch<bf16>(2, DOWN * padded);
        float* scores = scratch<float>(3, DOWN * std::max(padded, size));
#pragma omp for schedule(dynamic)
        for (long group = 0; group < texts * groups; group++) {
            const long text = group / groups, at = group % groups;
            const bf16 *from = k + text * k_text + at * k_head, *with = v + text * v_text + at * v_head;
            pack(from, k_row, keys, padded, size, key);
            for (long i = 0; i < padded; i += 2)
                for (long j = 0; j < size; j += 16) {
                    __m512i even = i < keys ? bits(with + i * v_row + j) : _mm512_setzero_si512();
                    __m512i odd = i + 1 < keys ? bits(with + (i + 1) * v_row + j) : _mm512_setzero_si512();
                    _mm512_storeu_si512(value + i / 2 * size + j, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
                }
            for (long head = at * each; head < (at + 1) * each; head++) {
                Head h = {q + text * q_text + head * q_head, bias ? bias + head * bias_head : nullptr,
                          mask ? mask + text * mask_text : nullptr, out + (text * queries * heads + head) * size,
                          key, value, q_row, bias_row, mask_row, heads * size, keys, size, scale * LOG2_E, causal != 0};
                long row = 0;
                for (; row + DOWN <= queries; row += DOWN) attend_some<DOWN>(h, row, scores, share);
                for (; row < queries; row++) attend_some<1>(h, row, scores, share);
            }
        }
    }
}
