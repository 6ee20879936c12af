// A ConvNeXt block for inference in bfloat16 on x86 CPUs with AMX-BF16 and AVX512-BF16.
//
// The map is cut into tiles of a few hundred positions. For each, the depthwise convolution,
// LayerNorm, pwconv1 and GELU, pwconv2 and the residual sum follow one another, so that the map of
// 4C channels stays in the L2 cache. GRN needs its sums of squares first: V2 does pwconv2 in a
// second pass.
//
// Matrices of bfloat16 lie in blocks that AMX reads in one stride:
//   activations  [rows / 32][channels / 32][32 rows][32 channels]
//   weights      [out / 32][in / 32][2][16 pairs of in][16 out][2]   (two AMX tiles)
// Sums are in float32. Channels are padded with zeros to whole blocks.

#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstring>

#include "tiles.h"

namespace {

using bf16 = uint16_t;
constexpr int64_t B = 32;              // rows, and columns, of a block
constexpr int64_t BLOCK = B * B;       // its values
constexpr int64_t TILE_POSITIONS = 512;  // at most
constexpr int64_t FEW_STEPS = 6;       // too few to do something else beside them
constexpr int64_t SPLIT_FROM = 512;    // channels: 4 MB of weights

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t colsb[16] = {};
  uint8_t rows[16] = {};
};

// AMX in this thread while it lives. What was configured before (oneDNN remembers) comes back.
struct Amx {
  TileConfig before;
  Amx() {
    _tile_storeconfig(&before);
    TileConfig config;
    for (int i = 0; i < 8; i++) config.colsb[i] = 64, config.rows[i] = 16;
    _tile_loadconfig(&config);
  }
  ~Amx() {
    if (before.palette) _tile_loadconfig(&before);
    else _tile_release();
  }
};

