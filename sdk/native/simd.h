// The vector instructions of one instruction set: that which this file is compiled for. `Floats` and `Sums` hold
// kLanes 32-bit numbers each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(RELSDK_AVX512_VNNI)
#define RELSDK_NAMESPACE avx512_vnni
#include <immintrin.h>
#elif defined(RELSDK_AVX_VNNI)
#define RELSDK_NAMESPACE avx_vnni
#include <immintrin.h>
#elif defined(RELSDK_AVX2)
#define RELSDK_NAMESPACE avx2
#include <immintrin.h>
#elif defined(RELSDK_NEON_DOTPROD)
#define RELSDK_NAMESPACE neon_dotprod
#include <arm_neon.h>
#else
#error "setup.py names the instruction set"
#endif

namespace relsdk {
namespace RELSDK_NAMESPACE {

inline void prefetch(const void* at) { __builtin_prefetch(at); }

// What is higher is rounded as this is: it fits 32 bits.
constexpr float kHighest = 1e9f;

// Activations are unsigned bytes; where an instruction multiplies signed ones, they are stored less this.
#if defined(RELSDK_NEON_DOTPROD)
constexpr int kStoredLess = 128;
#else
constexpr int kStoredLess = 0;
#endif

#if !defined(RELSDK_NEON_DOTPROD)

// Adds neighbours, and neighbouring sums.
inline float sum_pairs(__m256 x) {
  x = _mm256_hadd_ps(x, x);
  x = _mm256_hadd_ps(x, x);
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}

// The sum of numbers as doubles; their count is a multiple of 8.
inline double wide_sum(const float* x, int count) {
  __m256d low = _mm256_setzero_pd(), high = low;
  for (int i = 0; i < count; i += 8) {
    low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm_loadu_ps(x + i)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4)));
  }
  low = _mm256_add_pd(low, high);
  const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(low), _mm256_extractf128_pd(low, 1));
  return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

// The sum of squared distances from `mean`, in 8 sums that are halved: far ones together.
inline float sum_squares(const float* x, int count, float mean) {
  __m256 squares = _mm256_setzero_ps();
  for (int i = 0; i < count; i += 8) {
    const __m256 off = _mm256_sub_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(mean));
    squares = _mm256_fmadd_ps(off, off, squares);
  }
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(squares), _mm256_extractf128_ps(squares, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

#endif

#if defined(RELSDK_AVX512_VNNI)

constexpr int kLanes = 16;
// Rows and blocks of 16 columns that are summed at once: as many as registers hold.
constexpr int kTileRows = 8, kTileBlocks = 3;
// The same of attention's products.
constexpr int kQueries = 8, kAttentionBlocks = 2;
using Floats = __m512;
using Sums = __m512i;
using Weights = __m512i;

inline Floats load(const float* at) { return _mm512_loadu_ps(at); }
inline void store(float* at, Floats x) { _mm512_storeu_ps(at, x); }
inline Floats all(float x) { return _mm512_set1_ps(x); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline float sum(Floats x) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  return sum_pairs(half);
}
inline float largest(Floats x) { return _mm512_reduce_max_ps(x); }
inline Floats magnitude(Floats x) { return _mm512_abs_ps(x); }
inline Floats with_sign(Floats x, Floats of) { return _mm512_or_ps(x, _mm512_and_ps(of, all(-0.0f))); }
inline Floats choose_above(Floats x, float limit, Floats above, Floats other) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, all(limit), _CMP_GT_OQ), other, above);
}
inline Floats times_power(Floats x, Floats exponent) { return _mm512_scalef_ps(x, exponent); }
inline Floats from_bytes(const int8_t* at) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
}

inline Sums load(const int32_t* at) { return _mm512_loadu_si512(at); }
inline Weights load(const int8_t* at) { return _mm512_loadu_si512(at); }
inline void store(int32_t* at, Sums x) { _mm512_storeu_si512(at, x); }
inline Floats to_floats(Sums x) { return _mm512_cvtepi32_ps(x); }
inline Sums four(const uint8_t* at) {
  int32_t bytes;
  std::memcpy(&bytes, at, 4);
  return _mm512_set1_epi32(bytes);
}
template <bool narrow>
inline Sums dot(Sums sums, Sums activations, Weights weights) {
  return _mm512_dpbusd_epi32(sums, activations, weights);
}
// Rounds to the nearest, adds, saturates to 0 ... 255.
inline void store_bytes(uint8_t* at, Floats x, int zero_point) {
  x = smaller(all(kHighest), x);
  __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(zero_point));
  whole = _mm512_max_epi32(whole, _mm512_setzero_si512());
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_cvtusepi32_epi8(whole));
}

