#include "tracelet/event_reader.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "tracelet/crc32c.h"
#include "tracelet/protobuf_fields.h"

namespace tracelet {
namespace {

constexpr std::size_t kHeaderBytes = 12;  // length, checksum of the length
constexpr std::size_t kFrameBytes = 16;   // ... and of the data
constexpr std::size_t kChunkBytes = 4 << 20;

template <typename T>
T load(std::string_view bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

bool is_header(std::string_view bytes, std::size_t offset) {
  return masked_crc32c(bytes.data() + offset, 8) == load<std::uint32_t>(bytes, offset + 8);
}

// A tensor of numbers, as float64; nothing for one of another kind. Numbers of tensor.proto's
// DataType:
// https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/types.proto
class Tensor {
 public:
  explicit Tensor(std::string_view message) {
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

  std::int64_t type_ = 0;
  std::string_view content_{};
  std::vector<double> numbers_{};
  std::vector<std::string_view> strings_{};
  bool has_halves_ = false;
  bool is_sound_ = false;
};

std::vector<double> doubles_of(std::string_view packed) {
  std::vector<double> values(packed.size() / sizeof(double));
  if (!values.empty()) std::memcpy(values.data(), packed.data(), values.size() * sizeof(double));
  return values;
}

void append(std::vector<double>& values, std::string_view packed) {
  const std::vector<double> more = doubles_of(packed);
  if (values.empty()) {
    values = more;
  } else {
    values.insert(values.end(), more.begin(), more.end());
  }
}

std::optional<StoredHistogram> histogram_of(std::string_view message) {
  StoredHistogram histogram;
  ProtobufFields fields(message);
  while (fields.next()) {
    switch (fields.number()) {
      case 1:
        histogram.min = fields.as_double();
        break;
      case 2:
        histogram.max = fields.as_double();
        break;
      case 3:
        histogram.num = fields.as_double();
        break;
      case 4:
        histogram.sum = fields.as_double();
        break;
      case 5:
        histogram.sum_squares = fields.as_double();
        break;
      case 6:
        append(histogram.limits, fields.bytes());
        break;
      case 7:
        append(histogram.counts, fields.bytes());
        break;
      default:
        break;
    }
  }
  if (!fields.is_sound() || histogram.limits.size() != histogram.counts.size()) return {};
  return histogram;
}

// TensorFlow 2's form: a tensor of k rows of left edge, right edge, count. It has no moments: the
// least and the greatest are the outer edges, the sums are not known.
StoredHistogram histogram_of(const std::vector<double>& rows) {
  StoredHistogram histogram;
  histogram.sum = histogram.sum_squares = std::nan("");
  for (std::size_t row = 0; row + 3 <= rows.size(); row += 3) {
    histogram.limits.push_back(rows[row + 1]);
    histogram.counts.push_back(rows[row + 2]);
    histogram.num += rows[row + 2];
  }
  if (rows.size() >= 3) {
    histogram.min = rows[0];
    histogram.max = histogram.limits.back();
  }
  return histogram;
}

std::string plugin_of(std::string_view metadata) {
  ProtobufFields fields(metadata);
  while (fields.next()) {
    if (fields.number() != 1) continue;
    ProtobufFields plugin_data(fields.bytes());
    while (plugin_data.next()) {
      if (plugin_data.number() == 1) return std::string(plugin_data.bytes());
    }
  }
  return {};
}

}  // namespace

std::uint64_t EventReader::read_file(const std::string& path, std::uint64_t position) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::system_error(errno, std::generic_category(), path);
  file.seekg(0, std::ios::end);
  const std::streamoff end = file.tellg();
  if (end < 0) throw std::system_error(errno, std::generic_category(), path);
  const auto size_bytes = static_cast<std::uint64_t>(end);
  std::string chunk;
  std::size_t wanted_bytes = kChunkBytes;
  while (position < size_bytes) {
    chunk.resize(
        static_cast<std::size_t>(std::min<std::uint64_t>(wanted_bytes, size_bytes - position)));
    file.seekg(static_cast<std::streamoff>(position));
    file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    chunk.resize(static_cast<std::size_t>(file.gcount()));  // it may have been cut meanwhile
    file.clear();
    const bool reaches_end = position + chunk.size() >= size_bytes || chunk.size() < wanted_bytes;
    const std::size_t read_bytes = read_records(chunk, reaches_end);
    position += read_bytes;
    if (reaches_end) break;
    // A record that is longer than the chunk. Its length is bounded by the file's.
    wanted_bytes = read_bytes == 0 ? wanted_bytes * 2 : kChunkBytes;
  }
  return position;
}

// The bytes that were read: up to the last whole record, or to where damage may yet end.
std::size_t EventReader::read_records(std::string_view bytes, bool reaches_end) {
  std::size_t at = 0;
  while (bytes.size() - at >= kHeaderBytes) {
    if (!is_header(bytes, at)) {
      // The length can't be trusted, and with it where the next record begins: search for it.
      if (!is_in_damage_) ++damaged_records_;
      is_in_damage_ = true;
      ++at;
      continue;
    }
    const auto length = load<std::uint64_t>(bytes, at);
    if (length > bytes.size() - at || bytes.size() - at - length < kFrameBytes) {
      // Torn, or not written yet. In damage it may be chance: four bytes in four thousand million.
      if (!is_in_damage_ || !reaches_end) break;
      ++at;
      continue;
    }
    is_in_damage_ = false;
    const std::string_view event =
        bytes.substr(at + kHeaderBytes, static_cast<std::size_t>(length));
    const bool is_whole = masked_crc32c(event.data(), event.size()) ==
                          load<std::uint32_t>(bytes, at + kHeaderBytes + event.size());
    if (!is_whole || !read_event(event)) ++damaged_records_;
    at += kFrameBytes + event.size();
  }
  return at;
}

bool EventReader::read_event(std::string_view event) {
  std::int64_t step = 0;
  double wall_time_s = 0;
  ProtobufFields fields(event);
  std::string_view summary;
  while (fields.next()) {
    switch (fields.number()) {
      case 1:
        wall_time_s = fields.as_double();
        break;
      case 2:
        step = fields.as_int64();
        break;
      case 5:
        summary = fields.bytes();
        break;
      default:
        break;
    }
  }
  return fields.is_sound() && read_summary(summary, step, wall_time_s);
}

bool EventReader::read_summary(std::string_view summary, std::int64_t step, double wall_time_s) {
  ProtobufFields fields(summary);
  bool are_sound = true;
  while (fields.next()) {
    if (fields.number() == 1) are_sound &= read_value(fields.bytes(), step, wall_time_s);
  }
  return are_sound && fields.is_sound();
}

bool EventReader::read_value(std::string_view value, std::int64_t step, double wall_time_s) {
  std::string_view tag;
  std::string_view histogram;
  std::string_view tensor;
  std::string_view metadata;
  std::optional<float> number;
  bool has_other = false;
  bool has_tensor = false;
  bool has_histogram = false;
  ProtobufFields fields(value);
  while (fields.next()) {
    switch (fields.number()) {
      case 1:
        tag = fields.bytes();
        break;
      case 2:
        number = fields.as_float();
        break;
      case 5:
        histogram = fields.bytes();
        has_histogram = true;
        break;
      case 8:
        tensor = fields.bytes();
        has_tensor = true;
        break;
      case 9:
        metadata = fields.bytes();
        break;
      case 4:
      case 6:
        has_other = true;
        break;
      default:
        break;
    }
  }
  if (!fields.is_sound()) return false;
  TagEvents& events = events_of(tag);
  if (!metadata.empty() && events.plugin.empty()) events.plugin = plugin_of(metadata);
  if (number) {
    events.scalars.add(step, wall_time_s, static_cast<double>(*number));
  } else if (has_histogram) {
    std::optional<StoredHistogram> stored = histogram_of(histogram);
    if (!stored) return false;
    events.histograms.add(step, wall_time_s, std::move(*stored));
  } else if (has_tensor) {
    const Tensor parsed(tensor);
    if (!parsed.is_sound()) return false;
    if (events.plugin == "text") {
      std::string text;
      for (const std::string_view each : parsed.strings()) text.append(each);
      events.texts.add(step, wall_time_s, std::move(text));
    } else if (events.plugin == "scalars" || events.plugin == "histograms") {
      const std::vector<double> numbers = parsed.numbers();
      if (events.plugin == "histograms") {
        events.histograms.add(step, wall_time_s, histogram_of(numbers));
      } else if (numbers.size() == 1) {
        events.scalars.add(step, wall_time_s, numbers[0]);
      } else {
        return false;
      }
    } else {
      ++events.others;
    }
  } else {
    events.others += has_other ? 1U : 0U;
  }
  return true;
}

TagEvents& EventReader::events_of(std::string_view tag) {
  if (!tags_.empty()) {
    const std::size_t guess = successors_[last_place_];
    if (tags_[guess].tag == tag) {
      last_place_ = guess;
      return tags_[guess];
    }
  }
  const auto found = places_.find(tag);
  std::size_t place = tags_.size();
  if (found == places_.end()) {
    places_.emplace(tag, place);
    tags_.push_back({.tag = std::string(tag)});
    successors_.push_back(place);
  } else {
    place = found->second;
  }
  successors_[last_place_] = place;
  last_place_ = place;
  return tags_[place];
}

}  // namespace tracelet
