#include "tracelet/histogram/kernel.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

// Vectors are those of GCC and Clang, which both compile for whatever the function's target has; a
// vector wider than that would be taken apart into scalars. Everything is inlined into functions of
// one target, so no code of a wide target can end up in one that runs everywhere.
// https://gcc.gnu.org/onlinedocs/gcc/Vector-Extensions.html
#define TRACELET_INLINE static inline __attribute__((always_inline))

namespace tracelet {
namespace {

template <int N>
struct Lanes {
  typedef float Float __attribute__((vector_size(4 * N)));
  typedef std::int32_t Int __attribute__((vector_size(4 * N)));
  typedef double Double __attribute__((vector_size(4 * N)));  // half as many
};

// N values as float32, rounded; -0.0 is 0.0 then, for which the sign bit would lie.
template <int N>
TRACELET_INLINE auto load_approximately(const float* values) {
  typename Lanes<N>::Float loaded;
  std::memcpy(&loaded, values, sizeof(loaded));
  return loaded + 0.0F;
}

// Here the zero is added before: a double that rounds to -0.0 as a float is below zero.
template <int N>
TRACELET_INLINE auto load_approximately(const double* values) {
  typename Lanes<N>::Float rounded;
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) rounded[i] = static_cast<float>(values[i] + 0.0);
  return rounded;
}

template <int N, Guess::Kind kKind>
TRACELET_INLINE auto guess_cells(typename Lanes<N>::Float x, const Guess& guess) {
  using Float = typename Lanes<N>::Float;
  using Int = typename Lanes<N>::Int;
  const Int bits = std::bit_cast<Int>(x);
  Float position;
  if constexpr (kKind == Guess::Kind::kLogarithmic) {
    const Float logarithm = __builtin_convertvector(bits & 0x7fffffff, Float);
    const Float mantissa = std::bit_cast<Float>((bits & 0x007fffff) | 0x3f800000);
    Float correction = mantissa * guess.polynomial[5] + guess.polynomial[4];
    correction = correction * mantissa + guess.polynomial[3];
    correction = correction * mantissa + guess.polynomial[2];
    correction = correction * mantissa + guess.polynomial[1];
    correction = correction * mantissa + guess.polynomial[0];
    position = logarithm * guess.scale + correction;
  } else {
    position = x * guess.scale + guess.offset;
    // In this form NaN becomes the highest.
    const Float highest = Float{} + guess.highest;
    position = position < highest ? position : highest;
  }
  // As vectors on both sides: else compilers make a comparison and a blend of it.
  const Float lowest = Float{} + guess.lowest;
  position = position > lowest ? position : lowest;
  const Int fixed = __builtin_convertvector(position, Int);
  // All ones where no bit is left. By arithmetic: compilers make slow blends of a comparison.
  const Int is_ambiguous = ((fixed & guess.ambiguous_mask) - 1) >> 31;
  Int cell = (fixed >> guess.fraction_bits) | is_ambiguous;
  if constexpr (kKind == Guess::Kind::kLogarithmic) cell ^= bits >> 31;
  struct Result {
    Int cell;
    Int is_ambiguous;
  };
  return Result{cell, is_ambiguous};
}

// Halved until it is two words: an OR of the lanes one by one takes as long as the guesses of some.
template <int N>
TRACELET_INLINE bool any(typename Lanes<N>::Int mask) {
  if constexpr (N > 4) {
    typename Lanes<N / 2>::Int halves[2];
    std::memcpy(halves, &mask, sizeof(mask));
    return any<N / 2>(halves[0] | halves[1]);
  } else {
    std::uint64_t words[2];
    std::memcpy(words, &mask, sizeof(mask));
    return (words[0] | words[1]) != 0;
  }
}

template <int N>
TRACELET_INLINE void count_lanes(const std::int32_t* cells, std::uint32_t* table_0,
                                 std::uint32_t* table_1, std::uint32_t* table_2,
                                 std::uint32_t* table_3) {
#pragma GCC unroll 4
  for (int i = 0; i < N; i += 4) {
    ++table_0[cells[i]];
    ++table_1[cells[i + 1]];
    ++table_2[cells[i + 2]];
    ++table_3[cells[i + 3]];
  }
}

template <int N, Guess::Kind kKind, typename Float>
TRACELET_INLINE std::uint32_t guess_some(const Float* values, std::size_t count, const Guess& given,
                                         std::int32_t* cells) {
  using Int = typename Lanes<N>::Int;
  const Guess guess = given;
  std::uint32_t groups = 0;
  for (std::size_t start = 0; start < count; start += kGroupElements) {
    const std::size_t end = start + kGroupElements < count ? start + kGroupElements : count;
    Int ambiguous{};
    std::size_t i = start;
    for (; i + N <= end; i += N) {
      const auto guessed = guess_cells<N, kKind>(load_approximately<N>(values + i), guess);
      std::memcpy(cells + i, &guessed.cell, sizeof(guessed.cell));
      ambiguous |= guessed.is_ambiguous;
    }
    if (i < end) {
      Float padded[N] = {};
      std::memcpy(padded, values + i, (end - i) * sizeof(Float));
      const auto guessed = guess_cells<N, kKind>(load_approximately<N>(padded), guess);
      std::memcpy(cells + i, &guessed.cell, (end - i) * sizeof(std::int32_t));
      ambiguous |= guessed.is_ambiguous;  // that of a padding zero does no harm
    }
    groups |= std::uint32_t{any<N>(ambiguous)} << (start / kGroupElements);
  }
  return groups;
}

// A block is a page or two, and that is how far the processor looks ahead by itself. Past the end
// of the array this asks for nothing that matters, and never faults.
template <typename Float>
TRACELET_INLINE void prefetch(const Float* values, std::size_t count) {
  constexpr std::size_t kLineElements = 64 / sizeof(Float);
#pragma GCC unroll 16
  for (std::size_t i = 0; i < count; i += kLineElements) __builtin_prefetch(values + i);
}

template <int N, Guess::Kind kKind, typename Float>
TRACELET_INLINE std::uint32_t guess_and_count_block(const Float* values, const Guess& given,
                                                    std::int32_t* cells,
                                                    const std::int32_t* previous,
                                                    const CellTables& tables) {
  using Int = typename Lanes<N>::Int;
  const Guess guess = given;
  const auto [table_0, table_1, table_2, table_3] = tables.cell_0;
  std::uint32_t groups = 0;
  for (std::size_t start = 0; start < kBlockElements; start += kGroupElements) {
    prefetch(values + start + kBlockElements, kGroupElements);
    Int ambiguous{};
    for (std::size_t i = start; i < start + kGroupElements; i += N) {
      const auto guessed = guess_cells<N, kKind>(load_approximately<N>(values + i), guess);
      std::memcpy(cells + i, &guessed.cell, sizeof(guessed.cell));
      ambiguous |= guessed.is_ambiguous;
      count_lanes<N>(previous + i, table_0, table_1, table_2, table_3);
    }
    groups |= std::uint32_t{any<N>(ambiguous)} << (start / kGroupElements);
  }
  return groups;
}

// N / 2 values as double.
template <int N, typename T>
TRACELET_INLINE auto load_half(const T* values) {
  typename Lanes<N>::Double loaded;
#pragma GCC unroll 8
  for (int i = 0; i < N / 2; ++i) loaded[i] = static_cast<double>(values[i]);
  return loaded;
}

// Four sums side by side, so that none waits for the addition before it.
template <int N, typename T>
TRACELET_INLINE BlockSums sum_some(const T* values, std::size_t count) {
  using Double = typename Lanes<N>::Double;
  using Compared = std::conditional_t<std::is_same_v<T, float>, typename Lanes<N>::Float, Double>;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr int kHalf = N / 2;
  constexpr int kStep = 4 * kHalf;
  constexpr int kComparedLanes = sizeof(Compared) / sizeof(T);
  Double sum[4] = {}, squares[4] = {};
  Compared min[2], max[2];
  min[0] = min[1] = Compared{} + kInfinity;
  max[0] = max[1] = Compared{} - kInfinity;
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const Double x = load_half<N>(values + i + static_cast<std::size_t>(k * kHalf));
      sum[k] += x;
      squares[k] += x * x;
    }
#pragma GCC unroll 4
    for (int k = 0; k < kStep / kComparedLanes; ++k) {
      Compared x;
      std::memcpy(&x, values + i + static_cast<std::size_t>(k * kComparedLanes), sizeof(x));
      min[k % 2] = x < min[k % 2] ? x : min[k % 2];
      max[k % 2] = x > max[k % 2] ? x : max[k % 2];
    }
  }
  BlockSums sums{0, 0, kInfinity, -kInfinity};
  const Double all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  const Double all_squares = (squares[0] + squares[1]) + (squares[2] + squares[3]);
  for (int lane = 0; lane < kHalf; ++lane) {
    sums.sum += all[lane];
    sums.sum_squares += all_squares[lane];
  }
  for (int lane = 0; lane < kComparedLanes; ++lane) {
    for (int k = 0; k < 2; ++k) {
      sums.min = min[k][lane] < sums.min ? min[k][lane] : sums.min;
      sums.max = max[k][lane] > sums.max ? max[k][lane] : sums.max;
    }
  }
  for (; i < count; ++i) {
    const double x = values[i];
    sums.sum += x;
    sums.sum_squares += x * x;
    sums.min = x < sums.min ? x : sums.min;
    sums.max = x > sums.max ? x : sums.max;
  }
  return sums;
}