inline __m512 load(const bf16* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline __m512 load(const bf16* p, __mmask16 mask) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16));
}
inline __mmask16 remaining(int64_t channels) {  // a mask of so many, at most 16
  return channels >= 16 ? 0xFFFF : channels <= 0 ? 0 : (1 << channels) - 1;
}
inline void store(bf16* p, __m512 x) {
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
}
inline void store(bf16* p, __m512 x, __mmask16 mask) {
  _mm256_mask_storeu_epi16(p, mask, (__m256i)_mm512_cvtneps_pbh(x));
}
inline void store(bf16* p, __m512 low, __m512 high) {
  _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// x * Phi(x), Phi the normal distribution: 1/2 + t P(t^2) with t = x cut to +-4.5.
// The greatest error of the result is 1.6e-5, a hundredth of bfloat16's rounding of 1.
struct Gelu {
  __m512 p[10];
  const __m512 limit = _mm512_set1_ps(4.5f), half = _mm512_set1_ps(0.5f);
  Gelu() {
    static const float c[10] = {
        3.988274157e-01f, -6.621699239e-02f, 9.746132609e-03f, -1.092008733e-03f, 9.180230755e-05f,
        -5.644131784e-06f, 2.433587084e-07f, -6.897310952e-09f, 1.144476881e-10f, -8.368674689e-13f};
    for (int i = 0; i < 10; i++) p[i] = _mm512_set1_ps(c[i]);
  }
  // Of several vectors at once, step by step: the chain of one would leave the units waiting.
  template <int N>
  inline void operator()(__m512 (&x)[N]) const {
    __m512 t[N], u[N], y[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) {
      t[j] = _mm512_range_ps(x[j], limit, 2);  // the smaller magnitude, with x's sign
      u[j] = _mm512_mul_ps(t[j], t[j]);
      y[j] = _mm512_fmadd_ps(p[9], u[j], p[8]);
    }
#pragma GCC unroll 8
    for (int i = 7; i >= 0; i--) {
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) y[j] = _mm512_fmadd_ps(y[j], u[j], p[i]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) x[j] = _mm512_mul_ps(x[j], _mm512_fmadd_ps(y[j], t[j], half));
  }
};

// 32 x 32 sums of a row of activation blocks with a column of weight blocks. Meanwhile `finish(r)`
// is called for each of `rows` rows (or pairs) of the sums before these, as AMX leaves the vector units free.
template <class Finish>
inline void multiply(const bf16* a, const bf16* w, int64_t steps, float* sums, int64_t rows,
                     const Finish& finish) {
  const int64_t share = steps < FEW_STEPS ? 0 : cut(rows, steps);
  int64_t row = 0;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < steps; k++, a += BLOCK, w += BLOCK) {
    _tile_loadd(6, w, 64);
    _tile_loadd(4, a, 64);
    _tile_loadd(7, w + BLOCK / 2, 64);
    _tile_loadd(5, a + BLOCK / 2, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    for (const int64_t end = std::min(rows, row + share); row < end; row++) finish(row);
  }
  for (; row < rows; row++) finish(row);
  _tile_stored(0, sums, B * 4);
  _tile_stored(1, sums + 16, B * 4);
  _tile_stored(2, sums + 16 * B, B * 4);
  _tile_stored(3, sums + 16 * B + 16, B * 4);
}

// y[places] = a w + bias [+ shortcut[places]], the columns of blocks from `first` to `last` of c
// channels. a: activation blocks of `positions` rows and `steps` columns of blocks.
template <bool ADD>
void linear(int64_t positions, const bf16* a, int64_t steps, const bf16* w, const float* bias,
            int64_t c, int64_t first, int64_t last, const int64_t* places, const bf16* shortcut,
            bf16* y, float* sums) {
  const int64_t count = cut(positions, B);
  for (int64_t p = first; p < last; p++) {
    const __mmask16 mask0 = remaining(c - p * B), mask1 = remaining(c - p * B - 16);
    const __m512 low = _mm512_loadu_ps(bias + p * B), high = _mm512_loadu_ps(bias + p * B + 16);
    const float* from = sums;
    const int64_t* where = places;
    const auto finish = [&](int64_t i) __attribute__((always_inline)) {
      const int64_t at = where[i] + p * B;
      __m512 s0 = _mm512_add_ps(_mm512_load_ps(from + i * B), low);
      __m512 s1 = _mm512_add_ps(_mm512_load_ps(from + i * B + 16), high);
      if (ADD) s0 = _mm512_add_ps(s0, load(shortcut + at, mask0));
      store(y + at, s0, mask0);
      if (mask1) {
        if (ADD) s1 = _mm512_add_ps(s1, load(shortcut + at + 16, mask1));
        store(y + at + 16, s1, mask1);
      }
    };
    for (int64_t m = 0; m < count; m++) {
      for (int64_t i = m * B; i < std::min(positions, (m + 1) * B); i++) {
        if (ADD) __builtin_prefetch(shortcut + places[i] + p * B, 0);
        __builtin_prefetch(y + places[i] + p * B, 1);
      }
      multiply(a + m * steps * BLOCK, w + p * steps * BLOCK, steps, sums + m % 2 * BLOCK,
               m ? B : 0, finish);
      from = sums + m % 2 * BLOCK;
      where = places + m * B;
    }
    for (int64_t i = 0; i < positions - (count - 1) * B; i++) finish(i);
  }
}

bf16* row_of(bf16* a, int64_t m, int64_t steps) {
  return a + m / B * steps * BLOCK + m % B * B;
}

// The mean and the inverse deviation of c values in k blocks; those from c on are zero.
struct Statistics {
  __m512 mean, scale;
  Statistics(const bf16* row, int64_t c, int64_t k, int64_t stride, float eps) {
    __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
    for (int64_t i = 0; i < k; i++) {
      sum0 = _mm512_add_ps(sum0, load(row + i * stride));
      sum1 = _mm512_add_ps(sum1, load(row + i * stride + 16));
    }
    const float m = _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1)) / c;
    mean = _mm512_set1_ps(m);
    sum0 = sum1 = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i++) {
      const __m512 low = _mm512_sub_ps(load(row + i * stride), mean);
      const __m512 high = _mm512_sub_ps(load(row + i * stride + 16), mean);
      sum0 = _mm512_fmadd_ps(low, low, sum0);
      sum1 = _mm512_fmadd_ps(high, high, sum1);
    }
    const float squares = _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1));
    const float variance = std::max(0.0f, squares - (k * B - c) * m * m) / c;
    scale = _mm512_set1_ps(1.0f / std::sqrt(variance + eps));
  }
  __m512 operator()(__m512 x, __mmask16 mask) const {
    return _mm512_maskz_mul_ps(mask, _mm512_sub_ps(x, mean), scale);
  }
};

