#include "tracelet/event_reader.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "tracelet/crc32c.h"
#include "tracelet/protobuf_fields.h"
#include "tracelet/tensor_proto.h"

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
  const auto known = std::find(files_.begin(), files_.end(), path);
  file_ = static_cast<std::uint32_t>(known - files_.begin());
  if (known == files_.end()) files_.push_back(path);
  const auto size_bytes = static_cast<std::uint64_t>(end);
  std::string chunk;
  std::size_t wanted_bytes = kChunkBytes;
  while (position < size_bytes) {
    chunk.resize(
        static_cast<std::size_t>(std::min<std::uint64_t>(wanted_bytes, size_bytes - position)));
    file.seekg(static_cast<std::streamoff>(position));
    file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    if (file.bad()) throw std::system_error(EIO, std::generic_category(), "cannot read " + path);
    chunk.resize(static_cast<std::size_t>(file.gcount()));  // it may have been cut meanwhile
    file.clear();
    const bool reaches_end = position + chunk.size() >= size_bytes || chunk.size() < wanted_bytes;
    chunk_ = chunk.data();
    chunk_offset_ = position;
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
  bool is_graph = false;
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
      case 4:  // graph_def
      case 8:  // tagged_run_metadata
      case 9:  // meta_graph_def
        is_graph = true;
        break;
      default:
        break;
    }
  }
  graphs_ += fields.is_sound() && is_graph ? 1U : 0U;
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
    const TensorProto parsed(tensor);
    if (!parsed.is_sound()) return false;
    if (events.plugin == "text") {
      std::string text;
      for (const std::string_view each : parsed.strings()) text.append(each);
      events.texts.add(step, wall_time_s, std::move(text));
      events.text_places.push_back(place_of(value));
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
      events.others.add(step, wall_time_s, place_of(value));
    }
  } else if (has_other || (!metadata.empty() && events.plugin == "hparams")) {
    // Hyperparameters are in the metadata of a value without a value.
    events.others.add(step, wall_time_s, place_of(value));
  }
  return true;
}

ValuePlace EventReader::place_of(std::string_view value) const {
  return {file_, static_cast<std::uint32_t>(value.size()),
          chunk_offset_ + static_cast<std::uint64_t>(value.data() - chunk_)};
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
