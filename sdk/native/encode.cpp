// An encoder's layers for one instruction set; compiled once for each. A token's numbers are computed in the same
// order whatever is computed beside it: alone or in a batch, a text has the same vector, to the last bit.
#include "encoder.h"
#include "simd.h"

#include <algorithm>
#include <cmath>

namespace relsdk {
namespace RELSDK_NAMESPACE {
namespace {

// Rows that go through a layer together, so that what lies between its products stays in the cache.
constexpr size_t kRows = 64;
constexpr int kPanel = kTileBlocks * kBlock;
constexpr int kVectors = kBlock / kLanes;

// Sums stay in registers only where loops over them are unrolled.
#if defined(__clang__)
#define RELSDK_UNROLL _Pragma("unroll")
#else
#define RELSDK_UNROLL _Pragma("GCC unroll 16")
#endif

// Sums of rows x blocks * 16 columns: (rows, blocks * 16) int32.
template <int rows, int blocks, bool narrow>
void sum_tile(const uint8_t* x, size_t stride, const Product& product, int column, int32_t* result) {
  constexpr int vectors = blocks * kVectors;
  const int steps = product.rows / 4;
  const int8_t* weights = product.weights + static_cast<size_t>(column) * product.rows;
  const size_t block_stride = static_cast<size_t>(kBlock) * product.rows;
  Sums sums[rows][vectors];
  RELSDK_UNROLL
  for (int r = 0; r < rows; ++r) {
    RELSDK_UNROLL
    for (int v = 0; v < vectors; ++v) sums[r][v] = load(product.start.data() + column + v * kLanes);
  }
  for (int step = 0; step < steps; ++step) {
    Weights columns[vectors];
    RELSDK_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const int8_t* at = weights + (v / kVectors) * block_stride + step * 4 * kBlock + (v % kVectors) * 4 * kLanes;
      columns[v] = load(at);
      if (v % kVectors == 0) prefetch(at + blocks * block_stride);  // of the columns, or the product, that follows
    }
    RELSDK_UNROLL
    for (int r = 0; r < rows; ++r) {
      const Sums activations = four(x + r * stride + step * 4);
      RELSDK_UNROLL
      for (int v = 0; v < vectors; ++v) sums[r][v] = dot<narrow>(sums[r][v], activations, columns[v]);
    }
  }
  RELSDK_UNROLL
  for (int r = 0; r < rows; ++r) {
    RELSDK_UNROLL
    for (int v = 0; v < vectors; ++v) store(result + (r * vectors + v) * kLanes, sums[r][v]);
  }
}

using SumTile = void (*)(const uint8_t*, size_t, const Product&, int, int32_t*);

template <int rows, int blocks>
SumTile one_tile(bool narrow) {
  return narrow ? sum_tile<rows, blocks, true> : sum_tile<rows, blocks, false>;
}

template <int rows>
SumTile choose_blocks(int blocks, bool narrow) {
  if constexpr (kTileBlocks >= 3) {
    if (blocks == 3) return one_tile<rows, 3>(narrow);
    if (blocks == 2) return one_tile<rows, 2>(narrow);
  }
  return one_tile<rows, 1>(narrow);
}

SumTile choose_tile(size_t rows, int blocks, bool narrow) {
  if constexpr (kTileRows >= 8) {
    if (rows == 8) return choose_blocks<8>(blocks, narrow);
    if (rows == 7) return choose_blocks<7>(blocks, narrow);
    if (rows == 6) return choose_blocks<6>(blocks, narrow);
    if (rows == 5) return choose_blocks<5>(blocks, narrow);
  }
  if (rows == 4) return choose_blocks<4>(blocks, narrow);
  if (rows == 3) return choose_blocks<3>(blocks, narrow);
  if (rows == 2) return choose_blocks<2>(blocks, narrow);
  return choose_blocks<1>(blocks, narrow);
}

template <class Task>
void in_parallel(const Threads* threads, size_t count, Task&& task) {
  if (threads == nullptr || count < 2) {
    for (size_t i = 0; i < count; ++i) task(i);
    return;
  }
  threads->run(threads->self, count, [](void* data, size_t i) { (*static_cast<Task*>(data))(i); }, &task);
}

// Gives `finish` the real numbers of a product: (row, column, vector of kLanes columns).
template <class Finish>
void multiply_rows(const Product& product, const uint8_t* x, size_t count, const Threads* threads, Finish&& finish) {
  const size_t panels = (product.width + kPanel - 1) / kPanel;
  in_parallel(threads, panels, [&](size_t panel) {
    alignas(64) int32_t sums[kTileRows * kPanel];
    const int column = static_cast<int>(panel) * kPanel;
    const int blocks = std::min(kPanel, product.width - column) / kBlock;
    for (size_t row = 0; row < count; row += kTileRows) {
      const size_t rows = std::min<size_t>(kTileRows, count - row);
      const uint8_t* start = x + row * product.rows;
      choose_tile(rows, blocks, product.narrow)(start, product.rows, product, column, sums);
      for (int v = 0; v < blocks * kVectors; ++v) {
        const int at = column + v * kLanes;
        const Floats scale = load(product.columns + at);
        for (size_t r = 0; r < rows; ++r) {
          finish(row + r, at, multiply(to_floats(load(sums + (r * blocks * kVectors + v) * kLanes)), scale));
        }
      }
    }
  });
}

// Normalises a row in place and writes it in the next product's units.
void normalise(const Encoder& encoder, const Norm& norm, float* row, uint8_t* units) {
  const int width = encoder.width;
  const float mean = static_cast<float>(wide_sum(row, width) / width);
  const Floats inverse = all(1.0f / std::sqrt(sum_squares(row, width, mean) / width + encoder.epsilon));
  for (int i = 0; i < width; i += kLanes) {
    const Floats x = multiply(subtract(load(row + i), all(mean)), inverse);
    store(row + i, multiply_add(x, load(norm.gain + i), load(norm.bias + i)));
    if (norm.unit_gain == nullptr) continue;
    store_bytes(units + i, multiply_add(x, load(norm.unit_gain + i), load(norm.unit_bias + i)), 128);
  }
}

void embed(const Encoder& encoder, const Chunk& chunk, float* hidden, uint8_t* units) {
  for (size_t row = 0; row < chunk.tokens.size(); ++row) {
    const Token& token = chunk.tokens[row];
    float* out = hidden + row * encoder.width;
    const int8_t* word = encoder.words.rows + token.word * encoder.width;
    const int8_t* type = encoder.types.rows + token.type * encoder.width;
    const int8_t* position = encoder.positions.rows + token.position * encoder.width;
    const Floats word_scale = all(encoder.words.scales[token.word]);
    const Floats type_scale = all(encoder.types.scales[token.type]);
    const Floats position_scale = all(encoder.positions.scales[token.position]);
    for (int i = 0; i < encoder.width; i += kLanes) {
      Floats x = multiply(from_bytes(word + i), word_scale);
      x = add(x, multiply(from_bytes(type + i), type_scale));
      store(out + i, add(x, multiply(from_bytes(position + i), position_scale)));
    }
    normalise(encoder, encoder.embedding, out, units + row * encoder.width);
  }
}

// Products of `rows` rows x (rows, depth) with y (depth, ...), for `vectors` vectors of columns.
template <int rows, int vectors>
inline void multiply_floats(const float* x, size_t x_stride, const float* y, size_t y_stride, size_t depth,
                            Floats (&sums)[rows][vectors]) {
  RELSDK_UNROLL
  for (int r = 0; r < rows; ++r) {
    RELSDK_UNROLL
    for (int v = 0; v < vectors; ++v) sums[r][v] = all(0.0f);
  }
  for (size_t d = 0; d < depth; ++d) {
    Floats columns[vectors];
    RELSDK_UNROLL
    for (int v = 0; v < vectors; ++v) columns[v] = load(y + d * y_stride + v * kLanes);
    RELSDK_UNROLL
    for (int r = 0; r < rows; ++r) {
      const Floats one = all(x[r * x_stride + d]);
      RELSDK_UNROLL
      for (int v = 0; v < vectors; ++v) sums[r][v] = multiply_add(one, columns[v], sums[r][v]);
    }
  }
}

// Scores of `rows` queries with `blocks` * 16 keys: queries (rows, size), keys (size, padded).
template <int rows, int blocks>
void score(const float* queries, size_t stride, const float* keys, size_t padded, size_t size, float scale,
           float* scores) {
  constexpr int vectors = blocks * kVectors;
  Floats sums[rows][vectors];
  multiply_floats<rows, vectors>(queries, stride, keys, padded, size, sums);
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) store(scores + r * padded + v * kLanes, multiply(sums[r][v], all(scale)));
}

// Softmax of a row of `count` scores, in place; what pads it to `padded` becomes 0.
void share(float* row, size_t count, size_t padded) {
  for (size_t i = count; i < padded; ++i) row[i] = -3.0e38f;
  Floats highest = load(row);
  for (size_t i = kLanes; i < padded; i += kLanes) highest = larger(highest, load(row + i));
  const Floats high = all(largest(highest));
  Floats total = all(0.0f);
  for (size_t i = 0; i < padded; i += kLanes) {
    const Floats x = exponential(subtract(load(row + i), high));
    store(row + i, x);
    total = add(total, x);
  }
  const Floats part = all(1.0f / sum(total));
  for (size_t i = 0; i < padded; i += kLanes) store(row + i, multiply(load(row + i), part));
}

// Means of values (count, size), weighted by `rows` rows of shares, rounded; summed `slice` values at a time.
template <int rows, int blocks>
void mix(const float* shares, size_t padded, const float* values, size_t stride, size_t count, size_t slice,
         uint8_t* units, size_t width) {
  constexpr int vectors = blocks * kVectors;
  Floats sums[rows][vectors];
  multiply_floats<rows, vectors>(shares, padded, values, stride, std::min(count, slice), sums);
  for (size_t start = slice; start < count; start += slice) {
    Floats more[rows][vectors];
    multiply_floats<rows, vectors>(shares + start, padded, values + start * stride, stride,
                                   std::min(count - start, slice), more);
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < vectors; ++v) sums[r][v] = add(sums[r][v], more[r][v]);
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) store_bytes(units + r * width + v * kLanes, sums[r][v], 128);
}