struct Block {
  const bf16* x;  // (N, H, W, C)
  bf16* y;
  int64_t n, height, width, c, dilation;
  const float *depthwise, *depthwise_bias;  // [C / 16][49][16], [C / 16][16]
  float eps;
  const bf16* weight1;
  const float* bias1;
  const bf16* weight2;
  const float* bias2;
  const float* gamma;  // V2
  float grn_eps;
  int64_t steps() const { return cut(c, B); }
  int64_t hidden() const { return 4 * c / B; }

  // The depthwise convolution of a tile to rows of activation blocks.
  void convolve(const Tile& t, bf16* a, float* seen) const {
    ::convolve<BFloat16>(x, height, width, c, t, dilation, depthwise, depthwise_bias, seen,
                         [&](int64_t m, int64_t first, vec sum) __attribute__((always_inline)) {
                           store(row_of(a, m, steps()) + first / B * BLOCK + first % B, (__m512)sum);
                         });
    if (up(c, LANES) < steps() * B)  // the second half of the last block
      for (int64_t m = 0; m < t.positions(); m++)
        store(row_of(a, m, steps()) + (steps() - 1) * BLOCK + LANES, _mm512_setzero_ps());
  }

  // LayerNorm without its affine; padded channels stay zero.
  void normalise(int64_t positions, bf16* a) const {
    for (int64_t m = 0; m < positions; m++) {
      bf16* row = row_of(a, m, steps());
      const Statistics norm(row, c, steps(), BLOCK, eps);
      for (int64_t i = 0; i < steps(); i++) {
        bf16* p = row + i * BLOCK;
        store(p, norm(load(p), remaining(c - i * B)), norm(load(p + 16), remaining(c - i * B - 16)));
      }
    }
  }

  // pwconv1 and GELU of a tile, its columns of blocks from `first` to `last`; adds the squares of
  // each channel to `energy`, if any.
  template <bool GRN>
  void expand(int64_t positions, const bf16* a, bf16* h, float* sums, float* energy, int64_t first,
              int64_t last) const {
    const int64_t count = cut(positions, B);
    const Gelu gelu;
    for (int64_t p = first; p < last; p++) {
      const __m512 low = _mm512_loadu_ps(bias1 + p * B), high = _mm512_loadu_ps(bias1 + p * B + 16);
      __m512 energy0 = _mm512_setzero_ps(), energy1 = energy0, energy2 = energy0,
             energy3 = energy0;
      const float* from = sums;
      bf16* to = h;
      const auto finish = [&](int64_t pair) __attribute__((always_inline)) {  // of rows
        const float* s = from + pair * 2 * B;
        __m512 g[4] = {_mm512_add_ps(_mm512_load_ps(s), low),
                       _mm512_add_ps(_mm512_load_ps(s + 16), high),
                       _mm512_add_ps(_mm512_load_ps(s + B), low),
                       _mm512_add_ps(_mm512_load_ps(s + B + 16), high)};
        gelu(g);
        if (GRN) {
          energy0 = _mm512_fmadd_ps(g[0], g[0], energy0);
          energy1 = _mm512_fmadd_ps(g[1], g[1], energy1);
          energy2 = _mm512_fmadd_ps(g[2], g[2], energy2);
          energy3 = _mm512_fmadd_ps(g[3], g[3], energy3);
        }
        store(to + pair * 2 * B, g[0], g[1]);
        store(to + pair * 2 * B + B, g[2], g[3]);
      };
      for (int64_t m = 0; m < count; m++) {
        multiply(a + m * steps() * BLOCK, weight1 + p * steps() * BLOCK, steps(),
                 sums + m % 2 * BLOCK, m ? B / 2 : 0, finish);
        from = sums + m % 2 * BLOCK;
        to = h + (m * hidden() + p) * BLOCK;
      }
      const int64_t rest = positions - (count - 1) * B;
      if (rest % 2) {  // a row beyond the tile has no energy
        float* beyond = sums + (count - 1) % 2 * BLOCK + rest * B;
        _mm512_store_ps(beyond, _mm512_sub_ps(_mm512_setzero_ps(), low));
        _mm512_store_ps(beyond + 16, _mm512_sub_ps(_mm512_setzero_ps(), high));
      }
      for (int64_t pair = 0; pair < cut(rest, 2); pair++) finish(pair);
      if (GRN) {
        energy0 = _mm512_add_ps(energy0, energy2);
        energy1 = _mm512_add_ps(energy1, energy3);
        float* e = energy + p * B;
        _mm512_storeu_ps(e, _mm512_add_ps(_mm512_loadu_ps(e), energy0));
        _mm512_storeu_ps(e + 16, _mm512_add_ps(_mm512_loadu_ps(e + 16), energy1));
      }
    }
  }

