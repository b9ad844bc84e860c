// AMX's tile instructions in software, for test_amx.py, which puts amx.cpp behind this: the same arithmetic on any CPU
// with AVX512-BF16.

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace software {

struct Register {
    alignas(64) uint8_t row[16][64];
};

struct State {
    uint8_t config[64];  // as LDTILECFG takes it: a palette, bytes a row from 16 on, rows from 48 on
    Register tile[8];
};

static thread_local State state;

static void configure(const void* from) { std::memcpy(state.config, from, 64); }

static void tell(void* to) { std::memcpy(to, state.config, 64); }

static void release() { state = {}; }

// The register, which must have its full 16 rows of 64 bytes: amx.cpp asks for no others.
static Register& at(int which) {
    if (state.config[0] != 1 || state.config[16 + 2 * which] != 64 || state.config[48 + which] != 16) {
        std::fprintf(stderr, "tile %d isn't configured\n", which);
        std::abort();
    }
    return state.tile[which];
}

static void zero(int which) { at(which) = {}; }

static void load(int which, const void* from, long next) {
    for (int i = 0; i < 16; i++) std::memcpy(at(which).row[i], static_cast<const char*>(from) + i * next, 64);
}

static void store(int which, void* to, long next) {
    for (int i = 0; i < 16; i++) std::memcpy(static_cast<char*>(to) + i * next, at(which).row[i], 64);
}

// sums[m][n] += Σ_k a[m][2k] b[k][2n] + a[m][2k + 1] b[k][2n + 1].
static void multiply(int sums, int a, int b) {
    for (int m = 0; m < 16; m++) {
        __m512 sum = _mm512_load_ps(at(sums).row[m]);
        for (int k = 0; k < 16; k++) {
            int pair;
            std::memcpy(&pair, at(a).row[m] + 4 * k, 4);
            sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_load_si512(at(b).row[k]));
        }
        _mm512_store_ps(at(sums).row[m], sum);
    }
}

}  // namespace software

#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig software::configure
#define _tile_storeconfig software::tell
#define _tile_release software::release
#define _tile_zero software::zero
#define _tile_loadd software::load
#define _tile_stream_loadd software::load
#define _tile_stored software::store
#define _tile_dpbf16ps software::multiply