struct Float16 {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};

// The bits of float32 values from those of the narrower ones; `Int` is an int32 or a vector of
// them.
//
// https://gist.github.com/rygorous/2156668 describes ways for float16; in this one a denormal comes
// of a subtraction of normal numbers, which a thread that flushes denormals to zero can't spoil.
template <typename Float, typename Int>
TRACELET_INLINE Int widen_float16(Int half) {
  constexpr std::int32_t kDenormalBias = 113 << 23;
  const Int magnitude = (half & 0x7fff) << 13;
  const Int exponent = magnitude & 0x0f800000;
  const Float denormal =
      std::bit_cast<Float>(magnitude + kDenormalBias) - std::bit_cast<Float>(Int{} + kDenormalBias);
  const Int is_denormal = (exponent - 1) >> 31;
  const Int is_special = (0x0f7fffff - exponent) >> 31;
  const Int normal = magnitude + (112 << 23) + (is_special & (112 << 23));
  const Int widened = (is_denormal & std::bit_cast<Int>(denormal)) | (~is_denormal & normal);
  return widened | ((half & 0x8000) << 16);
}

template <typename T, typename Float, typename Int>
TRACELET_INLINE Int widen(Int bits) {
  if constexpr (std::is_same_v<T, Float16>) return widen_float16<Float>(bits);
  return bits << 16;
}

