// Attention in bfloat16 and its gradients on a CPU with AVX512-BF16, for attention.py: the scores of a few queries at a
// time are made, in float32, and used up in the first cache.

#include <algorithm>
#include <utility>

#include "avx512.h"

// `product` for any multiple of 16 columns.
template <int down>
static void multiply(const bf16* a, long lda, const uint32_t* b, long ldb, long columns, long steps, float* to,
                     long next = 2) {
    long c = 0;
    for (; c + 64 <= columns; c += 64) product<down, 4>(a, lda, b + c, ldb, steps, to + c, columns, next);
    for (; c + 32 <= columns; c += 32) product<down, 2>(a, lda, b + c, ldb, steps, to + c, columns, next);
    for (; c < columns; c += 16) product<down, 1>(a, lda, b + c, ldb, steps, to + c, columns, next);
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

struct Head {  // what the shares of one head of one text are made from, and how far its rows are apart
    const bf16 *query, *bias;
    const uint8_t* mask;
    const uint32_t* key;  // in pairs, of `rounded(keys)`
    long query_next, bias_next, mask_next, keys, size;
    float steep;
    bool causal;
};

// The shares of `down` queries, from row `first` on, times what they sum to; returns how many keys they are of.
template <int down>
static long share_out(const Head& h, long first, float* scores, bf16* share, float* of_sum) {
    const long last = h.causal ? std::min(h.keys, first + down) : h.keys, padded = rounded(last);
    multiply<down>(h.query + first * h.query_next, h.query_next, h.key, rounded(h.keys), padded, h.size / 2, scores);
    for (long r = 0; r < down; r++) {
        float sum = shares(scores + r * padded, h.causal ? std::min(last, first + r + 1) : last, padded, h.steep,
                           h.bias ? h.bias + (first + r) * h.bias_next : nullptr,
                           h.mask ? h.mask + (first + r) * h.mask_next : nullptr, share + r * padded);
        of_sum[r] = sum ? 1 / sum : 0;
    }
    return padded;
}

// `down` queries' outputs, from row `first` on; values are in pairs of rows.
template <int down>
static void attend_some(const Head& h, long first, const uint32_t* value, float* scores, bf16* share, bf16* out,
                        long out_next) {
    float of_sum[down];
    const long padded = share_out<down>(h, first, scores, share, of_sum);
    multiply<down>(share, padded, value, h.size, h.size, padded / 2, scores);
    for (long r = 0; r < down; r++)
        for (long c = 0; c < h.size; c += 16)
            store(out + (first + r) * out_next + c,
                  _mm512_mul_ps(_mm512_loadu_ps(scores + r * h.size + c), _mm512_set1_ps(of_sum[r])));
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
            pair_rows(with, v_row, keys, padded, size, value);
            for (long head = at * each; head < (at + 1) * each; head++) {
                Head h = {q + text * q_text + head * q_head, bias ? bias + head * bias_head : nullptr,
                          mask ? mask + text * mask_text : nullptr, key, q_row, bias_row, mask_row, keys, size,
                          scale * LOG2_E, causal != 0};
                bf16* to = out + (text * queries * heads + head) * size;
                const long next = heads * size;
                long row = 0;
                for (; row + DOWN <= queries; row += DOWN) attend_some<DOWN>(h, row, value, scores, share, to, next);
                for (; row < queries; row++) attend_some<1>(h, row, value, scores, share, to, next);
            }
        }
    }
}

struct Back {  // what the gradients of one head are made from, and into
    const bf16* grad;
    const uint32_t *key_rows, *value;  // keys in pairs of rows; values in pairs, as `Head.key`
    bf16* query_grad;
    uint32_t *share, *slope;  // of all queries, in pairs of rows of `rounded(keys)`: P and ∂L/∂S
    long grad_next;
};

// The gradients of `down` queries, and their rows of P and ∂L/∂S = scale · P ∘ (∂L/∂P − Σ P ∘ ∂L/∂P).
template <int down>
static void back_some(const Head& h, const Back& b, long first, float* scores, float* steps, bf16* share, bf16* slope) {
    const long whole = rounded(h.keys), pairs = (down + 1) / 2;
    float of_sum[down];
    const long padded = share_out<down>(h, first, scores, share, of_sum);
    multiply<down>(b.grad + first * b.grad_next, b.grad_next, b.value, whole, padded, h.size / 2, steps);
    for (long r = 0; r < down; r++) {
        __m512 sum = _mm512_setzero_ps(), of = _mm512_set1_ps(of_sum[r]), scale = _mm512_set1_ps(h.steep / LOG2_E);
        for (long k = r * padded; k < (r + 1) * padded; k += 16) {
            __m512 own = _mm512_mul_ps(load(share + k), of);
            store(share + k, own);
            sum = _mm512_fmadd_ps(own, _mm512_loadu_ps(steps + k), sum);
        }
        sum = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
        for (long k = r * padded; k < (r + 1) * padded; k += 16)
            store(slope + k, _mm512_mul_ps(_mm512_mul_ps(load(share + k), scale),
                                           _mm512_sub_ps(_mm512_loadu_ps(steps + k), sum)));
    }
    multiply<down>(slope, padded, b.key_rows, h.size, h.size, padded / 2, scores);
    for (long r = 0; r < down; r++)
        for (long c = 0; c < h.size; c += 16)
            store(b.query_grad + (first + r) * h.size + c, _mm512_loadu_ps(scores + r * h.size + c));
    for (auto [from, to] : {std::pair{share, b.share}, std::pair{slope, b.slope}})
        for (long i = 0; i < pairs; i++) {
            uint32_t* row = to + (first / 2 + i) * whole;
            pair_rows(from + 2 * i * padded, padded, down - 2 * i, 2, padded, row);
            std::fill(row + padded, row + whole, 0);
        }
}

