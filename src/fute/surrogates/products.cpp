// Sums of products of gradients that are themselves products, in the cache where these were made.
//
// Row j of G (n·each, tokens, rows) and X (n·each, tokens, columns) makes Pⱼ = Gⱼᵀ Xⱼ (rows, columns). To each
// total[m] (rows, columns) it adds Σᵢ Σ_ab w[m, i, ab] P_(i·each+a) ∘ P_(i·each+b), over the pairs a ≤ b.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
constexpr int LANES = 16, ACROSS = 4, DOWN = 6;  // 24 of 32 registers hold sums
#else
constexpr int LANES = 8, ACROSS = 2, DOWN = 4;  // 8 of 16
#endif
constexpr long WIDTH = LANES * ACROSS, HEIGHT = 64 * DOWN, SOME = 8;
typedef float Wide __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// How numbers are packed, those of STEP tokens one behind the other into 32 bits, and how these are multiplied.
struct Single {
  typedef float Number;
  static constexpr long STEP = 1;
  static void pack(const float* from, long, bool, long size, float* to) {
    std::memcpy(to, from, size * sizeof(float));
  }
  static void add(Wide& sum, const float* g, Wide x) { sum += *g * x; }
};

#ifdef __AVX512BF16__
struct Half {
  typedef uint16_t Number;
  static constexpr long STEP = 2;
  static void pack(const uint16_t* from, long next, bool last, long size, float* to) {
    uint32_t* pairs = (uint32_t*)to;
    for (long k = 0; k < size; k++) pairs[k] = from[k] | (last ? 0u : (uint32_t)from[next + k] << 16);
  }
  static void add(Wide& sum, const float* g, Wide x) {
    sum = (Wide)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(*g), (__m512bh)(__m512)x);
  }
};
#endif

// Columns of all tokens of all rows, packed one behind the other.
template <class Kind>
static void pack(const typename Kind::Number* from, long n, long tokens, long columns, long size, float* to) {
  for (long i = 0; i < n; i++)
    for (long t = 0; t < tokens; t += Kind::STEP, to += size)
      Kind::pack(from + (i * tokens + t) * columns, columns, t + 1 == tokens, size, to);
}

// A tile (down, WIDTH) of one row's product, or of its squares.
template <class Kind, int down>
static void product(const float* g, long height, const float* x, long steps, bool squared, float* to) {
  Wide sums[down][ACROSS] = {};
  for (long t = 0; t < steps; t++, g += height, x += WIDTH)
    for (int r = 0; r < down; r++)
      for (int c = 0; c < ACROSS; c++) Kind::add(sums[r][c], g + r, ((const Wide*)x)[c]);
  for (int r = 0; r < down; r++)
    for (int c = 0; c < ACROSS; c++) ((Wide*)to)[r * ACROSS + c] = squared ? sums[r][c] * sums[r][c] : sums[r][c];
}

struct Sizes {
  long models, n, each, steps, rows, columns;
  long pairs() const { return each * (each + 1) / 2; }
};

// A tile (down, WIDTH) of every total; g (·, steps, height) and x (·, steps, WIDTH) are packed.
template <class Kind, int down>
static void tile(const float* g, long height, const float* x, const float* weights, Sizes s, float* total,
                 float* scratch) {
  constexpr long size = down * WIDTH;
  float* const terms = scratch + s.each * size;
  for (long first = 0; first < s.n; first += SOME) {
    const long some = std::min(SOME, s.n - first);
    float* term = terms;
    for (long i = 0; i < some; i++) {
      for (long a = 0; a < s.each; a++, g += s.steps * height, x += s.steps * WIDTH)
        product<Kind, down>(g, height, x, s.steps, s.each == 1, s.each == 1 ? term : scratch + a * size);
      if (s.each == 1) {
        term += size;
        continue;
      }
      for (long a = 0; a < s.each; a++)
        for (long b = a; b < s.each; b++, term += size)
          for (long k = 0; k < size; k++) term[k] = scratch[a * size + k] * scratch[b * size + k];
    }
    for (long m = 0; m < s.models; m++) {
      const float* w = weights + (m * s.n + first) * s.pairs();
      for (int r = 0; r < down; r++) {
        Wide sums[ACROSS], *to = (Wide*)(total + (m * s.rows + r) * s.columns);
        std::memcpy(sums, to, sizeof sums);
        for (long k = 0; k < some * s.pairs(); k++)
          for (int c = 0; c < ACROSS; c++) sums[c] += w[k] * ((Wide*)(terms + k * size + r * WIDTH))[c];
        std::memcpy(to, sums, sizeof sums);
      }
    }
  }
}

template <class Kind>
static void add(const typename Kind::Number* g, const typename Kind::Number* x, const float* weights, Sizes s,
                long tokens, float* total, long threads) {
  const long all = s.n * s.each, height = std::min(HEIGHT, s.rows);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> left(all * s.steps * height), right(all * s.steps * WIDTH);
    std::vector<float> scratch((s.each + SOME * s.pairs()) * DOWN * WIDTH);
#pragma omp for collapse(2) schedule(dynamic)
    for (long row = 0; row < s.rows; row += HEIGHT)
      for (long column = 0; column < s.columns; column += WIDTH) {
        const long here = std::min(height, s.rows - row);
        pack<Kind>(g + row, all, tokens, s.rows, here, left.data());
        pack<Kind>(x + column, all, tokens, s.columns, WIDTH, right.data());
        for (long r = 0, down; r < here; r += down) {
          down = r + DOWN <= here ? DOWN : 1;
          (down == DOWN ? tile<Kind, DOWN> : tile<Kind, 1>)(left.data() + r, here, right.data(), weights, s,
                                                            total + (row + r) * s.columns + column, scratch.data());
        }
      }
  }
}

extern "C" void add_products(const float* g, const float* x, const float* weights, long models, long n, long each,
                             long tokens, long rows, long columns, float* total, long threads) {
  add<Single>(g, x, weights, {models, n, each, tokens, rows, columns}, tokens, total, threads);
}

#ifdef __AVX512BF16__
extern "C" void add_products_of_halves(const uint16_t* g, const uint16_t* x, const float* weights, long models, long n,
                                       long each, long tokens, long rows, long columns, float* total, long threads) {
  add<Half>(g, x, weights, {models, n, each, (tokens + 1) / 2, rows, columns}, tokens, total, threads);
}
#endif