// One head's attention over a text of `count` tokens.
struct Head {
  const float *queries, *keys, *values;  // queries and values (count, stride), keys (size, padded)
  size_t stride, count, padded, size, slice, width;
  float scale;
};

template <int rows>
void attend_rows(const Head& head, size_t row, float* scores, uint8_t* units) {
  const float* queries = head.queries + row * head.stride;
  size_t column = 0;
  for (; column + kAttentionBlocks * kBlock <= head.padded; column += kAttentionBlocks * kBlock)
    score<rows, kAttentionBlocks>(queries, head.stride, head.keys + column, head.padded, head.size, head.scale,
                                  scores + column);
  for (; column < head.padded; column += kBlock)
    score<rows, 1>(queries, head.stride, head.keys + column, head.padded, head.size, head.scale, scores + column);
  for (int r = 0; r < rows; ++r) share(scores + r * head.padded, head.count, head.padded);
  uint8_t* to = units + row * head.width;
  for (column = 0; column + kAttentionBlocks * kBlock <= head.size; column += kAttentionBlocks * kBlock)
    mix<rows, kAttentionBlocks>(scores, head.padded, head.values + column, head.stride, head.count, head.slice,
                                to + column, head.width);
  for (; column < head.size; column += kBlock)
    mix<rows, 1>(scores, head.padded, head.values + column, head.stride, head.count, head.slice, to + column,
                 head.width);
}

