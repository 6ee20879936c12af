// A ConvNeXt block for inference in bfloat16 on x86 CPUs with AMX-BF16 and AVX512-BF16.
//
// The map is cut into tiles of a few hundred positions. For each, the depthwise convolution,
// LayerNorm, pwconv1 and GELU, pwconv2 and the residual sum follow one another, so that the map of
// 4C channels stays in the L2 cache. GRN needs its sums of squares first: V2 does pwconv2 in a
// second pass, with GRN's factor in its weight.
//
// Matrices of bfloat16 lie in blocks that AMX reads in one stride:
//   activations  [rows / 32][channels / 32][32 rows][32 channels]
//   weights      [out / 32][in / 32][2][16 pairs of in][16 out][2]   (two AMX tiles)
// Sums are in float32. Channels are padded with zeros to whole blocks.

#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

using bf16 = uint16_t;
constexpr int64_t B = 32;              // rows, and columns, of a block
constexpr int64_t BLOCK = B * B;       // its values
constexpr int64_t KERNEL = 7;
constexpr int64_t STRIP = 8;           // positions of a row that are convolved together
constexpr int64_t TILE_POSITIONS = 256;
constexpr int64_t TILE_WIDTH = 32;

int64_t up(int64_t a, int64_t to) { return (a + to - 1) / to * to; }
int64_t cut(int64_t a, int64_t by) { return (a + by - 1) / by; }

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
  inline __m512 operator()(__m512 x) const {
    const __m512 t = _mm512_range_ps(x, limit, 2);  // the smaller magnitude, with x's sign
    const __m512 u = _mm512_mul_ps(t, t);
    __m512 y = p[9];
#pragma GCC unroll 9
    for (int i = 8; i >= 0; i--) y = _mm512_fmadd_ps(y, u, p[i]);
    return _mm512_mul_ps(x, _mm512_fmadd_ps(y, t, half));
  }
};

// 32 x 32 sums of a row of activation blocks with a column of weight blocks.
inline void multiply(const bf16* a, const bf16* w, int64_t steps, float* sums) {
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
  }
  _tile_stored(0, sums, B * 4);
  _tile_stored(1, sums + 16, B * 4);
  _tile_stored(2, sums + 16 * B, B * 4);
  _tile_stored(3, sums + 16 * B + 16, B * 4);
}

// Where a tile lies: positions [row, row + rows) x [column, column + columns) of image n.
struct Tile {
  int64_t n, row, column, rows, columns;
  int64_t positions() const { return rows * columns; }
};