template <typename Float, typename T>
TRACELET_INLINE Float convert(T value) {
  if constexpr (std::is_same_v<T, Float16> || std::is_same_v<T, Bfloat16>) {
    return std::bit_cast<float>(widen<T, float>(std::int32_t{value.bits}));
  } else {
    return static_cast<Float>(value);
  }
}

template <int N, typename Float, typename T>
TRACELET_INLINE void read_as(const std::byte* data, std::ptrdiff_t stride_bytes, std::size_t count,
                             void* out) {
  auto* converted = static_cast<Float*>(out);
  std::size_t i = 0;
  if (stride_bytes == sizeof(T)) {
    if constexpr (std::is_same_v<T, Float16> || std::is_same_v<T, Bfloat16>) {
      typedef std::uint16_t Short __attribute__((vector_size(2 * N)));
      using Vector = typename Lanes<N>::Float;
      using Int = typename Lanes<N>::Int;
      for (; i + N <= count; i += N) {
        Short narrow;
        std::memcpy(&narrow, data + i * sizeof(T), sizeof(narrow));
        const Int wide = widen<T, Vector>(__builtin_convertvector(narrow, Int));
        std::memcpy(converted + i, &wide, sizeof(wide));
      }
    }
    for (; i < count; ++i) {
      T value;
      std::memcpy(&value, data + i * sizeof(T), sizeof(T));
      converted[i] = convert<Float>(value);
    }
    return;
  }
  for (; i < count; ++i, data += stride_bytes) {
    T value;
    std::memcpy(&value, data, sizeof(T));
    converted[i] = convert<Float>(value);
  }
}

