// What an output head's probabilities are divided by, on a CPU with AVX512-BF16, for head.py: logits are made in
// float32 and used up in the first cache.

#include <algorithm>
#include <array>
#include <cmath>

#include "avx512.h"

static constexpr long SOME = 48, WIDE = 64, CHUNK = 256;  // words at a time, states beside each other, and of a thread

// Add e^logit of up to SOME words to the sums of across × 16 states: `sum` is in units of 2^most.
template <int across>
static void add(const bf16* weight, long words, const uint32_t* states, long size, float* most, float* sum) {
    alignas(64) float logits[SOME * across * 16];
    long w = 0;
    for (; w + DOWN <= words; w += DOWN)
        product<DOWN, across>(weight + w * size, size, states, across * 16, size / 2, logits + w * across * 16, across * 16);
    for (; w < words; w++)
        product<1, across>(weight + w * size, size, states, across * 16, size / 2, logits + w * across * 16, across * 16);
    for (int c = 0; c < across * 16; c += 16) {
        __m512 before = _mm512_loadu_ps(most + c), now = before;
        for (w = 0; w < words; w++) {
            __m512 logit = _mm512_mul_ps(_mm512_load_ps(logits + w * across * 16 + c), _mm512_set1_ps(LOG2_E));
            _mm512_store_ps(logits + w * across * 16 + c, logit);
            now = _mm512_max_ps(now, logit);
        }
        __m512 these = _mm512_setzero_ps();  // by themselves: to the sum of all before each is next to nothing
        for (w = 0; w < words; w++)
            these = _mm512_add_ps(these, power_of_two(_mm512_sub_ps(_mm512_load_ps(logits + w * across * 16 + c), now)));
        __m512 factor = power_of_two(_mm512_sub_ps(before, now));
        _mm512_storeu_ps(most + c, now);
        _mm512_storeu_ps(sum + c, _mm512_fmadd_ps(_mm512_loadu_ps(sum + c), factor, these));
    }
}

// out (n) = log Σ_w exp(states · weight_w), states (n, size), weight (vocabulary, size); the size is even.
extern "C" void log_sum_exp(const bf16* states, long n, const bf16* weight, long vocabulary, long size, float* out,
                            long threads) {
    const long own = std::min(CHUNK, ((n + threads - 1) / threads + WIDE - 1) / WIDE * WIDE);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long first = 0; first < n; first += own) {
        const long here = std::min(own, n - first);
        uint32_t* packed = scratch<uint32_t>(0, own * size / 2);
        float *most = scratch<float>(1, 2 * own), *sum = most + own;
        std::fill_n(most, own, -1e30f);
        std::fill_n(sum, own, 0.f);
        auto across = [=](long block) { return std::min(WIDE, (here - block + 15) / 16 * 16); };
        for (long block = 0; block < here; block += WIDE)
            pack(states + (first + block) * size, size, here - block, across(block), size, packed + block * size / 2);
        for (long word = 0; word < vocabulary; word += SOME)
            for (long block = 0; block < here; block += WIDE) {
                static constexpr auto adds = std::array{add<1>, add<2>, add<3>, add<4>};
                adds[across(block) / 16 - 1](weight + word * size, std::min(SOME, vocabulary - word),
                                             packed + block * size / 2, size, most + block, sum + block);
            }
        for (long i = 0; i < here; i++) out[first + i] = (most[i] + std::log2(sum[i])) / LOG2_E;
    }
}