template <int rows>
void attend_some(size_t wanted, const Head& head, size_t row, float* scores, uint8_t* units) {
  if (wanted == rows) return attend_rows<rows>(head, row, scores, units);
  if constexpr (rows > 1) attend_some<rows - 1>(wanted, head, row, scores, units);
}

// Floats that one head's attention over a text of `count` tokens needs.
size_t attention_floats(size_t count, size_t size) {
  const size_t padded = (count + kBlock - 1) / kBlock * kBlock;
  return padded * (size + kQueries);
}

// One head's attention over a text: x (count, 3 D) holds queries, keys, values; units (count, D).
void attend(const Encoder& encoder, const float* x, size_t count, int head, float* memory, uint8_t* units) {
  const size_t width = encoder.width, stride = 3 * width, size = width / encoder.heads;
  const size_t padded = (count + kBlock - 1) / kBlock * kBlock;
  float* keys = memory;  // (size, padded)
  float* scores = memory + padded * size;
  const float* queries = x + head * size;
  for (size_t i = 0; i < count; ++i) {
    const float* key = queries + width + i * stride;
    for (size_t d = 0; d < size; ++d) keys[d * padded + i] = key[d];
  }
  for (size_t d = 0; d < size; ++d)
    for (size_t i = count; i < padded; ++i) keys[d * padded + i] = 0.0f;
  size_t slice = 1024;  // onnxruntime's: the fewer, the wider heads are
  while (slice > 128 && slice * size > 1024 * kBlock) slice /= 2;
  const float scale = 1.0f / std::sqrt(static_cast<float>(size));
  const Head one{queries, keys, queries + 2 * width, stride, count, padded, size, slice, width, scale};
  for (size_t row = 0; row < count; row += kQueries)
    attend_some<kQueries>(std::min<size_t>(kQueries, count - row), one, row, scores, units + head * size);
}