template <int N>
TRACELET_INLINE void read_any(const std::byte* data, ElementType type, std::ptrdiff_t stride,
                              std::size_t count, void* out) {
  switch (type) {
    case ElementType::kBool:
    case ElementType::kUInt8:
      return read_as<N, float, std::uint8_t>(data, stride, count, out);
    case ElementType::kInt8:
      return read_as<N, float, std::int8_t>(data, stride, count, out);
    case ElementType::kInt16:
      return read_as<N, float, std::int16_t>(data, stride, count, out);
    case ElementType::kUInt16:
      return read_as<N, float, std::uint16_t>(data, stride, count, out);
    case ElementType::kFloat16:
      return read_as<N, float, Float16>(data, stride, count, out);
    case ElementType::kBfloat16:
      return read_as<N, float, Bfloat16>(data, stride, count, out);
    case ElementType::kFloat32:
      return read_as<N, float, float>(data, stride, count, out);
    case ElementType::kInt32:
      return read_as<N, double, std::int32_t>(data, stride, count, out);
    case ElementType::kUInt32:
      return read_as<N, double, std::uint32_t>(data, stride, count, out);
    case ElementType::kInt64:
      return read_as<N, double, std::int64_t>(data, stride, count, out);
    case ElementType::kUInt64:
      return read_as<N, double, std::uint64_t>(data, stride, count, out);
    case ElementType::kFloat64:
      return read_as<N, double, double>(data, stride, count, out);
  }
}

// The loops for vectors of N floats, as functions of one target.
#define TRACELET_KERNEL_SET(NAME, N, TARGET)                                                     \
  template <typename Float>                                                                      \
  TARGET std::uint32_t guess_##NAME(const Float* values, std::size_t count, const Guess& guess,  \
                                    std::int32_t* cells) {                                       \
    return guess.kind == Guess::Kind::kLogarithmic                                               \
               ? guess_some<N, Guess::Kind::kLogarithmic>(values, count, guess, cells)           \
               : guess_some<N, Guess::Kind::kLinear>(values, count, guess, cells);               \
  }                                                                                              \
  template <typename Float>                                                                      \
  TARGET std::uint32_t guess_and_count_##NAME(const Float* values, const Guess& guess,           \
                                              std::int32_t* cells, const std::int32_t* previous, \
                                              const CellTables& tables) {                        \
    return guess.kind == Guess::Kind::kLogarithmic                                               \
               ? guess_and_count_block<N, Guess::Kind::kLogarithmic>(values, guess, cells,       \
                                                                     previous, tables)           \
               : guess_and_count_block<N, Guess::Kind::kLinear>(values, guess, cells, previous,  \
                                                                tables);                         \
  }                                                                                              \
  template <typename Float>                                                                      \
  TARGET BlockSums sum_##NAME(const Float* values, std::size_t count) {                          \
    return sum_some<N>(values, count);                                                           \
  }                                                                                              \
  TARGET void read_##NAME(const std::byte* data, ElementType type, std::ptrdiff_t stride,        \
                          std::size_t count, void* out) {                                        \
    read_any<N>(data, type, stride, count, out);                                                 \
  }                                                                                              \
  constexpr KernelSet NAME = {                                                                   \
      #NAME,                                                                                     \
      {guess_##NAME<float>, guess_and_count_##NAME<float>, sum_##NAME<float>},                   \
      {guess_##NAME<double>, guess_and_count_##NAME<double>, sum_##NAME<double>},                \
      read_##NAME};

// SSE2 on x86-64, NEON on arm64: what each processor of the family has.
TRACELET_KERNEL_SET(portable, 4, )
#if defined(__x86_64__)
TRACELET_KERNEL_SET(avx2, 8, __attribute__((target("avx2,fma"))))
// Not vectors of 64 bytes: on Zen 4 they take two turns each and 0.03 ns more a value. What AVX-512
// brings is registers and instructions.
TRACELET_KERNEL_SET(avx512, 8, __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))))
#endif

struct Available {
  const KernelSet* sets[3];
  std::size_t count = 0;

  Available() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      sets[count++] = &avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets[count++] = &avx2;
#endif
    sets[count++] = &portable;
  }
};

}  // namespace

bool is_read_as_float32(ElementType type) {
  switch (type) {
    case ElementType::kInt32:
    case ElementType::kUInt32:
    case ElementType::kInt64:
    case ElementType::kUInt64:
    case ElementType::kFloat64:
      return false;
    default:
      return true;
  }
}

void count_cells(const std::int32_t* cells, std::size_t count, const CellTables& tables) {
  const auto [table_0, table_1, table_2, table_3] = tables.cell_0;
  const std::size_t whole = count / 4 * 4;
  for (std::size_t i = 0; i < whole; i += 4) {
    count_lanes<4>(cells + i, table_0, table_1, table_2, table_3);
  }
  for (std::size_t i = whole; i < count; ++i) ++table_0[cells[i]];
}

std::span<const KernelSet* const> available_kernels() {
  static const Available available;
  return {available.sets, available.count};
}

}  // namespace tracelet
