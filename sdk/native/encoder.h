// An int8 transformer encoder as the kernels see it: pointers to the weights that the ONNX file holds, and what a
// batch of texts is. Letters: B texts, T tokens of the longest, D width, H heads, I inner width of a layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace relsdk {

// Columns that lie together in memory, four of their weights after each other: (N / 16, K / 4, 16, 4).
constexpr int kBlock = 16;

// x (M, K) unsigned bytes times weights (K, N), as real numbers: (sum - zero_point * column's sum) * columns + bias.
struct Product {
  const int8_t* weights = nullptr;
  const float* columns = nullptr;  // (N,) scales
  const float* bias = nullptr;     // (N,)
  std::vector<int32_t> start;      // (N,) what sums begin with: the zero point's part
  int rows = 0, width = 0;         // K, N
  bool narrow = false;             // two products of a byte and a weight fit 16 bits
};

// (x - mean) / deviation * gain + bias, and the same in the units of the next product's integers; none: last layer.
struct Norm {
  const float *gain = nullptr, *bias = nullptr, *unit_gain = nullptr, *unit_bias = nullptr;
};

struct Layer {
  Product attention, output, up, down;
  Norm middle, end;
  const float* inverse = nullptr;  // (I,) factors before `down`'s rounding
};

// Rows (count, D) of bytes, each with its scale.
struct Table {
  const int8_t* rows = nullptr;
  const float* scales = nullptr;
  int64_t count = 0;
};

struct Encoder {
  int width = 0, heads = 0, inner = 0;  // D, H, I
  float epsilon = 0, lowest = 0;        // of norms; of the activation's values
  bool relu = false;                    // else GELU
  int64_t padding = -1;                 // positions count what is not this token, from behind it; -1: all, from 0
  Table words, types, positions;
  Norm embedding;
  std::vector<Layer> layers;
};

// One token that is no padding: its rows in the tables, and where its vector belongs.
struct Token {
  int64_t word, type, position;
  size_t place;  // in (B * T)
};

// Texts that are computed together: their tokens, one text after the other.
struct Chunk {
  std::vector<Token> tokens;
  std::vector<size_t> ends;  // of texts, in tokens
};

// Runs task(0) ... task(count - 1), on several threads where there are any.
struct Threads {
  void (*run)(void* self, size_t count, void (*task)(void*, size_t), void* data);
  void* self;
};

// Memory that is kept from run to run.
using Arena = std::vector<float>;

// Returns room for so many numbers. Not inline: code that all instruction sets share must need none of them.
float* grow(Arena& arena, size_t count);

// Computes the last layer's vectors (B, T, D) of a chunk's tokens; leaves other rows alone.
using Encode = void (*)(const Encoder&, const Chunk&, const Threads&, Arena&, float* hidden);

namespace avx512_vnni { void encode(const Encoder&, const Chunk&, const Threads&, Arena&, float*); }
namespace avx_vnni { void encode(const Encoder&, const Chunk&, const Threads&, Arena&, float*); }
namespace avx2 { void encode(const Encoder&, const Chunk&, const Threads&, Arena&, float*); }
namespace neon_dotprod { void encode(const Encoder&, const Chunk&, const Threads&, Arena&, float*); }

}  // namespace relsdk
