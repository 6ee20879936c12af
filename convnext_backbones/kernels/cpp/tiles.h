// What the kernels share: how values are read, how a map is cut into tiles and patches, the depthwise
// convolution of a tile, and the memory that they work in. library.py gives LANES, the values of a
// vector, and WIDTH, the columns to which a matrix is padded.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

constexpr int P = WIDTH;
constexpr int64_t KERNEL = 7;  // of the depthwise convolution
constexpr int64_t STRIP = 8;   // positions of a row that are convolved together

int64_t up(int64_t a, int64_t to) { return (a + to - 1) / to * to; }
int64_t cut(int64_t a, int64_t by) { return (a + by - 1) / by; }

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef float loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
#define ALWAYS inline __attribute__((always_inline))

ALWAYS vec all(float value) { return value - vec{}; }

// How values of a type are read, written and multiplied. A word is what one step of a product takes
// of a row: STEP values.
struct Float32 {
  using value = float;
  using word = float;
  static constexpr int STEP = 1;
  static ALWAYS vec load(const value* p) { return *(const loose*)p; }
  static ALWAYS void store(value* p, vec x) { *(loose*)p = x; }
  static ALWAYS vec words(const word* p) { return *(const loose*)p; }
  static ALWAYS vec product(word a, vec w, vec sum) { return all(a) * w + sum; }
  // a row of a weight's panel times the factor of what it multiplies
  static void scale(const value* from, const float* factor, value* to) {
    for (int i = 0; i < P; i += LANES) store(to + i, load(from + i) * all(*factor));
  }
};

#ifdef __AVX512BF16__
struct BFloat16 {
  using value = uint16_t;
  using word = uint32_t;
  static constexpr int STEP = 2;
  static ALWAYS vec load(const value* p) {
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
  }
  static ALWAYS void store(value* p, vec x) {
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh((__m512)x));
  }
  static ALWAYS __m512i words(const word* p) { return _mm512_loadu_si512(p); }
  static ALWAYS vec product(word a, __m512i w, vec sum) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)w);
  }
  static void scale(const value* from, const float* factor, value* to) {
    const __m512 pair = _mm512_castpd_ps(_mm512_set1_pd(*(const double*)factor));
    for (int i = 0; i < 2 * P; i += LANES)
      store(to + i, (vec)_mm512_mul_ps(pair, (__m512)load(from + i)));
  }
};
#endif

// The first n values; zeros for the rest of a vector.
template <class T>
ALWAYS vec load(const typename T::value* p, int64_t n) {
  if (n >= LANES) return T::load(p);
  typename T::value padded[LANES] = {};
  std::memcpy(padded, p, std::max<int64_t>(n, 0) * sizeof *p);
  return T::load(padded);
}
template <class T>
ALWAYS void store(typename T::value* p, vec x, int64_t n) {
  if (n >= LANES) return T::store(p, x);
  typename T::value padded[LANES];
  T::store(padded, x);
  std::memcpy(p, padded, std::max<int64_t>(n, 0) * sizeof *p);
}

// Where a tile lies: positions [row, row + rows) x [column, column + columns) of image n.
struct Tile {
  int64_t n, row, column, rows, columns;
  int64_t positions() const { return rows * columns; }
};

// Tiles of about so many positions; of as many rows each, or one more.
struct Grid {
  static constexpr int64_t TILE_WIDTH = 32;  // about
  int64_t height, width, columns, down, across, images;
  Grid(int64_t n, int64_t h, int64_t w, int64_t positions, int64_t threads)
      : height(h), width(w), images(n) {
    columns = std::min(w, up(cut(w, cut(w, TILE_WIDTH)), STRIP));
    across = cut(w, columns);
    down = cut(h, std::max<int64_t>(1, positions / columns));
    // Every thread should have the same number of tiles, or many.
    while (down < h && count() % threads && count() < 16 * threads) down++;
  }
  int64_t count() const { return images * down * across; }
  int64_t rows() const { return cut(height, down); }  // of a tile, at most
  int64_t positions() const { return rows() * columns; }
  int64_t seen(int64_t reach) const {  // values that LANES channels of a tile are convolved from
    return (rows() + 2 * reach) * (up(columns, STRIP) + 2 * reach) * LANES;
  }
  Tile operator[](int64_t i) const {
    const int64_t n = i / (down * across), r = i / across % down, c = i % across * columns;
    const int64_t first = height * r / down, last = height * (r + 1) / down;
    return {n, first, c, last - first, std::min(columns, width - c)};
  }
};

