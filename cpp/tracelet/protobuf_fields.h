// The fields of a protobuf message, one after the other, out of bytes that nobody vouches for.
// https://protobuf.dev/programming-guides/encoding/
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace tracelet {

// Walks over the fields of one message. What does not parse ends the walk and leaves `is_sound()`
// false; nothing outside of the bytes is read.
class ProtobufFields {
 public:
  explicit ProtobufFields(std::string_view message) : rest_(message) {}

  // Moves to the next field; false at the end, or where the bytes are no protobuf.
  bool next() {
    if (rest_.empty() || !is_sound_) return false;
    std::uint64_t key = 0;
    if (!take_varint(key)) return false;
    number_ = static_cast<std::uint32_t>(key >> 3);
    switch (key & 7) {
      case 0:
        return take_varint(value_);
      case 1:
        return take_fixed(8);
      case 2:
        return take_varint(value_) && take_bytes();
      case 5:
        return take_fixed(4);
      default:  // groups, which no message of TensorBoard has, and what is no type
        return is_sound_ = false;
    }
  }

  std::uint32_t number() const { return number_; }
  // Of a field that is a varint.
  std::int64_t as_int64() const { return static_cast<std::int64_t>(value_); }
  // Of a field of 4 or 8 bytes; 0 for another kind, as for a field that is not there.
  float as_float() const { return fixed<float>(); }
  double as_double() const { return fixed<double>(); }
  // Of a field that is a string or a message.
  std::string_view bytes() const { return bytes_; }
  bool is_sound() const { return is_sound_; }

 private:
  bool take_varint(std::uint64_t& value) {
    bytes_ = {};
    value = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= std::uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return true;
    }
    return is_sound_ = false;
  }

  bool take_fixed(std::uint64_t size_bytes) {
    value_ = size_bytes;
    return take_bytes();
  }

  bool take_bytes() {
    if (value_ > rest_.size()) return is_sound_ = false;
    bytes_ = rest_.substr(0, static_cast<std::size_t>(value_));
    rest_.remove_prefix(bytes_.size());
    return true;
  }

  template <typename T>
  T fixed() const {
    T value{};
    if (bytes_.size() == sizeof(T)) std::memcpy(&value, bytes_.data(), sizeof(T));
    return value;
  }

  std::string_view rest_;
  std::string_view bytes_{};
  std::uint64_t value_ = 0;
  std::uint32_t number_ = 0;
  bool is_sound_ = true;
};

}  // namespace tracelet
