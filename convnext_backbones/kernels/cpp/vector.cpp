// Stem, downsampling and block for inference on x86 CPUs with AVX2 or AVX-512: in float32, and in
// bfloat16 where the processor multiplies it (AVX512-BF16).
//
// The map is cut into tiles. For each, the depthwise convolution, LayerNorm, pwconv1 and GELU,
// pwconv2 and the residual sum follow one another, so that what is 4C wide stays in the cache. GRN
// needs its sums of squares first: V2 does pwconv2 in a second pass.
//
// What is multiplied lies in panels of P channels:
//   activations  [channels / P][rows][P]
//   weights      [out / P][in][P], of bfloat16 [out / P][in / 2][P][2]
// Sums are in float32. Channels are padded with zeros to whole panels.

#include <immintrin.h>
#include <omp.h>

#include <cmath>
#include <cstring>

#include "tiles.h"

namespace {

constexpr int VECTORS = P / LANES;
// The sums of a product of ROWS x VECTORS stay in registers: 24 of 32, or 12 of 16.
constexpr int ROWS = LANES == 16 ? 8 : 6;
constexpr int64_t TILE_POSITIONS = 192;   // at most
constexpr int64_t TILE_VALUES = 36864;    // of C channels, about
constexpr int64_t CHUNK = 192 / P;        // panels that are computed, used and summed at a time
constexpr int64_t SHARE = 128;            // positions that stem and downsampling do at a time
constexpr int64_t AHEAD_BYTES = 1 << 20;  // of the L2 cache
constexpr int64_t SPLIT_FROM = 512;       // channels: 4 MB of weights

#ifdef __AVX512F__
ALWAYS vec min(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
ALWAYS vec max(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
ALWAYS float sum(vec x) { return _mm512_reduce_add_ps((__m512)x); }
#else
ALWAYS vec min(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
ALWAYS vec max(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
ALWAYS float sum(vec x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
#endif

// x * Phi(x), Phi the normal distribution: 1/2 + x P(x^2) / Q(x^2), cut to 0 and 1, which it is in
// float32 from +-5.55 on. The greatest error is 1e-6, that of the usual formula 1.2e-6.
ALWAYS vec gelu(vec x) {
  const vec half = all(0.5f), u = min(x * x, all(5.55f * 5.55f));
  vec p = all(2.422836154e-08f) * u + all(6.147239219e-06f);
  vec q = all(1.226584232e-06f) * u + all(6.567024684e-05f);
  p = p * u + all(1.441779896e-04f);
  q = q * u + all(1.741478452e-03f);
  p = p * u + all(4.520317074e-03f);
  q = q * u + all(2.725739777e-02f);
  p = p * u + all(3.147293255e-02f);
  q = q * u + all(2.455568910e-01f);
  p = p * u + all(3.989421725e-01f);
  q = q * u + all(1.0f);
  const vec phi = max(min(x * p / q, half), -half);
  return x * phi + half * x;
}

// sums [R][P] of R rows of activations and V vectors of a panel of weights, `k` words deep; added to
// what is there where `onto`. What CHUNK panels give is summed for itself: less is rounded off.
template <class T, int R, int V>
void multiply(const typename T::value* a, int64_t stride, const typename T::value* w, int64_t k,
              float* sums, bool onto) {
  constexpr int WORDS = P / T::STEP;
  const auto* weights = (const typename T::word*)w;
  for (; k > 0; k -= CHUNK * WORDS, onto = true) {
    vec s[R][V] = {};
    for (int64_t left = std::min<int64_t>(k, CHUNK * WORDS); left > 0; left -= WORDS, a += stride) {
      const auto* row = (const typename T::word*)a;
      for (const auto* end = row + std::min<int64_t>(left, WORDS); row < end; row++, weights += P) {
        decltype(T::words(weights)) b[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) b[v] = T::words(weights + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const auto x = row[r * WORDS];
#pragma GCC unroll 8
          for (int v = 0; v < V; v++) s[r][v] = T::product(x, b[v], s[r][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < V; v++) {
        float* to = sums + r * P + v * LANES;
        Float32::store(to, onto ? s[r][v] + Float32::load(to) : s[r][v]);
      }
  }
}

template <class T>
using Multiply = void (*)(const typename T::value*, int64_t, const typename T::value*, int64_t,
                          float*, bool);
template <class T, int V>
Multiply<T> of_rows(int rows) {
  static constexpr Multiply<T> all[] = {
      multiply<T, 1, V>, multiply<T, 2, V>, multiply<T, 3, V>, multiply<T, 4, V>,
      multiply<T, 5, V>, multiply<T, 6, V>,
#ifdef __AVX512F__
      multiply<T, 7, V>, multiply<T, 8, V>,
#endif
  };
  return all[rows - 1];
}
template <class T>
Multiply<T> of(int rows, int vectors) {
#ifdef __AVX512F__
  if (vectors == 3) return of_rows<T, 3>(rows);
#endif
  return vectors == 2 ? of_rows<T, 2>(rows) : of_rows<T, 1>(rows);
}

// LayerNorm without its affine of c channels in panels; padded channels stay zero.
template <class T>
void normalise(int64_t positions, int64_t c, float eps, const float* from, typename T::value* to) {
  const int64_t stride = positions * P;
  const auto each = [&](const auto& use) {  // vector of channels, and how many are left there
    for (int64_t p = 0; p < cut(c, P); p++)
      for (int64_t i = 0; i < P && p * P + i < c; i += LANES) use(p * stride + i, c - p * P - i);
  };
  vec kept = {};
  for (int64_t i = 0; i < c % LANES; i++) kept[i] = 1;
  for (int64_t m = 0; m < positions; m++, from += P, to += P) {
    vec total = {};
    each([&](int64_t at, int64_t) __attribute__((always_inline)) {
      total += Float32::load(from + at);
    });
    const vec mean = all(sum(total) / c);
    total = vec{};
    each([&](int64_t at, int64_t left) __attribute__((always_inline)) {
      const vec d = Float32::load(from + at) - mean;
      total += left < LANES ? d * d * kept : d * d;
    });
    const vec scale = all(1 / std::sqrt(sum(total) / c + eps));
    each([&](int64_t at, int64_t left) __attribute__((always_inline)) {
      const vec d = (Float32::load(from + at) - mean) * scale;
      T::store(to + at, left < LANES ? d * kept : d);
    });
  }
}

// How many vectors a panel of so many channels has.
int64_t vectors(int64_t channels, int64_t panel) {
  return std::min<int64_t>(VECTORS, cut(channels - panel * P, LANES));
}

// `each(first, count, multiply)` for rows, ROWS at most at a time, and about as many each time.
template <class T, class Each>
ALWAYS void in_rows(int64_t rows, int64_t vectors, const Each& each) {
  const int64_t groups = cut(rows, ROWS);
  for (int64_t g = 0, first = 0; g < groups; g++) {
    const int64_t last = rows * (g + 1) / groups;
    each(first, last - first, of<T>(last - first, vectors));
    first = last;
  }
}

// How deep a panel of weights of so many channels is.
template <class T>
int64_t deep(int64_t channels) {
  return cut(channels, T::STEP) * T::STEP;
}

// What a's `channels` add to the sums of `out` channels' panels from `first` to `last`; the first
// such product where not `onto`. w: of the first panel, each `depth` deep.
template <class T>
void product(int64_t positions, const typename T::value* a, int64_t channels,
             const typename T::value* w, int64_t depth, float* sums, int64_t out, int64_t first,
             int64_t last, bool onto) {
  for (int64_t p = first; p < last; p++)
    in_rows<T>(positions, vectors(out, p), [&](int64_t m, int64_t, Multiply<T> multiply) {
      multiply(a + m * P, positions * P, w + p * depth * P, cut(channels, T::STEP),
               sums + (p * positions + m) * P, onto);
    });
}

// Rows of memory that are fetched into the L2 cache while something else is computed in `steps`.
struct Ahead {
  const char* row = nullptr;
  int64_t stride = 0, bytes = 0, rows = 0, lines = 0, at = 0;  // cache lines of each step
  Ahead() = default;
  Ahead(const char* row, int64_t stride, int64_t bytes, int64_t rows, int64_t steps)
      : row(row), stride(stride), bytes(bytes), rows(rows * bytes > AHEAD_BYTES ? 0 : rows),
        lines(cut(rows * cut(bytes, 64), steps)) {}
  void step() {
    for (int64_t i = 0; i < lines && rows > 0; i++) {
      __builtin_prefetch(row + at, 0, 2);
      at += 64;
      if (at >= bytes) at = 0, row += stride, rows--;
    }
  }
};

template <class T>
struct Block {
  using value = typename T::value;
  const value* x;  // (N, H, W, C)
  value* y;
  int64_t n, height, width, c, dilation;
  const float *depthwise, *depthwise_bias;  // [C / LANES][49][LANES], [C / LANES][LANES]
  float eps;
  const value* weight1;
  const float* bias1;  // padded, as bias2, to whole panels
  const value* weight2;
  const float* bias2;
  const float* gamma;  // V2
  float grn_eps;
  int64_t panels() const { return cut(c, P); }
  int64_t hidden() const { return cut(4 * c, P); }

  // What of x a tile sees.
  Ahead ahead(const Tile& t, int64_t steps) const {
    const int64_t reach = dilation * (KERNEL / 2), size = c * sizeof(value);
    const int64_t top = std::max<int64_t>(0, t.row - reach);
    const int64_t left = std::max<int64_t>(0, t.column - reach);
    const int64_t bottom = std::min(height, t.row + t.rows + reach);
    const int64_t right = std::min(width, t.column + t.columns + reach);
    return {(const char*)x + ((t.n * height + top) * width + left) * size, width * size,
            (right - left) * size, bottom - top, steps};
  }

  // The depthwise convolution of a tile to panels of float32.
  void convolve(const Tile& t, float* to, float* seen) const {
    ::convolve<T>(x, height, width, c, t, dilation, depthwise, depthwise_bias, seen,
                  [&](int64_t m, int64_t first, vec sum) __attribute__((always_inline)) {
                    Float32::store(to + (first / P * t.positions() + m) * P + first % P, sum);
                  });
  }

  // pwconv1 and GELU of a tile, its panels of 4C channels from `first` to `last`, to h; adds the
  // squares of each channel to `energy`, if any.
  void expand(int64_t positions, const value* a, value* h, int64_t first, int64_t last,
              float* energy, Ahead& ahead) const {
    for (int64_t p = first; p < last; p++) {
      const int64_t count = vectors(4 * c, p);
      const float* bias = bias1 + p * P;
      value* panel = h + (p - first) * positions * P;
      float* const squares = energy ? energy + p * P : nullptr;
      in_rows<T>(positions, count, [&](int64_t m, int64_t rows, Multiply<T> multiply) {
        alignas(64) float sums[ROWS * P];
        ahead.step();
        multiply(a + m * P, positions * P, weight1 + p * deep<T>(c) * P, cut(c, T::STEP), sums,
                 false);
        for (int64_t i = 0; i < count * LANES; i += LANES)
          activate(rows, sums + i, bias + i, panel + m * P + i, squares ? squares + i : nullptr);
      });
    }
  }
  static void activate(int64_t rows, const float* sums, const float* bias, value* to,
                       float* squares) {
    const vec b = Float32::load(bias);
    vec total = {};
    for (int64_t r = 0; r < rows; r++) {
      const vec g = gelu(Float32::load(sums + r * P) + b);
      total += g * g;
      T::store(to + r * P, g);
    }
    if (squares) Float32::store(squares, Float32::load(squares) + total);
  }

  // pwconv2 of a tile: what h's panels from `first` to `last` add to the sums of C channels' panels
  // from `out` to `end`.
  void project(int64_t positions, const value* h, const value* w, float* sums, int64_t first,
               int64_t last, int64_t out, int64_t end) const {
    product<T>(positions, h, std::min(4 * c, last * P) - first * P, w + first * P * P, deep<T>(4 * c),
               sums, c, out, end, first > 0);
  }

  // The residual sum of a tile.
  void add(const Tile& t, const float* sums, int64_t out, int64_t end) const {
    for (int64_t p = out; p < end; p++)
      for (int64_t m = 0; m < t.positions(); m++) {
        const int64_t at = ((t.n * height + t.row + m / t.columns) * width + t.column +
                            m % t.columns) * c + p * P;
        for (int64_t i = 0; i < std::min<int64_t>(P, c - p * P); i += LANES) {
          const int64_t left = c - p * P - i;
          const vec s = Float32::load(sums + (p * t.positions() + m) * P + i);
          store<T>(y + at + i, s + Float32::load(bias2 + p * P + i) + load<T>(x + at + i, left), left);
        }
      }
  }
};

// 0, or 1 where there is no memory.
template <class T>
int run(const Block<T>& block) {
  using value = typename T::value;
  const int64_t n = block.n, c = block.c, height = block.height, width = block.width;
  const std::lock_guard<std::mutex> guard(workspace.mutex);
  const int64_t threads = omp_get_max_threads();
  const int64_t tile = std::min(TILE_POSITIONS, std::max<int64_t>(32, TILE_VALUES / c));
  const Grid grid(n, height, width, tile, threads);
  const int64_t reach = block.dilation * (KERNEL / 2);
  const bool grn = block.gamma != nullptr;
  const int64_t panels = block.panels(), hidden = block.hidden(), padded = hidden * P;

  // Where the weights fill a cache, each thread takes a part of the columns for all tiles.
  const bool split = c >= SPLIT_FROM;
  const int64_t parts = split ? std::min(threads, panels) : 1;
  // GRN's factor goes into the map of 4C channels or into the weight, whichever is smaller.
  const bool on_map = height * width < c, scaled = grn && !on_map;
  const bool whole = split || grn;  // pwconv1 of all tiles goes before pwconv2

  const int64_t positions = grid.positions();
  const int64_t seen_size = grid.seen(reach);
  const int64_t map_size = positions * panels * P;
  const int64_t h_size = positions * (whole ? hidden : std::min(CHUNK, hidden)) * P;
  const int64_t weight_size = panels * deep<T>(4 * c) * P;
  const auto bytes = [](int64_t count, int64_t size) { return up(count * size, 64); };
  const int64_t a_bytes = bytes(map_size, sizeof(value)), h_bytes = bytes(h_size, sizeof(value));
  // each tile's squares for itself: their sum does not depend on which thread did which
  const int64_t energy_bytes = grn ? bytes(grid.count() * padded, 4) : 0;
  const int64_t own = bytes(seen_size, 4) + bytes(map_size, 4);
  // one for each tile that is kept, else one for each thread
  const int64_t a_count = split ? grid.count() : threads;
  const int64_t h_count = whole ? grid.count() : threads;
  const int64_t scaled_bytes = scaled ? n * bytes(weight_size, sizeof(value)) : 0;
  char* memory = workspace.at_least(a_count * a_bytes + h_count * h_bytes + threads * own +
                                    energy_bytes + scaled_bytes);
  if (!memory) return 1;
  char* const all_a = memory;
  char* const all_h = all_a + a_count * a_bytes;
  char* const owned = all_h + h_count * h_bytes;
  float* const energy = (float*)(owned + threads * own);
  value* const weights = (value*)((char*)energy + energy_bytes);
  if (grn) std::memset(energy, 0, energy_bytes);

#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num();
    float* const seen = (float*)(owned + thread * own);
    float* const sums = (float*)((char*)seen + bytes(seen_size, 4));
    const auto a_of = [&](int64_t i) { return (value*)(all_a + (split ? i : thread) * a_bytes); };
    const auto h_of = [&](int64_t i) { return (value*)(all_h + (whole ? i : thread) * h_bytes); };
    const auto expand = [&](int64_t i, int64_t part, Ahead& ahead) {
      const Tile tile = grid[i];
      const int64_t first = hidden * part / parts, last = hidden * (part + 1) / parts;
      block.expand(tile.positions(), a_of(i), h_of(i) + first * tile.positions() * P, first, last,
                   grn ? energy + i * padded : nullptr, ahead);
    };

#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < grid.count(); i++) {
      const Tile tile = grid[i];
      value* const a = a_of(i);
      block.convolve(tile, sums, seen);
      normalise<T>(tile.positions(), c, block.eps, sums, a);
      Ahead ahead;
      if (i + threads < grid.count())
        ahead = block.ahead(grid[i + threads], hidden * cut(tile.positions(), ROWS));
      if (whole) {
        if (!split) expand(i, 0, ahead);
        continue;
      }
      for (int64_t first = 0; first < hidden; first += CHUNK) {
        const int64_t last = std::min(hidden, first + CHUNK);
        block.expand(tile.positions(), a, h_of(i), first, last, nullptr, ahead);
        block.project(tile.positions(), h_of(i), block.weight2, sums, first, last, 0, panels);
      }
      block.add(tile, sums, 0, panels);
    }
    if (split) {
#pragma omp for schedule(static) collapse(2)
      for (int64_t part = 0; part < parts; part++)
        for (int64_t i = 0; i < grid.count(); i++) {
          Ahead none;
          expand(i, part, none);
        }
    }
    if (grn) {
      // the factors 1 + gamma * norm / mean, in the place of the squares of an image's first tile
      const int64_t tiles = grid.count() / n;
#pragma omp for
      for (int64_t image = 0; image < n; image++) {
        float* e = energy + image * tiles * padded;
        double total = 0;
        for (int64_t j = 0; j < 4 * c; j++) {
          double sum = 0;
          for (int64_t i = 0; i < tiles; i++) sum += e[i * padded + j];
          e[j] = std::sqrt((float)sum);
          total += e[j];
        }
        const float mean = (float)(total / (4 * c)) + block.grn_eps;
        for (int64_t j = 0; j < 4 * c; j++) e[j] = 1 + block.gamma[j] * e[j] / mean;
      }
      if (on_map) {
#pragma omp for collapse(2)
        for (int64_t i = 0; i < grid.count(); i++)
          for (int64_t p = 0; p < hidden; p++) {
            const float* factor = energy + grid[i].n * tiles * padded + p * P;
            value* h = h_of(i) + p * grid[i].positions() * P;
            for (int64_t m = 0; m < grid[i].positions(); m++, h += P)
              for (int v = 0; v < P; v += LANES)
                T::store(h + v, T::load(h + v) * Float32::load(factor + v));
          }
      } else {
#pragma omp for collapse(2)
        for (int64_t image = 0; image < n; image++)
          for (int64_t p = 0; p < panels; p++) {
            const int64_t at = p * deep<T>(4 * c) * P;
            for (int64_t k = 0; k < deep<T>(4 * c); k += T::STEP)
              T::scale(block.weight2 + at + k * P, energy + image * tiles * padded + k,
                       weights + image * weight_size + at + k * P);
          }
      }
    }
    if (whole) {
#pragma omp for schedule(static) collapse(2)
      for (int64_t part = 0; part < parts; part++)
        for (int64_t i = 0; i < grid.count(); i++) {
          const Tile tile = grid[i];
          const int64_t m = tile.positions();
          const int64_t out = panels * part / parts, end = panels * (part + 1) / parts;
          const value* w = scaled ? weights + tile.n * weight_size : block.weight2;
          for (int64_t first = 0; first < hidden; first += CHUNK) {
            const int64_t last = std::min(hidden, first + CHUNK);
            block.project(m, h_of(i) + first * m * P, w, sums, first, last, out, end);
          }
          block.add(tile, sums, out, end);
        }
    }
  }
  return 0;
}

// LayerNorm without affine and a 2x2 convolution of stride 2: (N, H, W, C) to (N, H/2, W/2, out).
// The weights are four panelled matrices, one for each of the 2x2.
template <class T, class value = typename T::value>
int downsample(const value* x, value* y, int64_t n, int64_t height, int64_t width, int64_t c,
               int64_t out, float eps, const value* weight, const float* bias) {
  const std::lock_guard<std::mutex> guard(workspace.mutex);
  const int64_t threads = omp_get_max_threads();
  const Patches patches(n, height, width, 2);
  const int64_t share = std::min(SHARE, cut(patches.total, threads));
  const int64_t map_bytes = up(share * cut(c, P) * P * 4, 64);
  const int64_t own = 2 * map_bytes + up(share * cut(out, P) * P * 4, 64);
  char* memory = workspace.at_least(threads * own);
  if (!memory) return 1;
#pragma omp parallel num_threads(threads)
  {
    float* const map = (float*)(memory + omp_get_thread_num() * own);
    value* const a = (value*)((char*)map + map_bytes);
    float* const sums = (float*)((char*)a + map_bytes);
#pragma omp for schedule(dynamic)
    for (int64_t start = 0; start < patches.total; start += share) {
      const int64_t positions = std::min(share, patches.total - start);
      for (int64_t tap = 0; tap < 4; tap++) {
        for (int64_t m = 0; m < positions; m++) {
          const auto [image, row, column] = patches[start + m];
          const value* from = x + ((image * height + row + tap / 2) * width + column + tap % 2) * c;
          for (int64_t i = 0; i < c; i += LANES)
            Float32::store(map + (i / P * positions + m) * P + i % P, load<T>(from + i, c - i));
        }
        normalise<T>(positions, c, eps, map, a);
        product<T>(positions, a, c, weight + tap * up(out, P) * deep<T>(c), deep<T>(c), sums, out, 0,
                   cut(out, P), tap > 0);
      }
      for (int64_t m = 0; m < positions; m++)
        for (int64_t i = 0; i < out; i += LANES) {
          const vec s = Float32::load(sums + (i / P * positions + m) * P + i % P);
          store<T>(y + (start + m) * out + i, s + Float32::load(bias + i), out - i);
        }
    }
  }
  return 0;
}

// Convolution of patches and LayerNorm: images (N, C, H, W) in float32 to (N, H/p, W/p, out).
template <class T, class value = typename T::value>
int stem(const float* images, value* y, int64_t n, int64_t channels, int64_t height, int64_t width,
         int64_t patch, int64_t out, const value* weight, const float* bias,
         const float* norm_weight, const float* norm_bias, float eps) {
  const std::lock_guard<std::mutex> guard(workspace.mutex);
  const int64_t threads = omp_get_max_threads(), values = channels * patch * patch;
  const Patches patches(n, height, width, patch);
  const int64_t share = std::min(SHARE, cut(patches.total, threads));
  const int64_t pixels_bytes = up(cut(values, P) * P * 4, 64);
  const int64_t a_bytes = up(share * cut(values, P) * P * sizeof(value), 64);
  const int64_t own = pixels_bytes + a_bytes + up(share * cut(out, P) * P * 4, 64);
  char* memory = workspace.at_least(threads * own);
  if (!memory) return 1;
#pragma omp parallel num_threads(threads)
  {
    float* const pixels = (float*)(memory + omp_get_thread_num() * own);
    value* const a = (value*)((char*)pixels + pixels_bytes);
    float* const sums = (float*)((char*)a + a_bytes);
    std::memset(pixels, 0, pixels_bytes);
#pragma omp for schedule(dynamic)
    for (int64_t start = 0; start < patches.total; start += share) {
      const int64_t positions = std::min(share, patches.total - start);
      for (int64_t m = 0; m < positions; m++) {
        copy_patch(images, channels, height, width, patches[start + m], patch, pixels);
        for (int64_t i = 0; i < values; i += LANES)
          T::store(a + (i / P * positions + m) * P + i % P, Float32::load(pixels + i));
      }
      product<T>(positions, a, values, weight, deep<T>(values), sums, out, 0, cut(out, P), false);
      for (int64_t i = 0; i < out; i += LANES)
        for (int64_t m = 0; m < positions; m++) {
          float* s = sums + (i / P * positions + m) * P + i % P;
          Float32::store(s, Float32::load(s) + Float32::load(bias + i));
        }
      normalise<Float32>(positions, out, eps, sums, sums);
      for (int64_t m = 0; m < positions; m++)
        for (int64_t i = 0; i < out; i += LANES) {
          const vec s = Float32::load(sums + (i / P * positions + m) * P + i % P);
          store<T>(y + (start + m) * out + i,
                   s * Float32::load(norm_weight + i) + Float32::load(norm_bias + i), out - i);
        }
    }
  }
  return 0;
}

}  // namespace

// Each by its name and the type of its maps, as library.py calls it.
#define KERNELS(T, TYPE)                                                                        \
  int convnext_block_##TYPE(                                                                    \
      const T::value* x, T::value* y, int64_t n, int64_t height, int64_t width, int64_t c,      \
      int64_t dilation, const float* depthwise, const float* depthwise_bias, float eps,         \
      const T::value* weight1, const float* bias1, const T::value* weight2, const float* bias2, \
      const float* gamma, float grn_eps) {                                                      \
    return run(Block<T>{x, y, n, height, width, c, dilation, depthwise, depthwise_bias, eps,    \
                        weight1, bias1, weight2, bias2, gamma, grn_eps});                       \
  }                                                                                             \
  int convnext_downsample_##TYPE(const T::value* x, T::value* y, int64_t n, int64_t height,     \
                                 int64_t width, int64_t c, int64_t out, float eps,              \
                                 const T::value* weight, const float* bias) {                   \
    return downsample<T>(x, y, n, height, width, c, out, eps, weight, bias);                    \
  }                                                                                             \
  int convnext_stem_##TYPE(const float* images, T::value* y, int64_t n, int64_t channels,       \
                           int64_t height, int64_t width, int64_t patch, int64_t out,           \
                           const T::value* weight, const float* bias, const float* norm_weight, \
                           const float* norm_bias, float eps) {                                 \
    return stem<T>(images, y, n, channels, height, width, patch, out, weight, bias,             \
                   norm_weight, norm_bias, eps);                                                \
  }

extern "C" {

KERNELS(Float32, float32)
#ifdef __AVX512BF16__
KERNELS(BFloat16, bfloat16)
#endif
}