#elif !defined(RELSDK_NEON_DOTPROD)

constexpr int kLanes = 8;
constexpr int kTileRows = 4, kTileBlocks = 1;
constexpr int kQueries = 4, kAttentionBlocks = 1;
using Floats = __m256;
using Sums = __m256i;
using Weights = __m256i;

inline Floats load(const float* at) { return _mm256_loadu_ps(at); }
inline void store(float* at, Floats x) { _mm256_storeu_ps(at, x); }
inline Floats all(float x) { return _mm256_set1_ps(x); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline float sum(Floats x) { return sum_pairs(x); }
inline float largest(Floats x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
inline Floats magnitude(Floats x) { return _mm256_andnot_ps(all(-0.0f), x); }
inline Floats with_sign(Floats x, Floats of) { return _mm256_or_ps(x, _mm256_and_ps(of, all(-0.0f))); }
inline Floats choose_above(Floats x, float limit, Floats above, Floats other) {
  return _mm256_blendv_ps(other, above, _mm256_cmp_ps(x, all(limit), _CMP_GT_OQ));
}
inline Floats times_power(Floats x, Floats exponent) {
  const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(bits));
}
inline Floats from_bytes(const int8_t* at) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
}

inline Sums load(const int32_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
inline Weights load(const int8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
inline void store(int32_t* at, Sums x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); }
inline Floats to_floats(Sums x) { return _mm256_cvtepi32_ps(x); }
inline Sums four(const uint8_t* at) {
  int32_t bytes;
  std::memcpy(&bytes, at, 4);
  return _mm256_set1_epi32(bytes);
}
template <bool narrow>
inline Sums dot(Sums sums, Sums activations, Weights weights) {
#if defined(RELSDK_AVX_VNNI)
  return _mm256_dpbusd_avx_epi32(sums, activations, weights);
#else
  if (narrow) {  // two products fit 16 bits
    const __m256i pairs = _mm256_maddubs_epi16(activations, weights);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  // Even and odd bytes apart, in 16 bits: the pairs' products are added in 32.
  const __m256i low = _mm256_set1_epi16(255);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(activations, low),
                                         _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(activations, 8), _mm256_srai_epi16(weights, 8));
  return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
#endif
}
inline void store_bytes(uint8_t* at, Floats x, int zero_point) {
  x = smaller(all(kHighest), x);
  const __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(zero_point));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(at), _mm_packus_epi16(words, words));
}

#else  // NEON

constexpr int kLanes = 4;
constexpr int kTileRows = 4, kTileBlocks = 1;
constexpr int kQueries = 4, kAttentionBlocks = 1;
using Floats = float32x4_t;
using Sums = int32x4_t;
using Weights = int8x16_t;

inline Floats load(const float* at) { return vld1q_f32(at); }
inline void store(float* at, Floats x) { vst1q_f32(at, x); }
inline Floats all(float x) { return vdupq_n_f32(x); }
inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
inline Floats subtract(Floats a, Floats b) { return vsubq_f32(a, b); }
inline Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats divide(Floats a, Floats b) { return vdivq_f32(a, b); }
inline Floats larger(Floats a, Floats b) { return vmaxq_f32(a, b); }
inline Floats smaller(Floats a, Floats b) { return vminq_f32(a, b); }
inline float sum(Floats x) { return vaddvq_f32(x); }
inline float largest(Floats x) { return vmaxvq_f32(x); }
inline double wide_sum(const float* x, int count) {
  float64x2_t low = vdupq_n_f64(0.0), high = low;
  for (int i = 0; i < count; i += 4) {
    low = vaddq_f64(low, vcvt_f64_f32(vld1_f32(x + i)));
    high = vaddq_f64(high, vcvt_f64_f32(vld1_f32(x + i + 2)));
  }
  return vaddvq_f64(vaddq_f64(low, high));
}
inline float sum_squares(const float* x, int count, float mean) {
  Floats low = all(0.0f), high = low;
  for (int i = 0; i < count; i += 8) {
    const Floats first = subtract(load(x + i), all(mean)), second = subtract(load(x + i + 4), all(mean));
    low = multiply_add(first, first, low);
    high = multiply_add(second, second, high);
  }
  const float32x4_t sums = vaddq_f32(low, high);
  const float32x2_t half = vadd_f32(vget_low_f32(sums), vget_high_f32(sums));
  return vget_lane_f32(half, 0) + vget_lane_f32(half, 1);
}
inline Floats magnitude(Floats x) { return vabsq_f32(x); }
inline Floats with_sign(Floats x, Floats of) { return vbslq_f32(vdupq_n_u32(0x80000000u), of, x); }
inline Floats choose_above(Floats x, float limit, Floats above, Floats other) {
  return vbslq_f32(vcgtq_f32(x, all(limit)), above, other);
}
inline Floats times_power(Floats x, Floats exponent) {
  const int32x4_t bits = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(exponent), vdupq_n_s32(127)), 23);
  return vmulq_f32(x, vreinterpretq_f32_s32(bits));
}
inline Floats from_bytes(const int8_t* at) {
  int32_t bytes;
  std::memcpy(&bytes, at, 4);
  const int16x8_t words = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
}