  // pwconv2 of a tile and the residual sum, its columns of blocks from `first` to `last`.
  void project(const Tile& t, const bf16* h, const bf16* w, float* sums, int64_t first,
               int64_t last) const {
    int64_t places[TILE_POSITIONS];
    int64_t* place = places;
    for (int64_t r = t.row; r < t.row + t.rows; r++)
      for (int64_t i = 0; i < t.columns; i++)
        *place++ = ((t.n * height + r) * width + t.column + i) * c;
    linear<true>(t.positions(), h, hidden(), w, bias2, c, first, last, places, x, y, sums);
  }
};

}  // namespace

extern "C" {

// May this process use AMX? Linux asks to be asked. 0: yes.
int convnext_prepare() { return (int)syscall(SYS_arch_prctl, 0x1023, 18); }

// 0, or 1 where there is no memory.
int convnext_block_bfloat16(const bf16* x, bf16* y, int64_t n, int64_t height, int64_t width, int64_t c,
                   int64_t dilation, const float* depthwise, const float* depthwise_bias, float eps,
                   const bf16* weight1, const float* bias1, const bf16* weight2, const float* bias2,
                   const float* gamma, float grn_eps) {
  const Block block{x,       y,     n,       height, width, c,     dilation, depthwise,
                    depthwise_bias, eps, weight1, bias1, weight2, bias2, gamma, grn_eps};
  const std::lock_guard<std::mutex> guard(workspace.mutex);
  const int64_t threads = omp_get_max_threads();
  const int64_t tile = c <= 192 ? TILE_POSITIONS : TILE_POSITIONS / 2;  // 4C stay in L2
  const Grid grid(n, height, width, tile, threads);
  const int64_t reach = dilation * (KERNEL / 2);
  const bool grn = gamma != nullptr;
  const int64_t channels = 4 * c;

  // Where the weights fill a cache, each thread takes one half of the columns for many tiles.
  const bool split = c >= SPLIT_FROM;
  const int64_t parts = split ? 2 : 1;
  // GRN's factor goes into the map of 4C channels or into the weight, whichever is smaller.
  const bool on_map = height * width < c, scaled = grn && !on_map;

  const int64_t seen_bytes = grid.seen(reach) * 4;
  const int64_t a_bytes = cut(grid.positions(), B) * block.steps() * BLOCK * 2;
  const int64_t h_bytes = cut(grid.positions(), B) * block.hidden() * BLOCK * 2;
  const int64_t energy_bytes = grn ? up(n * channels * 4, 64) : 0;
  const int64_t weight_values = block.steps() * block.hidden() * BLOCK;
  // one for each tile that is kept, else one for each thread
  const int64_t a_count = split ? grid.count() : threads;
  const int64_t h_count = split || grn ? grid.count() : threads;
  const int64_t own = up(seen_bytes, 64) + 2 * BLOCK * 4 + energy_bytes;
  char* memory = workspace.at_least(a_count * a_bytes + h_count * h_bytes + threads * own +
                                    (scaled ? n * weight_values * 2 : 0));
  if (!memory) return 1;
  bf16* const all_a = (bf16*)memory;
  bf16* const all_h = all_a + a_count * a_bytes / 2;
  bf16* const weights = all_h + h_count * h_bytes / 2;
  char* const owned = (char*)(weights + (scaled ? n * weight_values : 0));
  float* const energies = (float*)(owned + threads * (own - energy_bytes));

#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num();
    const Amx amx;
    float* sums = (float*)(owned + thread * (own - energy_bytes));
    float* seen = sums + 2 * BLOCK;
    float* energy = (float*)((char*)energies + thread * energy_bytes);
    if (grn) std::memset(energy, 0, energy_bytes);
    const auto expand = [&](int64_t i, const bf16* a, bf16* h, int64_t part) {
      const int64_t first = block.hidden() * part / parts;
      const int64_t last = block.hidden() * (part + 1) / parts;
      const Tile tile = grid[i];
      if (grn)
        block.expand<true>(tile.positions(), a, h, sums, energy + tile.n * channels, first, last);
      else
        block.expand<false>(tile.positions(), a, h, sums, nullptr, first, last);
    };
    const auto project = [&](int64_t i, const bf16* h, int64_t part) {
      const Tile tile = grid[i];
      const bf16* w = scaled ? weights + tile.n * weight_values : weight2;
      block.project(tile, h, w, sums, block.steps() * part / parts,
                    block.steps() * (part + 1) / parts);
    };

#pragma omp for schedule(static)  // the same tiles, and so the same sums for GRN, at every call
    for (int64_t i = 0; i < grid.count(); i++) {
      const Tile tile = grid[i];
      bf16* a = all_a + (split ? i : thread) * a_bytes / 2;
      bf16* h = all_h + (grn ? i : thread) * h_bytes / 2;
      block.convolve(tile, a, seen);
      block.normalise(tile.positions(), a);
      if (!split) expand(i, a, h, 0);
      if (!split && !grn) project(i, h, 0);
    }
    if (split) {
#pragma omp for schedule(static) collapse(2)
      for (int64_t part = 0; part < parts; part++)
        for (int64_t i = 0; i < grid.count(); i++)
          expand(i, all_a + i * a_bytes / 2, all_h + i * h_bytes / 2, part);
    }
    if (grn) {
      // the factors 1 + gamma * norm / mean, into the first thread's energies
#pragma omp for
      for (int64_t image = 0; image < n; image++) {
        float* e = energies + image * channels;
        double total = 0;
        for (int64_t j = 0; j < channels; j++) {
          float sum = 0;
          for (int64_t other = 0; other < threads; other++)
            sum += e[other * energy_bytes / 4 + j];
          e[j] = std::sqrt(sum);
          total += e[j];
        }
        const float mean = (float)(total / channels) + grn_eps;
        for (int64_t j = 0; j < channels; j++) e[j] = 1 + gamma[j] * e[j] / mean;
      }
      if (on_map) {
#pragma omp for collapse(2)
        for (int64_t i = 0; i < grid.count(); i++)
          for (int64_t p = 0; p < block.hidden(); p++) {
            const float* factor = energies + grid[i].n * channels + p * B;
            const __m512 low = _mm512_loadu_ps(factor), high = _mm512_loadu_ps(factor + 16);
            for (int64_t m = 0; m < grid[i].positions(); m++) {
              bf16* h = row_of(all_h + i * h_bytes / 2, m, block.hidden()) + p * BLOCK;
              store(h, _mm512_mul_ps(load(h), low), _mm512_mul_ps(load(h + 16), high));
            }
          }
      } else {
#pragma omp for collapse(2)
        for (int64_t image = 0; image < n; image++)
          for (int64_t p = 0; p < block.steps() * block.hidden(); p++) {
            const float* factor = energies + image * channels + p % block.hidden() * B;
            const bf16* from = weight2 + p * BLOCK;
            bf16* to = weights + image * weight_values + p * BLOCK;
            // 2 tiles of 16 pairs: [tile][pair][16 out][2], channel = 2 * pair + (0 or 1)
            for (int64_t pair = 0; pair < 16; pair++) {
              const __m512 f = _mm512_castpd_ps(_mm512_set1_pd(((const double*)factor)[pair]));
              for (int64_t t = 0; t < 2; t++) {
                const int64_t at = (t * 16 + pair) * 32;
                store(to + at, _mm512_mul_ps(f, load(from + at)),
                      _mm512_mul_ps(f, load(from + at + 16)));
              }
            }
          }
      }
    }
    if (split || grn) {
#pragma omp for schedule(static) collapse(2)
      for (int64_t part = 0; part < parts; part++)
        for (int64_t i = 0; i < grid.count(); i++) project(i, all_h + i * h_bytes / 2, part);
    }
  }
  return 0;
}