// Add Aᵀ B to `to` (rows, size), for A and B in pairs of rows, A's of `rows` numbers, an even number of them.
static void add_transposed(const uint32_t* a, long rows, const uint32_t* b, long size, long pairs, float* made,
                           float* to) {
    const bf16* from = reinterpret_cast<const bf16*>(a);
    for (long k = 0; k < rows;) {
        const long down = k + DOWN <= rows ? DOWN : 2;
        if (down == DOWN) multiply<DOWN>(from + 2 * k, 2, b, size, size, pairs, made, 2 * rows);
        else multiply<2>(from + 2 * k, 2, b, size, size, pairs, made, 2 * rows);
        for (long c = 0; c < down * size; c += 16)
            _mm512_storeu_ps(to + k * size + c,
                             _mm512_add_ps(_mm512_loadu_ps(to + k * size + c), _mm512_loadu_ps(made + c)));
        k += down;
    }
}

// The gradients of what `attend` makes: `grad` is ∂L/∂out, whose rows are (text, head, row) strides apart; out come
// ∂L/∂Q (texts, heads, queries, size), ∂L/∂K and ∂L/∂V (texts, heads / each, keys, size). All else is as for `attend`.
extern "C" void attend_back(const bf16* q, long q_text, long q_head, long q_row, const bf16* k, long k_text,
                            long k_head, long k_row, const bf16* v, long v_text, long v_head, long v_row,
                            const bf16* bias, long bias_head, long bias_row, const uint8_t* mask, long mask_text,
                            long mask_row, long causal, long texts, long heads, long each, long queries, long keys,
                            long size, float scale, const bf16* grad, long grad_text, long grad_head, long grad_row,
                            bf16* q_grad, bf16* k_grad, bf16* v_grad, long threads) {
    const long padded = rounded(keys), groups = heads / each, even = (queries + 1) / 2 * 2;
#pragma omp parallel num_threads(threads)
    {
        uint32_t *key = scratch<uint32_t>(0, padded * size / 2), *value = scratch<uint32_t>(1, padded * size / 2);
        bf16 *share = scratch<bf16>(2, DOWN * padded), *slope = scratch<bf16>(4, DOWN * padded);
        float *scores = scratch<float>(3, DOWN * std::max(padded, size)), *steps = scratch<float>(5, DOWN * padded);
        uint32_t* key_rows = scratch<uint32_t>(6, padded * size / 2);
        uint32_t* query_rows = scratch<uint32_t>(7, even * size);  // of Q, then of ∂L/∂out
        uint32_t* grad_rows = query_rows + even * size / 2;
        uint32_t* all = scratch<uint32_t>(8, even * padded);  // of P, then of ∂L/∂S
        float* sums = scratch<float>(9, 2 * padded * size);  // ∂L/∂K, then ∂L/∂V
#pragma omp for schedule(dynamic)
        for (long group = 0; group < texts * groups; group++) {
            const long text = group / groups, at = group % groups;
            const bf16 *from = k + text * k_text + at * k_head, *with = v + text * v_text + at * v_head;
            pack(from, k_row, keys, padded, size, key);
            pack(with, v_row, keys, padded, size, value);
            pair_rows(from, k_row, keys, padded, size, key_rows);
            std::fill(sums, sums + 2 * padded * size, 0.f);
            for (long head = at * each; head < (at + 1) * each; head++) {
                Head h = {q + text * q_text + head * q_head, bias ? bias + head * bias_head : nullptr,
                          mask ? mask + text * mask_text : nullptr, key, q_row, bias_row, mask_row, keys, size,
                          scale * LOG2_E, causal != 0};
                Back b = {grad + text * grad_text + head * grad_head, key_rows, value,
                          q_grad + (text * heads + head) * queries * size, all, all + even / 2 * padded, grad_row};
                long row = 0;
                for (; row + DOWN <= queries; row += DOWN) back_some<DOWN>(h, b, row, scores, steps, share, slope);
                for (; row + 2 <= queries; row += 2) back_some<2>(h, b, row, scores, steps, share, slope);
                for (; row < queries; row++) back_some<1>(h, b, row, scores, steps, share, slope);
                pair_rows(h.query, q_row, queries, even, size, query_rows);
                pair_rows(b.grad, grad_row, queries, even, size, grad_rows);
                add_transposed(b.slope, padded, query_rows, size, even / 2, scores, sums);
                add_transposed(b.share, padded, grad_rows, size, even / 2, scores, sums + padded * size);
            }
            for (long c = 0; c < keys * size; c += 16) {
                store(k_grad + group * keys * size + c, _mm512_loadu_ps(sums + c));
                store(v_grad + group * keys * size + c, _mm512_loadu_ps(sums + padded * size + c));
            }
        }
    }
}