struct Grid {
  int64_t height, width, rows, columns, down, across, images;
  Grid(int64_t n, int64_t h, int64_t w, int64_t threads) : height(h), width(w), images(n) {
    across = cut(w, TILE_WIDTH);
    columns = std::min(w, up(cut(w, across), STRIP));
    across = cut(w, columns);
    down = cut(h, std::max<int64_t>(1, TILE_POSITIONS / columns));
    // Every thread should have the same number of tiles, or many.
    while (down < h && n * down * across % threads && n * down * across < 4 * threads) down++;
    rows = cut(h, down);
    down = cut(h, rows);
  }
  int64_t count() const { return images * down * across; }
  int64_t blocks() const { return cut(rows * columns, B); }  // of rows, at most, in a tile
  Tile operator[](int64_t i) const {
    const int64_t n = i / (down * across), rest = i % (down * across);
    const int64_t r = rest / across * rows, c = rest % across * columns;
    return {n, r, c, std::min(rows, height - r), std::min(columns, width - c)};
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
  const bf16* weight2;  // V1
  const float* bias2;
  const float* wide2;  // V2: weight2 in float32, in the same order
  const float* gamma;  // V2
  float grn_eps;
  const Gelu gelu;
  int64_t steps() const { return cut(c, B); }
  int64_t hidden() const { return 4 * c / B; }

  // The depthwise convolution of a tile to rows of activation blocks, 16 channels at a time.
  void convolve(const Tile& t, bf16* a, float* seen) const {
    const int64_t reach = dilation * (KERNEL / 2);
    const int64_t seen_width = up(t.columns, STRIP) + 2 * reach;
    for (int64_t chunk = 0; chunk < cut(c, 16); chunk++) {
      const int64_t first = chunk * 16;
      const __mmask16 mask = c - first >= 16 ? 0xFFFF : (1 << (c - first)) - 1;
      for (int64_t r = 0; r < t.rows + 2 * reach; r++) {
        float* to = seen + r * seen_width * 16;
        const int64_t row = t.row + r - reach;
        if (row < 0 || row >= height) {
          std::memset(to, 0, seen_width * 64);
          continue;
        }
        const bf16* from = x + (t.n * height + row) * width * c + first;
        const int64_t left = t.column - reach;
        const int64_t start = std::max<int64_t>(0, -left);
        const int64_t end = std::max(start, std::min(seen_width, width - left));
        for (int64_t i = 0; i < start; i++) _mm512_store_ps(to + i * 16, _mm512_setzero_ps());
        for (int64_t i = start; i < end; i++)
          _mm512_store_ps(to + i * 16, load(from + (left + i) * c, mask));
        for (int64_t i = end; i < seen_width; i++)
          _mm512_store_ps(to + i * 16, _mm512_setzero_ps());
      }
      const float* w = depthwise + chunk * KERNEL * KERNEL * 16;
      const __m512 bias = _mm512_loadu_ps(depthwise_bias + first);
      for (int64_t r = 0; r < t.rows; r++) {
        for (int64_t column = 0; column < t.columns; column += STRIP) {
          __m512 sum[STRIP];
#pragma GCC unroll 8
          for (int i = 0; i < STRIP; i++) sum[i] = bias;
          for (int64_t ky = 0; ky < KERNEL; ky++) {
            const float* s = seen + ((r + ky * dilation) * seen_width + column) * 16;
            const float* taps = w + ky * KERNEL * 16;
            for (int64_t kx = 0; kx < KERNEL; kx++, s += dilation * 16) {
              const __m512 tap = _mm512_loadu_ps(taps + kx * 16);
#pragma GCC unroll 8
              for (int i = 0; i < STRIP; i++)
                sum[i] = _mm512_fmadd_ps(_mm512_load_ps(s + i * 16), tap, sum[i]);
            }
          }
#pragma GCC unroll 8
          for (int i = 0; i < STRIP; i++) {
            if (column + i < t.columns) {
              const int64_t m = r * t.columns + column + i;
              store(row_of(a, m, steps()) + first / B * BLOCK + first % B, sum[i]);
            }
          }
        }
      }
      if (chunk + 1 == cut(c, 16) && first + 16 < steps() * B)
        for (int64_t m = 0; m < t.positions(); m++)
          store(row_of(a, m, steps()) + (first + 16) / B * BLOCK + 16, _mm512_setzero_ps());
    }
  }

  static bf16* row_of(bf16* a, int64_t m, int64_t steps) {
    return a + m / B * steps * BLOCK + m % B * B;
  }

  // LayerNorm without its affine; padded channels stay zero.
  void normalise(int64_t positions, bf16* a) const {
    const int64_t k = steps();
    for (int64_t m = 0; m < positions; m++) {
      bf16* row = row_of(a, m, k);
      __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
      for (int64_t i = 0; i < k; i++) {
        sum0 = _mm512_add_ps(sum0, load(row + i * BLOCK));
        sum1 = _mm512_add_ps(sum1, load(row + i * BLOCK + 16));
      }
      const float mean = _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1)) / c;
      const __m512 centre = _mm512_set1_ps(mean);
      sum0 = sum1 = _mm512_setzero_ps();
      for (int64_t i = 0; i < k; i++) {
        const __m512 low = _mm512_sub_ps(load(row + i * BLOCK), centre);
        const __m512 high = _mm512_sub_ps(load(row + i * BLOCK + 16), centre);
        sum0 = _mm512_fmadd_ps(low, low, sum0);
        sum1 = _mm512_fmadd_ps(high, high, sum1);
      }
      // the padded channels are zero: each added mean^2
      const float squares = _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1));
      const float variance = std::max(0.0f, squares - (k * B - c) * mean * mean) / c;
      const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(variance + eps));
      for (int64_t i = 0; i < k; i++) {
        const int64_t left = c - i * B;  // channels from here on
        const __mmask16 low = left >= 16 ? 0xFFFF : (1 << left) - 1;
        const __mmask16 high = left >= 32 ? 0xFFFF : left <= 16 ? 0 : (1 << (left - 16)) - 1;
        bf16* p = row + i * BLOCK;
        store(p, _mm512_maskz_mul_ps(low, _mm512_sub_ps(load(p), centre), scale),
              _mm512_maskz_mul_ps(high, _mm512_sub_ps(load(p + 16), centre), scale));
      }
    }
  }

  // pwconv1 and GELU of a tile; adds the squares of each channel to `energy`, if any.
  void expand(int64_t positions, const bf16* a, bf16* h, float* sums, float* energy) const {
    for (int64_t p = 0; p < hidden(); p++) {
      const __m512 low = _mm512_loadu_ps(bias1 + p * B), high = _mm512_loadu_ps(bias1 + p * B + 16);
      __m512 energy0 = _mm512_setzero_ps(), energy1 = energy0;
      for (int64_t m = 0; m < cut(positions, B); m++) {
        multiply(a + m * steps() * BLOCK, weight1 + p * steps() * BLOCK, steps(), sums);
        bf16* to = h + (m * hidden() + p) * BLOCK;
        const int64_t valid = std::min(B, positions - m * B);
        if (energy) {
          for (int64_t r = 0; r < valid; r++) {
            const __m512 g0 = gelu(_mm512_add_ps(_mm512_load_ps(sums + r * B), low));
            const __m512 g1 = gelu(_mm512_add_ps(_mm512_load_ps(sums + r * B + 16), high));
            energy0 = _mm512_fmadd_ps(g0, g0, energy0);
            energy1 = _mm512_fmadd_ps(g1, g1, energy1);
            store(to + r * B, g0, g1);
          }
        } else {
#pragma GCC unroll 2
          for (int64_t r = 0; r < valid; r++)
            store(to + r * B, gelu(_mm512_add_ps(_mm512_load_ps(sums + r * B), low)),
                  gelu(_mm512_add_ps(_mm512_load_ps(sums + r * B + 16), high)));
        }
      }
      if (energy) {
        float* e = energy + p * B;
        _mm512_storeu_ps(e, _mm512_add_ps(_mm512_loadu_ps(e), energy0));
        _mm512_storeu_ps(e + 16, _mm512_add_ps(_mm512_loadu_ps(e + 16), energy1));
      }
    }
  }

  // pwconv2 of a tile and the residual sum.
  void project(const Tile& t, const bf16* h, const bf16* w, float* sums) const {
    for (int64_t p = 0; p < steps(); p++) {
      const int64_t left = c - p * B;
      const __mmask16 mask0 = left >= 16 ? 0xFFFF : (1 << left) - 1;
      const __mmask16 mask1 = left >= 32 ? 0xFFFF : left <= 16 ? 0 : (1 << (left - 16)) - 1;
      const __m512 low = _mm512_loadu_ps(bias2 + p * B), high = _mm512_loadu_ps(bias2 + p * B + 16);
      for (int64_t m = 0; m < cut(t.positions(), B); m++) {
        multiply(h + m * hidden() * BLOCK, w + p * hidden() * BLOCK, hidden(), sums);
        const int64_t valid = std::min(B, t.positions() - m * B);
        int64_t r = m * B / t.columns, column = m * B % t.columns;
        for (int64_t i = 0; i < valid; i++) {
          const int64_t at =
              (((t.n * height + t.row + r) * width) + t.column + column) * c + p * B;
          if (++column == t.columns) column = 0, r++;
          __m512 s = _mm512_add_ps(_mm512_load_ps(sums + i * B), low);
          store(y + at, _mm512_add_ps(s, load(x + at, mask0)), mask0);
          if (mask1) {
            s = _mm512_add_ps(_mm512_load_ps(sums + i * B + 16), high);
            store(y + at + 16, _mm512_add_ps(s, load(x + at + 16, mask1)), mask1);
          }
        }
      }
    }
  }
};