// LayerNorm without affine and a 2x2 convolution of stride 2: (N, H, W, C) to (N, H/2, W/2, out).
int convnext_downsample_bfloat16(const bf16* x, bf16* y, int64_t n, int64_t height, int64_t width,
                                 int64_t c, int64_t out, float eps, const bf16* weight,
                                 const float* bias) {
  const std::lock_guard<std::mutex> guard(workspace.mutex);
  const int64_t threads = omp_get_max_threads(), steps = cut(c, B);
  const Patches patches(n, height, width, 2);
  const int64_t share = up(std::min(TILE_POSITIONS, cut(patches.total, threads)), B);
  const int64_t a_bytes = share * 4 * steps * B * 2, own = a_bytes + 2 * BLOCK * 4;
  char* memory = workspace.at_least(threads * own);
  if (!memory) return 1;
#pragma omp parallel num_threads(threads)
  {
    const Amx amx;
    bf16* a = (bf16*)(memory + omp_get_thread_num() * own);
    float* sums = (float*)((char*)a + a_bytes);
    int64_t places[TILE_POSITIONS];
#pragma omp for schedule(dynamic)
    for (int64_t start = 0; start < patches.total; start += share) {
      const int64_t positions = std::min(share, patches.total - start);
      for (int64_t m = 0; m < positions; m++) {
        const auto [image, row, column] = patches[start + m];
        places[m] = (start + m) * out;
        for (int64_t tap = 0; tap < 4; tap++) {
          const bf16* from =
              x + ((image * height + row + tap / 2) * width + column + tap % 2) * c;
          bf16* to = row_of(a, m, 4 * steps) + tap * steps * BLOCK;
          for (int64_t i = 0; i < steps; i++)
            store(to + i * BLOCK, load(from + i * B, remaining(c - i * B)),
                  load(from + i * B + 16, remaining(c - i * B - 16)));
          const Statistics norm(to, c, steps, BLOCK, eps);
          for (int64_t i = 0; i < steps; i++) {
            bf16* p = to + i * BLOCK;
            store(p, norm(load(p), remaining(c - i * B)),
                  norm(load(p + 16), remaining(c - i * B - 16)));
          }
        }
      }
      linear<false>(positions, a, 4 * steps, weight, bias, out, 0, cut(out, B), places, nullptr, y,
                    sums);
    }
  }
  return 0;
}