// The depthwise convolution of a tile of x, (N, H, W, C), LANES channels at a time: `put(m, first,
// sums)` for position m of the tile and the channels from `first` on. taps, bias:
// [C / LANES][49][LANES], [C / LANES][LANES]. seen: memory, see Grid::seen.
template <class T, class Put>
void convolve(const typename T::value* x, int64_t height, int64_t width, int64_t c, const Tile& t,
              int64_t dilation, const float* taps, const float* bias, float* seen, const Put& put) {
  const int64_t reach = dilation * (KERNEL / 2);
  const int64_t seen_width = up(t.columns, STRIP) + 2 * reach, seen_rows = t.rows + 2 * reach;
  for (int64_t first = 0; first < c; first += LANES, taps += KERNEL * KERNEL * LANES) {
    for (int64_t r = 0; r < seen_rows; r++) {
      float* s = seen + r * seen_width * LANES;
      const int64_t row = t.row + r - reach;
      if (row < 0 || row >= height) {
        std::memset(s, 0, seen_width * LANES * 4);
        continue;
      }
      const auto* from = x + (t.n * height + row) * width * c + first;
      const int64_t left = t.column - reach;
      const int64_t start = std::max<int64_t>(0, -left);
      const int64_t end = std::max(start, std::min(seen_width, width - left));
      std::memset(s, 0, start * LANES * 4);
      if (c - first >= LANES)
        for (int64_t i = start; i < end; i++)
          Float32::store(s + i * LANES, T::load(from + (left + i) * c));
      else
        for (int64_t i = start; i < end; i++)
          Float32::store(s + i * LANES, load<T>(from + (left + i) * c, c - first));
      std::memset(s + end * LANES, 0, (seen_width - end) * LANES * 4);
    }
    const vec start = Float32::load(bias + first);
    for (int64_t r = 0; r < t.rows; r++) {
      for (int64_t column = 0; column < t.columns; column += STRIP) {
        vec sum[STRIP];
#pragma GCC unroll 8
        for (int i = 0; i < STRIP; i++) sum[i] = start;
        for (int64_t ky = 0; ky < KERNEL; ky++) {
          const float* s = seen + ((r + ky * dilation) * seen_width + column) * LANES;
          const float* row = taps + ky * KERNEL * LANES;
          if (dilation == 1) {  // each value is read once
            vec tap[KERNEL];
#pragma GCC unroll 7
            for (int i = 0; i < KERNEL; i++) tap[i] = Float32::load(row + i * LANES);
#pragma GCC unroll 14
            for (int j = 0; j < STRIP + KERNEL - 1; j++) {
              const vec value = Float32::load(s + j * LANES);
#pragma GCC unroll 8
              for (int i = 0; i < STRIP; i++)
                if (j - i >= 0 && j - i < KERNEL) sum[i] += value * tap[j - i];
            }
            continue;
          }
          for (int64_t kx = 0; kx < KERNEL; kx++, s += dilation * LANES) {
            const vec tap = Float32::load(row + kx * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < STRIP; i++) sum[i] += Float32::load(s + i * LANES) * tap;
          }
        }
#pragma GCC unroll 8
        for (int i = 0; i < STRIP; i++)
          if (column + i < t.columns) put(r * t.columns + column + i, first, sum[i]);
      }
    }
  }
}

// The patches of size x size pixels that a stem or a downsampling sees of (N, .., H, W) maps, in order.
struct Patches {
  struct Corner {
    int64_t image, row, column;
  };
  int64_t size, down, across, total;
  Patches(int64_t n, int64_t height, int64_t width, int64_t size)
      : size(size), down(height / size), across(width / size), total(n * down * across) {}
  Corner operator[](int64_t i) const {
    return {i / (down * across), i / across % down * size, i % across * size};
  }
};

// A patch of images, (N, C, H, W), as C * size * size values in a row.
void copy_patch(const float* images, int64_t channels, int64_t height, int64_t width,
                const Patches::Corner& corner, int64_t size, float* to) {
  for (int64_t channel = 0; channel < channels; channel++) {
    const float* from = images + ((corner.image * channels + channel) * height + corner.row) * width +
                        corner.column;
    for (int64_t r = 0; r < size; r++, from += width, to += size) {
      if (size == 4) _mm_storeu_ps(to, _mm_loadu_ps(from));
      else std::memcpy(to, from, size * 4);
    }
  }
}

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