inline Sums load(const int32_t* at) { return vld1q_s32(at); }
inline Weights load(const int8_t* at) { return vld1q_s8(at); }
inline void store(int32_t* at, Sums x) { vst1q_s32(at, x); }
inline Floats to_floats(Sums x) { return vcvtq_f32_s32(x); }
inline Sums four(const uint8_t* at) {
  int32_t bytes;
  std::memcpy(&bytes, at, 4);
  return vdupq_n_s32(bytes);
}
template <bool narrow>
inline Sums dot(Sums sums, Sums activations, Weights weights) {
  return vdotq_s32(sums, vreinterpretq_s8_s32(activations), weights);
}
inline void store_bytes(uint8_t* at, Floats x, int zero_point) {
  int32x4_t whole = vaddq_s32(vcvtnq_s32_f32(smaller(all(kHighest), x)), vdupq_n_s32(zero_point));
  whole = vsubq_s32(vminq_s32(vmaxq_s32(whole, vdupq_n_s32(0)), vdupq_n_s32(255)), vdupq_n_s32(kStoredLess));
  const int16x4_t words = vmovn_s32(whole);
  const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
  const int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
  std::memcpy(at, &four, 4);
}

#endif

// Below: onnxruntime's own approximations, to the last bit, since what follows rounds their results to 8 bits.

// e to the power of x, for -87 <= x <= 0, by a polynomial that starts with `coefficients` and ends in x + 1.
inline Floats exponential(Floats x, const float (&coefficients)[5]) {
  const Floats magic = all(12582912.0f);  // what is added to it loses its fraction
  const Floats whole = subtract(multiply_add(x, all(1.44269504f), magic), magic);
  x = multiply_add(whole, all(-6.93145752e-1f), x);
  x = multiply_add(whole, all(-1.42860677e-6f), x);
  Floats y = all(coefficients[0]);
  for (int i = 1; i < 5; ++i) y = multiply_add(y, x, all(coefficients[i]));
  y = multiply_add(y, x, all(1.0f));
  y = multiply_add(y, x, all(1.0f));
  return times_power(y, whole);
}

// Of softmax: e to the power of x, for x <= 0; below -87 it is that of -87.
inline Floats exponential(Floats x) {
  constexpr float kCoefficients[] = {1.37805939e-3f, 8.37312452e-3f, 4.16695364e-2f, 1.66664720e-1f, 4.99999851e-1f};
  return exponential(larger(x, all(-87.0f)), kCoefficients);
}

// x * Phi(x) by erf: near 0 a polynomial, beyond it 1 - e to the power of one.
inline Floats gelu(Floats x) {
  constexpr float kCoefficients[] = {1.38319808e-3f, 8.37550033e-3f, 4.16689515e-2f, 1.66664466e-1f, 4.99999851e-1f};
  const Floats scaled = multiply(x, all(0.70710678f));
  const Floats z = smaller(magnitude(scaled), all(3.925f));
  const Floats square = multiply(z, z);
  Floats near = all(-5.99104969e-4f);
  near = multiply_add(near, square, all(4.99339588e-3f));
  near = multiply_add(near, square, all(-2.67667342e-2f));
  near = multiply_add(near, square, all(1.12818025e-1f));
  near = multiply_add(near, square, all(-3.76124859e-1f));
  near = multiply_add(near, square, all(1.28379151e-1f));
  near = multiply_add(near, z, z);
  Floats far = all(1.72948930e-5f);
  far = multiply_add(far, z, all(-3.83208680e-4f));
  far = multiply_add(far, z, all(3.88393435e-3f));
  far = multiply_add(far, z, all(-2.42545605e-2f));
  far = multiply_add(far, z, all(1.06777847e-1f));
  far = multiply_add(far, z, all(6.34846687e-1f));
  far = multiply_add(far, z, all(1.28717512e-1f));
  far = multiply_add(far, z, z);
  far = subtract(all(1.0f), exponential(subtract(all(0.0f), far), kCoefficients));
  const Floats erf = with_sign(choose_above(z, 0.921875f, far, near), scaled);
  return multiply(multiply(x, all(0.5f)), add(erf, all(1.0f)));
}

}  // namespace RELSDK_NAMESPACE
}  // namespace relsdk
