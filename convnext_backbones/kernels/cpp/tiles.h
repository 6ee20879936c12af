// What the kernels share: how a map is cut into tiles, and the memory that they work in.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>

namespace {

constexpr int64_t KERNEL = 7;  // of the depthwise convolution

int64_t up(int64_t a, int64_t to) { return (a + to - 1) / to * to; }
int64_t cut(int64_t a, int64_t by) { return (a + by - 1) / by; }

// Where a tile lies: positions [row, row + rows) x [column, column + columns) of image n.
struct Tile {
  int64_t n, row, column, rows, columns;
  int64_t positions() const { return rows * columns; }
};

// Tiles of about so many positions, `strip` of which are convolved together; of as many rows each, or
// one more.
struct Grid {
  static constexpr int64_t TILE_WIDTH = 32;  // about
  int64_t height, width, columns, down, across, images;
  Grid(int64_t n, int64_t h, int64_t w, int64_t positions, int64_t strip, int64_t threads)
      : height(h), width(w), images(n) {
    columns = std::min(w, up(cut(w, cut(w, TILE_WIDTH)), strip));
    across = cut(w, columns);
    down = cut(h, std::max<int64_t>(1, positions / columns));
    // Every thread should have the same number of tiles, or many.
    while (down < h && count() % threads && count() < 16 * threads) down++;
  }
  int64_t count() const { return images * down * across; }
  int64_t rows() const { return cut(height, down); }              // of a tile, at most
  int64_t positions() const { return rows() * columns; }
  Tile operator[](int64_t i) const {
    const int64_t n = i / (down * across), r = i / across % down, c = i % across * columns;
    const int64_t first = height * r / down, last = height * (r + 1) / down;
    return {n, first, c, last - first, std::min(columns, width - c)};
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
