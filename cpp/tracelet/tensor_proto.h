// The numbers or strings of a TensorProto message (tensorboard/compat/proto/tensor.proto).
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "tracelet/protobuf_fields.h"

namespace tracelet {

// A tensor of numbers, as float64; nothing for one of another kind. Numbers of tensor.proto's
// DataType:
// https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/types.proto
class TensorProto {
 public:
  explicit TensorProto(std::string_view message) {
    ProtobufFields fields(message);
    while (fields.next()) {
      switch (fields.number()) {
        case 1:
          type_ = fields.as_int64();
          break;
        case 4:
          content_ = fields.bytes();
          break;
        case 5:  // float_val
          take_fixed<float>(fields.bytes());
          break;
        case 6:  // double_val
          take_fixed<double>(fields.bytes());
          break;
        case 7:   // int_val
        case 10:  // int64_val
        case 11:  // bool_val
        case 16:  // uint32_val
        case 17:  // uint64_val
          take_varints(fields);
          break;
        case 13:  // half_val: the bits of float16 and bfloat16
          take_varints(fields);
          has_halves_ = true;
          break;
        case 8:
          strings_.push_back(fields.bytes());
          break;
        default:
          break;
      }
    }
    is_sound_ = fields.is_sound();
  }

  bool is_sound() const { return is_sound_; }
  const std::vector<std::string_view>& strings() const { return strings_; }

  std::vector<double> numbers() const {
    if (!content_.empty()) return from_content();
    std::vector<double> numbers = numbers_;
    if (has_halves_) {
      for (double& number : numbers) number = from_half(static_cast<std::uint16_t>(number));
    }
    return numbers;
  }

 private:
  template <typename T>
  void take_fixed(std::string_view packed) {  // one alone has the same bytes
    for (std::size_t at = 0; at + sizeof(T) <= packed.size(); at += sizeof(T)) {
      numbers_.push_back(static_cast<double>(load<T>(packed, at)));
    }
  }

  void take_varints(const ProtobufFields& fields) {
    const std::string_view packed = fields.bytes();
    if (packed.empty()) {
      numbers_.push_back(static_cast<double>(fields.as_int64()));
      return;
    }
    std::uint64_t value = 0;
    unsigned shift = 0;
    for (const char each : packed) {
      const auto byte = static_cast<unsigned char>(each);
      if (shift < 64) value |= std::uint64_t{byte & 0x7fU} << shift;
      shift += 7;
      if (byte >= 0x80) continue;
      numbers_.push_back(static_cast<double>(static_cast<std::int64_t>(value)));
      value = 0;
      shift = 0;
    }
  }

  std::vector<double> from_content() const {
    switch (type_) {
      case 1:
        return from_items<float>();
      case 2:
        return from_items<double>();
      case 3:
        return from_items<std::int32_t>();
      case 4:
      case 10:
        return from_items<std::uint8_t>();
      case 5:
        return from_items<std::int16_t>();
      case 6:
        return from_items<std::int8_t>();
      case 9:
        return from_items<std::int64_t>();
      case 17:
        return from_items<std::uint16_t>();
      case 22:
        return from_items<std::uint32_t>();
      case 23:
        return from_items<std::uint64_t>();
      case 14:
      case 19: {
        std::vector<double> numbers = from_items<std::uint16_t>();
        for (double& number : numbers) number = from_half(static_cast<std::uint16_t>(number));
        return numbers;
      }
      default:
        return {};
    }
  }

  template <typename T>
  std::vector<double> from_items() const {
    std::vector<double> numbers(content_.size() / sizeof(T));
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = static_cast<double>(load<T>(content_, i * sizeof(T)));
    }
    return numbers;
  }

  double from_half(std::uint16_t bits) const {
    if (type_ == 14) {  // bfloat16: the upper half of a float32
      return static_cast<double>(std::bit_cast<float>(std::uint32_t{bits} << 16));
    }
    const int exponent = (bits >> 10) & 31;
    const double fraction = bits & 1023;
    double value = exponent == 0    ? std::ldexp(fraction, -24)
                   : exponent == 31 ? (fraction == 0 ? HUGE_VAL : std::nan(""))
                                    : std::ldexp(fraction + 1024, exponent - 25);
    return (bits & 0x8000U) != 0 ? -value : value;
  }

  template <typename T>
  static T load(std::string_view bytes, std::size_t offset) {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
    return value;
  }

  std::int64_t type_ = 0;
  std::string_view content_{};
  std::vector<double> numbers_{};
  std::vector<std::string_view> strings_{};
  bool has_halves_ = false;
  bool is_sound_ = false;
};

}  // namespace tracelet
