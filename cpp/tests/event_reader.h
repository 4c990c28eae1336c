// A second reading of the event file format, slow and plain, that shares no code with the writer.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace tracelet::testing {

inline std::uint32_t slow_masked_crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xffffffffU;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1U) != 0 ? (crc >> 1) ^ 0x82f63b78U : crc >> 1;
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

// Takes fields off the front of bytes; throws std::runtime_error when they end too early.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  bool at_end() const { return rest_.empty(); }
  std::string_view take(std::size_t count) {
    if (count > rest_.size()) throw std::runtime_error("cut off");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  template <typename T>
  T fixed() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7fU} << (shift % 64);
      if (byte < 0x80) return value;
    }
    throw std::runtime_error("endless varint");
  }
  std::string_view bytes() { return take(static_cast<std::size_t>(varint())); }

 private:
  std::string_view rest_;
};

// The data of each TFRecord. Throws std::runtime_error for a torn record or a wrong checksum.
inline std::vector<std::string_view> tfrecords(std::string_view file) {
  std::vector<std::string_view> data;
  for (Reader reader(file); !reader.at_end();) {
    const std::string_view length_bytes = reader.take(8);
    const auto length = Reader(length_bytes).fixed<std::uint64_t>();
    if (reader.fixed<std::uint32_t>() != slow_masked_crc32c(length_bytes)) {
      throw std::runtime_error("checksum of the length");
    }
    data.push_back(reader.take(static_cast<std::size_t>(length)));
    if (reader.fixed<std::uint32_t>() != slow_masked_crc32c(data.back())) {
      throw std::runtime_error("checksum of the data");
    }
  }
  return data;
}

struct Event {
  double wall_time_s = 0;
  std::int64_t step = 0;
  std::string file_version;
  std::string source_writer;
  std::string tag;
  bool has_simple_value = false;
  float simple_value = 0;
  std::string tensor;            // TensorProto
  std::string summary_metadata;  // SummaryMetadata
};

// Field numbers: event.proto and summary.proto of TensorBoard. Throws for any other field.
inline Event parse_event(std::string_view data) {
  Event event;
  for (Reader reader(data); !reader.at_end();) {
    switch (reader.varint()) {
      case 1 << 3 | 1:
        event.wall_time_s = reader.fixed<double>();
        break;
      case 2 << 3 | 0:
        event.step = static_cast<std::int64_t>(reader.varint());
        break;
      case 3 << 3 | 2:
        event.file_version = reader.bytes();
        break;
      case 10 << 3 | 2: {
        Reader source(reader.bytes());
        if (source.varint() != (1 << 3 | 2)) throw std::runtime_error("source metadata");
        event.source_writer = source.bytes();
        break;
      }
      case 5 << 3 | 2: {
        Reader summary(reader.bytes());
        if (summary.varint() != (1 << 3 | 2)) throw std::runtime_error("summary");
        Reader value(summary.bytes());
        if (!summary.at_end()) throw std::runtime_error("more than one value");
        while (!value.at_end()) {
          switch (value.varint()) {
            case 1 << 3 | 2:
              event.tag = value.bytes();
              break;
            case 2 << 3 | 5:
              event.simple_value = value.fixed<float>();
              event.has_simple_value = true;
              break;
            case 8 << 3 | 2:
              event.tensor = value.bytes();
              break;
            case 9 << 3 | 2:
              event.summary_metadata = value.bytes();
              break;
            default:
              throw std::runtime_error("value field");
          }
        }
        break;
      }
      default:
        throw std::runtime_error("event field");
    }
  }
  return event;
}

}  // namespace tracelet::testing