// Rounds a row (I,) by its own largest value; returns one step of its integers times 255.
float round_row(const float* row, size_t width, uint8_t* units) {
  Floats highest = all(1e-12f);
  for (size_t i = 0; i < width; i += kLanes) highest = larger(highest, load(row + i));
  const float top = largest(highest);
  const Floats steps = all(1.0f / 255.0f);
  for (size_t i = 0; i < width; i += kLanes)
    store_bytes(units + i, divide(divide(load(row + i), all(top)), steps), 0);
  return top;
}

// What follows a layer's attention, for `count` rows: `units` holds its outcome, and then the next layer's input.
void finish_layer(const Encoder& encoder, const Layer& layer, float* hidden, uint8_t* units, size_t count,
                  float* wide, uint8_t* wide_units, const Threads* threads) {
  const size_t width = encoder.width, inner = encoder.inner;
  multiply_rows(layer.output, units, count, threads, [&](size_t row, int column, Floats x) {
    float* at = hidden + row * width + column;
    store(at, add(add(x, load(layer.output.bias + column)), load(at)));
  });
  for (size_t row = 0; row < count; ++row) normalise(encoder, layer.middle, hidden + row * width, units + row * width);
  const Floats lowest = all(encoder.lowest);
  multiply_rows(layer.up, units, count, threads, [&](size_t row, int column, Floats x) {
    x = add(x, load(layer.up.bias + column));
    x = encoder.relu ? larger(x, all(0.0f)) : gelu(x);
    store(wide + row * inner + column, multiply(subtract(x, lowest), load(layer.inverse + column)));
  });
  float tops[kRows];
  for (size_t row = 0; row < count; ++row) tops[row] = round_row(wide + row * inner, inner, wide_units + row * inner);
  multiply_rows(layer.down, wide_units, count, threads, [&](size_t row, int column, Floats x) {
    float* at = hidden + row * width + column;
    store(at, add(add(multiply(x, all(tops[row])), load(layer.down.bias + column)), load(at)));
  });
  for (size_t row = 0; row < count; ++row) normalise(encoder, layer.end, hidden + row * width, units + row * width);
}

}  // namespace

void encode(const Encoder& encoder, const Chunk& chunk, const Threads& shared, Arena& arena, float* result) {
  const size_t count = chunk.tokens.size(), width = encoder.width, inner = encoder.inner;
  const size_t size = width / encoder.heads, texts = chunk.ends.size();
  size_t longest = 0;
  for (size_t text = 0; text < texts; ++text)
    longest = std::max(longest, chunk.ends[text] - (text > 0 ? chunk.ends[text - 1] : 0));
  const Threads* threads = shared.run == nullptr ? nullptr : &shared;
  const size_t block = std::min(count, kRows);
  const size_t per_head = attention_floats(longest, size);
  const size_t parts[] = {count * width, count * 3 * width, (count * width + 3) / 4, block * inner,
                          (block * inner + 3) / 4, per_head * encoder.heads};
  size_t needed = 0;
  for (const size_t part : parts) needed += (part + kBlock - 1) / kBlock * kBlock;
  float* next = grow(arena, needed);
  float* places[6];
  for (int i = 0; i < 6; ++i) {
    places[i] = next;
    next += (parts[i] + kBlock - 1) / kBlock * kBlock;
  }
  float *hidden = places[0], *mixed = places[1], *wide = places[3], *memory = places[5];
  auto* units = reinterpret_cast<uint8_t*>(places[2]);
  auto* wide_units = reinterpret_cast<uint8_t*>(places[4]);

  embed(encoder, chunk, hidden, units);
  for (const Layer& layer : encoder.layers) {
    for (size_t row = 0; row < count; row += kRows) {
      const size_t rows = std::min(kRows, count - row);
      multiply_rows(layer.attention, units + row * width, rows, threads, [&](size_t r, int column, Floats x) {
        store(mixed + (row + r) * 3 * width + column, add(x, load(layer.attention.bias + column)));
      });
    }
    in_parallel(threads, encoder.heads, [&](size_t head) {
      size_t start = 0;
      for (const size_t end : chunk.ends) {
        attend(encoder, mixed + start * 3 * width, end - start, static_cast<int>(head), memory + head * per_head,
               units + start * width);
        start = end;
      }
    });
    for (size_t row = 0; row < count; row += kRows) {
      const size_t rows = std::min(kRows, count - row);
      finish_layer(encoder, layer, hidden + row * width, units + row * width, rows, wide, wide_units, threads);
    }
  }
  for (size_t row = 0; row < count; ++row)
    std::memcpy(result + chunk.tokens[row].place * width, hidden + row * width, width * sizeof(float));
}

}  // namespace RELSDK_NAMESPACE
}  // namespace relsdk
