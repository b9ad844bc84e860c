// bfloat16 in AVX-512's registers, for the sources that `native.py` compiles for CPUs with AVX512-BF16.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

using bf16 = uint16_t;

static constexpr float LOG2_E = 1.44269504f;

static inline __m512i bits(const bf16* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

static inline __m512 load(const bf16* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(bits(p), 16)); }

static inline void store(bf16* p, __m512 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
}

static inline uint32_t two(const bf16* p) {
    uint32_t both;
    std::memcpy(&both, p, 4);
    return both;
}

static inline void put(bf16* p, uint32_t both) { std::memcpy(p, &both, 4); }

// 2^y = 2^n · 2^r with |r| ≤ 1/2; 2^r by its series up to r⁴: good to 5e-5, a hundredth of bfloat16's rounding.
static inline __m512 power_of_two(__m512 y) {
    __m512 n = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_sub_ps(y, n), p = _mm512_set1_ps(9.6181291e-3f);
    for (float c : {5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, n);
}

struct Memory {
    void* begin = nullptr;
    long bytes = 0;
    ~Memory() { std::free(begin); }
};

// Memory of this thread, kept for the next call, for as long as the thread lives.
template <class T>
static T* scratch(int which, long size) {
    static thread_local Memory kept[12];
    Memory& own = kept[which];
    long bytes = (size * sizeof(T) + 63) / 64 * 64;
    if (own.bytes < bytes) {
        std::free(own.begin);
        own.begin = std::aligned_alloc(64, bytes);
        own.bytes = bytes;
    }
    return static_cast<T*>(own.begin);
}

// 16 rows of 16 pairs, in place: pair j of row i becomes pair i of row j.
static inline void transpose(__m512i rows[16]) {
    __m512i made[16];
    for (int i = 0; i < 16; i += 2) {
        made[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        made[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            rows[i + 2 * k] = _mm512_unpacklo_epi64(made[i + k], made[i + k + 2]);
            rows[i + 2 * k + 1] = _mm512_unpackhi_epi64(made[i + k], made[i + k + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int k = 0; k < 4; k++) {
            made[i + k] = _mm512_shuffle_i32x4(rows[i + k], rows[i + k + 4], 0x88);
            made[i + k + 4] = _mm512_shuffle_i32x4(rows[i + k], rows[i + k + 4], 0xdd);
        }
    for (int k = 0; k < 8; k++) {
        rows[k] = _mm512_shuffle_i32x4(made[k], made[k + 8], 0x88);
        rows[k + 8] = _mm512_shuffle_i32x4(made[k], made[k + 8], 0xdd);
    }
}

// The first `size` numbers of rows that are `next` apart, in pairs as `product` reads them: to[j][i] are those at 2j and
// 2j + 1 of row i, of `padded` rows, a multiple of 16, of which those from `rows` on are 0.
static inline void pack(const bf16* from, long next, long rows, long padded, long size, uint32_t* to) {
    for (long i = 0; i < padded; i += 16)
        for (long j = 0; j < size / 2; j += 16) {
            const long across = size / 2 - j < 16 ? size / 2 - j : 16;
            const __mmask16 in = (1u << across) - 1;
            __m512i block[16];
            for (long r = 0; r < 16; r++)
                block[r] = i + r < rows ? _mm512_maskz_loadu_epi32(in, from + (i + r) * next + 2 * j)
                                        : _mm512_setzero_si512();
            transpose(block);
            for (long c = 0; c < across; c++) _mm512_storeu_si512(to + (j + c) * padded + i, block[c]);
        }
}

// Rows in pairs: to[i][j] are the numbers j of rows 2i and 2i + 1, of `padded` rows, of which those from `rows` on are 0;
// `size` is a multiple of 16.
static inline void pair_rows(const bf16* from, long next, long rows, long padded, long size, uint32_t* to) {
    for (long i = 0; i < padded; i += 2)
        for (long j = 0; j < size; j += 16) {
            __m512i even = i < rows ? bits(from + i * next + j) : _mm512_setzero_si512();
            __m512i odd = i + 1 < rows ? bits(from + (i + 1) * next + j) : _mm512_setzero_si512();
            _mm512_storeu_si512(to + i / 2 * size + j, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
}

static constexpr long DOWN = 6;  // rows of a product at a time: with 4 × 16 columns 24 of 32 registers hold sums

// Row r, column c of `to`: the sum over `steps` pairs of a[r] times b[·, c], for across × 16 columns. The pairs of a row
// of a are `next` numbers apart.
template <int down, int across>
static void product(const bf16* a, long lda, const uint32_t* b, long ldb, long steps, float* to, long ldto,
                    long next = 2) {
    __m512 sums[down][across] = {};
    for (long i = 0; i < steps; i++, b += ldb)
        for (int r = 0; r < down; r++) {
            __m512i pair = _mm512_set1_epi32(two(a + r * lda + next * i));
            for (int c = 0; c < across; c++)
                sums[r][c] = _mm512_dpbf16_ps(sums[r][c], (__m512bh)pair, (__m512bh)_mm512_loadu_si512(b + 16 * c));
        }
    for (int r = 0; r < down; r++)
        for (int c = 0; c < across; c++) _mm512_storeu_ps(to + r * ldto + 16 * c, sums[r][c]);
}