// Convolution of patches and LayerNorm: images (N, C, H, W) in float32 to (N, H/p, W/p, out).
int convnext_stem_bfloat16(const float* images, bf16* y, int64_t n, int64_t channels, int64_t height,
                  int64_t width, int64_t patch, int64_t out, const bf16* weight, const float* bias,
                  const float* norm_weight, const float* norm_bias, float eps) {
  const std::lock_guard<std::mutex> guard(workspace.mutex);
  const int64_t threads = omp_get_max_threads();
  const int64_t values = channels * patch * patch, steps = cut(values, B), k = cut(out, B);
  const Patches patches(n, height, width, patch);
  const int64_t share = up(std::min(TILE_POSITIONS, cut(patches.total, threads)), B);
  const int64_t a_bytes = share * steps * B * 2, row_bytes = share * k * B * 2;
  const int64_t patch_bytes = up(steps * B * 4, 64);
  const int64_t own = a_bytes + row_bytes + 2 * BLOCK * 4 + patch_bytes;
  char* memory = workspace.at_least(threads * own);
  if (!memory) return 1;
#pragma omp parallel num_threads(threads)
  {
    const Amx amx;
    bf16* a = (bf16*)(memory + omp_get_thread_num() * own);
    bf16* rows = a + a_bytes / 2;
    float* sums = (float*)((char*)rows + row_bytes);
    float* pixels = sums + 2 * BLOCK;
    std::memset(pixels, 0, patch_bytes);
    int64_t places[TILE_POSITIONS];
#pragma omp for schedule(dynamic)
    for (int64_t start = 0; start < patches.total; start += share) {
      const int64_t positions = std::min(share, patches.total - start);
      for (int64_t m = 0; m < positions; m++) {
        places[m] = m * k * B;
        copy_patch(images, channels, height, width, patches[start + m], patch, pixels);
        for (int64_t i = 0; i < steps; i++)
          store(row_of(a, m, steps) + i * BLOCK, _mm512_loadu_ps(pixels + i * B),
                _mm512_loadu_ps(pixels + i * B + 16));
      }
      // All k blocks of channels, so that those beyond `out` become zero: weights and bias are.
      linear<false>(positions, a, steps, weight, bias, k * B, 0, k, places, nullptr, rows, sums);
      for (int64_t m = 0; m < positions; m++) {
        const bf16* row = rows + m * k * B;
        bf16* to = y + (start + m) * out;
        const Statistics norm(row, out, k, B, eps);
        for (int64_t i = 0; i < out; i += 16) {
          const __mmask16 mask = remaining(out - i);
          store(to + i, _mm512_fmadd_ps(norm(load(row + i), mask), _mm512_loadu_ps(norm_weight + i),
                                        _mm512_loadu_ps(norm_bias + i)), mask);
        }
      }
    }
  }
  return 0;
}
}
