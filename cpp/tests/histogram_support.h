// What the histogram tests share: values of every element type, edges, and the plain rule.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tracelet/histogram/array_view.h"
#include "tracelet/histogram/bin_edges.h"
#include "tracelet/histogram/kernel.h"

namespace tracelet::testing {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
inline constexpr std::size_t kOutside = BinEdges::kOutside;

inline constexpr ElementType kElementTypes[] = {
    ElementType::kBool,   ElementType::kInt8,    ElementType::kInt16,    ElementType::kInt32,
    ElementType::kInt64,  ElementType::kUInt8,   ElementType::kUInt16,   ElementType::kUInt32,
    ElementType::kUInt64, ElementType::kFloat16, ElementType::kBfloat16, ElementType::kFloat32,
    ElementType::kFloat64};

// Below and above a vector, a group of vectors, a block, some blocks.
inline constexpr std::size_t kSizes[] = {0, 1, 7, 31, 511, 512, 1023, 1024, 1025, 2048, 5000};

inline bool is_floating(ElementType type) { return type >= ElementType::kFloat16; }

// The rule: edges[i] <= x < edges[i + 1], the last bin with its right edge. Of bins without width
// that hold the last edge, the last one. By a search of the standard library;
// histogram_edges_test.cpp compares it with a walk over all bins.
inline std::size_t bin_of(std::span<const double> edges, double x) {
  if (!(x >= edges.front() && x <= edges.back())) return kOutside;
  const auto above = std::upper_bound(edges.begin(), edges.end(), x);
  return std::min(static_cast<std::size_t>(above - edges.begin()) - 1, edges.size() - 2);
}

// An element as the lowest bits of an integer: its neighbours are one less and one more.
template <typename T>
double value_as(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return static_cast<double>(value);
}

inline double float16_value(std::uint64_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  const auto exponent = static_cast<int>(bits >> 10 & 31);
  const auto mantissa = static_cast<double>(bits & 1023);
  if (exponent == 31) return mantissa != 0 ? kNan : sign * kInfinity;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

inline double value_of(ElementType type, std::uint64_t bits) {
  switch (type) {
    case ElementType::kBool:
      return static_cast<double>(bits & 1);
    case ElementType::kInt8:
      return value_as<std::int8_t>(bits);
    case ElementType::kInt16:
      return value_as<std::int16_t>(bits);
    case ElementType::kInt32:
      return value_as<std::int32_t>(bits);
    case ElementType::kInt64:
      return value_as<std::int64_t>(bits);
    case ElementType::kUInt8:
      return value_as<std::uint8_t>(bits);
    case ElementType::kUInt16:
      return value_as<std::uint16_t>(bits);
    case ElementType::kUInt32:
      return value_as<std::uint32_t>(bits);
    case ElementType::kUInt64:
      return value_as<std::uint64_t>(bits);
    case ElementType::kFloat16:
      return float16_value(bits);
    case ElementType::kBfloat16:
      return value_as<float>(bits << 16 & 0xffff0000);
    case ElementType::kFloat32:
      return value_as<float>(bits);
    case ElementType::kFloat64:
      return value_as<double>(bits);
  }
  return kNan;
}

template <typename T>
std::uint64_t bits_as(double x) {
  T value;
  if constexpr (std::is_integral_v<T>) {
    value = std::isnan(x) ? T{0}
            : x <= static_cast<double>(std::numeric_limits<T>::lowest())
                ? std::numeric_limits<T>::lowest()
            : x >= static_cast<double>(std::numeric_limits<T>::max())
                ? std::numeric_limits<T>::max()
                : static_cast<T>(x);
  } else {
    value = static_cast<T>(x);
  }
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

// An element at x or beside it.
inline std::uint64_t bits_near(ElementType type, double x) {
  switch (type) {
    case ElementType::kBool:
      return x != 0;
    case ElementType::kInt8:
      return bits_as<std::int8_t>(x);
    case ElementType::kInt16:
      return bits_as<std::int16_t>(x);
    case ElementType::kInt32:
      return bits_as<std::int32_t>(x);
    case ElementType::kInt64:
      return bits_as<std::int64_t>(x);
    case ElementType::kUInt8:
      return bits_as<std::uint8_t>(x);
    case ElementType::kUInt16:
      return bits_as<std::uint16_t>(x);
    case ElementType::kUInt32:
      return bits_as<std::uint32_t>(x);
    case ElementType::kUInt64:
      return bits_as<std::uint64_t>(x);
    case ElementType::kFloat16: {
      std::uint64_t magnitude = 0;  // the largest one that is not above |x|
      for (std::uint64_t bit = 0x4000; bit > 0; bit /= 2) {
        if (float16_value(magnitude | bit) <= std::abs(x)) magnitude |= bit;
      }
      return magnitude | (std::signbit(x) ? 0x8000 : 0);
    }
    case ElementType::kBfloat16:
      return bits_as<float>(x) >> 16;
    case ElementType::kFloat32:
      return bits_as<float>(x);
    case ElementType::kFloat64:
      return bits_as<double>(x);
  }
  return 0;
}

inline std::uint64_t random_bits(ElementType type, std::mt19937_64& random) {
  return random() & (type == ElementType::kBool ? 1 : ~std::uint64_t{0});
}

// What is likely to go wrong: values at and beside some of the edges and beside the float32s next
// to them, zeros, denormals of each type, the largest values, infinities, NaN; and random ones, any
// and inside of the edges. Shuffled.
inline std::vector<std::uint64_t> hard_values(ElementType type, std::span<const double> edges,
                                              std::size_t random_count, std::mt19937_64& random) {
  std::vector<std::uint64_t> found;
  const auto put = [&](double x) {
    const std::uint64_t bits = bits_near(type, x);
    for (const std::uint64_t beside : {bits - 1, bits, bits + 1}) {
      found.push_back(type == ElementType::kBool ? beside & 1 : beside);
    }
  };
  const std::size_t every = std::max<std::size_t>(1, edges.size() / 160);
  for (std::size_t i = random() % every; i < edges.size(); i += every) {
    put(edges[i]);
    if (type != ElementType::kFloat64) continue;
    const auto rounded = static_cast<float>(edges[i]);
    for (const float x :
         {std::nextafter(rounded, -INFINITY), rounded, std::nextafter(rounded, INFINITY)}) {
      put(static_cast<double>(x));
    }
  }
  for (const double magnitude : {0.0,
                                 5e-324,
                                 1e-320,
                                 2.2250738585072014e-308,
                                 1e-46,
                                 7e-46,
                                 1.4e-45,
                                 1e-40,
                                 1.17549435e-38,
                                 5.9604645e-8,
                                 6.1e-5,
                                 1e-12,
                                 1.0,
                                 127.5,
                                 65504.0,
                                 2147483647.0,
                                 9.2e18,
                                 1e20,
                                 1e30,
                                 3.4028234663852886e38,
                                 3.5e38,
                                 1e39,
                                 1e300,
                                 1.7976931348623157e308,
                                 kInfinity,
                                 kNan}) {
    put(magnitude);
    put(-magnitude);
  }
  const double first = std::max(edges.front(), -1e300);
  const double last = std::max(first, std::min(edges.back(), 1e300));
  std::uniform_real_distribution<double> share(0, 1);
  for (std::size_t i = 0; i < random_count; ++i) {
    const double x = i % 4 == 0 ? edges[random() % edges.size()] * (0.5 + share(random))
                                : first + share(random) * (last - first);
    found.push_back(i % 4 == 1 ? random_bits(type, random) : bits_near(type, x));
  }
  std::shuffle(found.begin(), found.end(), random);
  return found;
}

inline std::vector<double> values_of(ElementType type, std::span<const std::uint64_t> elements) {
  std::vector<double> values;
  for (const std::uint64_t bits : elements) values.push_back(value_of(type, bits));
  return values;
}

// Elements one after the other in memory, `offset` bytes past where they would be aligned.
class Packed {
 public:
  Packed(ElementType type, std::span<const std::uint64_t> elements, std::size_t offset = 0)
      : type_(type),
        count_(elements.size()),
        offset_(offset),
        bytes_(offset + elements.size() * size_bytes(type)) {
    for (std::size_t i = 0; i < elements.size(); ++i) {
      std::memcpy(bytes_.data() + offset + i * size_bytes(type), &elements[i], size_bytes(type));
    }
  }
  const std::byte* data() const { return bytes_.data() + offset_; }
  ArrayView view() const { return view(0, count_); }
  ArrayView view(std::size_t begin, std::size_t count) const {
    const auto stride = static_cast<std::int64_t>(size_bytes(type_));
    const Dimension dimension{static_cast<std::int64_t>(count), stride};
    return ArrayView(data() + begin * size_bytes(type_), type_, {&dimension, 1});
  }

 private:
  ElementType type_;
  std::size_t count_;
  std::size_t offset_;
  std::vector<std::byte> bytes_;
};

struct NamedEdges {
  std::string name;
  BinEdges edges;
};

// Edges of each kind: with and without a guess, few and many.
inline const std::vector<NamedEdges>& all_edges() {
  static const std::vector<NamedEdges> all = [] {
    std::vector<NamedEdges> made{{"tensorflow", BinEdges::tensorflow()}};
    for (const auto& [first, last] : std::vector<std::pair<double, double>>{{-1, 1},
                                                                            {0, 1},
                                                                            {-3, 5.5},
                                                                            {0, 255},
                                                                            {1e6, 1e6 + 1},
                                                                            {1e6, 1e6 + 4096},
                                                                            {-2048, -2047},
                                                                            {1, 1 + 1e-5},
                                                                            {-1e-3, 1e-3},
                                                                            {-1e29, 1e29},
                                                                            {-1e300, 1e300},
                                                                            {-1e18, 1e19},
                                                                            {0, 1e-24},
                                                                            {1e-40, 1e-36},
                                                                            {-5e-321, 5e-321},
                                                                            {2.5, 2.5}}) {
      for (const std::size_t bins : {std::size_t{1}, std::size_t{64}, std::size_t{1000}}) {
        const std::string name = std::to_string(bins) + " bins of " + std::to_string(first) + "+" +
                                 std::to_string(last - first);
        made.push_back({name, BinEdges::uniform(first, last, bins)});
      }
    }
    made.push_back({"many cells", BinEdges::uniform(-4, 4, 70000)});
    for (const std::vector<double>& edges :
         std::vector<std::vector<double>>{{0, 1},
                                          {-1, 0, 0.5, 10},
                                          {0, 1, 1, 2},
                                          {0, 0, 1, 1},
                                          {1, 1},
                                          {-2, -1, -1, -1, 3, 3, 3},
                                          {-kInfinity, -1, 0, 1, kInfinity},
                                          {-kInfinity, kInfinity},
                                          {0, 1, kInfinity, kInfinity},
                                          {-kInfinity, -kInfinity, 5},
                                          {-0.0, 0.0, 1},
                                          {-5e-324, 0, 5e-324},
                                          {0, 1.06, 1.95, 3.04, 4}}) {
      made.push_back({"explicit " + std::to_string(made.size()), BinEdges(edges)});
    }
    return made;
  }();
  return all;
}

}  // namespace tracelet::testing