// Memory that is kept from call to call: pages are faulted in once.
struct Workspace {
  std::mutex mutex;
  char* memory = nullptr;
  size_t size = 0;
  char* at_least(size_t bytes) {
    if (bytes > size) {
      std::free(memory);
      size = up(bytes, 1 << 21);
      memory = (char*)std::aligned_alloc(1 << 21, size);
      if (!memory) size = 0;
    }
    return memory;
  }
} workspace;

}  // namespace

extern "C" {

// May this process use AMX? Linux asks to be asked. 0: yes.
int convnext_prepare() { return (int)syscall(SYS_arch_prctl, 0x1023, 18); }

// 0, or 1 where there is no memory.
int convnext_block(const bf16* x, bf16* y, int64_t n, int64_t height, int64_t width, int64_t c,
                   int64_t dilation, const float* depthwise, const float* depthwise_bias, float eps,
                   const bf16* weight1, const float* bias1, const bf16* weight2, const float* bias2,
                   const float* wide2, const float* gamma, float grn_eps) {
  const Block block{x,       y,     n,       height, width, c,     dilation, depthwise,
                    depthwise_bias, eps, weight1, bias1, weight2, bias2, wide2, gamma, grn_eps, {}};
  const std::lock_guard<std::mutex> guard(workspace.mutex);
  const int64_t threads = omp_get_max_threads();
  const Grid grid(n, height, width, threads);
  const int64_t reach = dilation * (KERNEL / 2);
  const bool grn = gamma != nullptr;
  const int64_t channels = 4 * c;

  // per thread: what is seen, the normed tile, sums, and in V1 the tile of 4C channels
  const int64_t seen_bytes =
      (grid.rows + 2 * reach) * (up(grid.columns, STRIP) + 2 * reach) * 64;
  const int64_t a_bytes = grid.blocks() * block.steps() * BLOCK * 2;
  const int64_t h_bytes = grid.blocks() * block.hidden() * BLOCK * 2;
  const int64_t own = up(seen_bytes + a_bytes + BLOCK * 4 + (grn ? 0 : h_bytes), 4096);
  // shared, in V2: the whole map of 4C channels, the energies of each thread, scaled weights
  const int64_t energy_bytes = up(n * channels * 4, 64);
  const int64_t weight_values = block.steps() * block.hidden() * BLOCK;
  int64_t shared = 0;
  if (grn) shared = grid.count() * h_bytes + threads * energy_bytes + n * weight_values * 2;
  char* memory = workspace.at_least(threads * own + shared);
  if (!memory) return 1;
  bf16* map = (bf16*)(memory + threads * own);
  float* energies = (float*)((char*)map + grid.count() * h_bytes);
  bf16* weights = (bf16*)((char*)energies + threads * energy_bytes);

#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num();
    const Amx amx;
    char* mine = memory + thread * own;
    float* seen = (float*)mine;
    bf16* a = (bf16*)(mine + seen_bytes);
    float* sums = (float*)(mine + seen_bytes + a_bytes);
    bf16* h = (bf16*)(mine + seen_bytes + a_bytes + BLOCK * 4);
    float* energy = (float*)((char*)energies + thread * energy_bytes);
    if (grn) std::memset(energy, 0, energy_bytes);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < grid.count(); i++) {
      const Tile tile = grid[i];
      block.convolve(tile, a, seen);
      block.normalise(tile.positions(), a);
      if (grn) {
        block.expand(tile.positions(), a, map + i * h_bytes / 2, sums, energy + tile.n * channels);
      } else {
        block.expand(tile.positions(), a, h, sums, nullptr);
        block.project(tile, h, weight2, sums);
      }
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
#pragma omp for collapse(2)
      for (int64_t image = 0; image < n; image++) {
        for (int64_t p = 0; p < block.steps() * block.hidden(); p++) {
          const float* factor = energies + image * channels + p % block.hidden() * B;
          const float* from = wide2 + p * BLOCK;
          bf16* to = weights + image * weight_values + p * BLOCK;
          // 2 tiles of 16 pairs: [tile][pair][16 out][2], channel = 2 * pair + (0 or 1)
          for (int64_t pair = 0; pair < 16; pair++) {
            const __m512 f = _mm512_castpd_ps(_mm512_set1_pd(((const double*)factor)[pair]));
            for (int64_t t = 0; t < 2; t++) {
              const int64_t at = (t * 16 + pair) * 32;
              store(to + at, _mm512_mul_ps(f, _mm512_loadu_ps(from + at)),
                    _mm512_mul_ps(f, _mm512_loadu_ps(from + at + 16)));
            }
          }
        }
      }
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < grid.count(); i++) {
        const Tile tile = grid[i];
        block.project(tile, map + i * h_bytes / 2, weights + tile.n * weight_values, sums);
      }
    }
  }
  return 0;
}
}
