#include "tracelet/event_file.h"

#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

#include "tracelet/append_file.h"
#include "tracelet/crc32c.h"

namespace tracelet {
namespace {

// Protobuf's wire format: a field is (number << 3 | type), then the value.
// https://protobuf.dev/programming-guides/encoding/
enum WireType : unsigned { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
constexpr char field(unsigned number, WireType type) {
  return static_cast<char>(number << 3 | type);
}
constexpr char kEventWallTime = field(1, kFixed64);
constexpr char kEventStep = field(2, kVarint);
constexpr char kEventFileVersion = field(3, kBytes);
constexpr char kEventSummary = field(5, kBytes);
constexpr char kEventSourceMetadata = field(10, kBytes);
constexpr char kSourceMetadataWriter = field(1, kBytes);
constexpr char kSummaryValue = field(1, kBytes);
constexpr char kValueTag = field(1, kBytes);
constexpr char kValueSimpleValue = field(2, kFixed32);
constexpr char kValueHistogram = field(5, kBytes);
constexpr char kValueTensor = field(8, kBytes);
constexpr char kValueMetadata = field(9, kBytes);
// HistogramProto, tensorboard/compat/proto/histogram.proto
constexpr char kHistogramMin = field(1, kFixed64);
constexpr char kHistogramMax = field(2, kFixed64);
constexpr char kHistogramNum = field(3, kFixed64);
constexpr char kHistogramSum = field(4, kFixed64);
constexpr char kHistogramSumSquares = field(5, kFixed64);
constexpr char kHistogramBucketLimit = field(6, kBytes);
constexpr char kHistogramBucket = field(7, kBytes);
constexpr char kTensorDtype = field(1, kVarint);
constexpr char kTensorFloatVal = field(5, kBytes);
constexpr char kTensorDoubleVal = field(6, kBytes);
constexpr char kDtFloat = 1;
constexpr char kDtDouble = 2;
// SummaryMetadata{plugin_data{plugin_name: "scalars"}}
constexpr std::string_view kScalarsPlugin("\x0a\x09\x0a\x07scalars", 11);

std::size_t varint_bytes(std::uint64_t value) {
  std::size_t count = 1;
  for (; value >= 0x80; value >>= 7) ++count;
  return count;
}

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

template <typename T>
void append_raw(std::string& out, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));  // little-endian, as the formats ask for
  out.append(bytes, sizeof(T));
}

void append_bytes_field(std::string& out, char key, std::string_view bytes) {
  out.push_back(key);
  append_varint(out, bytes.size());
  out.append(bytes);
}

// The whole TFRecord around the data that `append_data` appends.
template <typename AppendData>
void append_tfrecord(std::string& out, AppendData append_data) {
  constexpr std::size_t kHeaderBytes = 12;
  const std::size_t start = out.size();
  out.append(kHeaderBytes, '\0');
  append_data();
  const std::size_t data_start = start + kHeaderBytes;
  const std::uint64_t data_bytes = out.size() - data_start;
  std::memcpy(out.data() + start, &data_bytes, sizeof(data_bytes));
  const std::uint32_t length_crc = masked_crc32c(&data_bytes, sizeof(data_bytes));
  std::memcpy(out.data() + start + sizeof(data_bytes), &length_crc, sizeof(length_crc));
  append_raw(out, masked_crc32c(out.data() + data_start, data_bytes));
}

void append_wall_time_and_step(const Record& record, std::string& out) {
  out.push_back(kEventWallTime);
  append_raw(out, record.wall_time_s);
  if (record.step != 0) {
    out.push_back(kEventStep);
    append_varint(out, static_cast<std::uint64_t>(record.step));
  }
}

// A field that is 0 is left out, as protobuf does.
void append_double_field(std::string& out, char key, double value) {
  if (std::bit_cast<std::uint64_t>(value) == 0) return;
  out.push_back(key);
  append_raw(out, value);
}

void append_doubles_field(std::string& out, char key, const std::vector<double>& values) {
  if (values.empty()) return;
  append_bytes_field(
      out, key, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double)});
}

// What SummaryWriter.add_scalar(new_style=True) writes: a tensor for the scalars plugin.
std::string tensor_summary(const Record& record, std::string_view tag) {
  std::string tensor{kTensorDtype};
  if ((record.flags & kDoublePrecision) != 0) {
    tensor.append({kDtDouble, kTensorDoubleVal, char{sizeof(double)}});
    append_raw(tensor, record.value);
  } else {
    tensor.append({kDtFloat, kTensorFloatVal, char{sizeof(float)}});
    append_raw(tensor, static_cast<float>(record.value));
  }
  std::string value;
  if (!tag.empty()) append_bytes_field(value, kValueTag, tag);
  append_bytes_field(value, kValueTensor, tensor);
  append_bytes_field(value, kValueMetadata, kScalarsPlugin);
  std::string summary;
  append_bytes_field(summary, kSummaryValue, value);
  std::string event;
  append_bytes_field(event, kEventSummary, summary);
  return event;
}

}  // namespace

std::string scalar_summary_prefix(std::string_view tag) {
  constexpr std::size_t kSimpleValueBytes = 1 + sizeof(float);
  const std::size_t tag_field_bytes = tag.empty() ? 0 : 1 + varint_bytes(tag.size()) + tag.size();
  const std::size_t value_bytes = tag_field_bytes + kSimpleValueBytes;
  std::string prefix;
  prefix.push_back(kEventSummary);
  append_varint(prefix, 1 + varint_bytes(value_bytes) + value_bytes);
  prefix.push_back(kSummaryValue);
  append_varint(prefix, value_bytes);
  if (!tag.empty()) append_bytes_field(prefix, kValueTag, tag);
  prefix.push_back(kValueSimpleValue);
  return prefix;
}

void append_scalar_event(const Record& record, std::string_view tag,
                         std::string_view summary_prefix, std::string& out) {
  append_tfrecord(out, [&] {
    append_wall_time_and_step(record, out);
    if ((record.flags & kNewStyle) != 0) {
      out.append(tensor_summary(record, tag));
    } else {
      out.append(summary_prefix);
      append_raw(out, static_cast<float>(record.value));
    }
  });
}

void append_histogram_event(const Record& record, std::string_view tag,
                            const HistogramBuckets& buckets, std::string& out) {
  const HistogramHeader& header = buckets.header;
  std::string histogram;
  histogram.reserve(5 * 9 + 2 * 11 + buckets.limits.size() * 2 * sizeof(double));
  append_double_field(histogram, kHistogramMin, header.min);
  append_double_field(histogram, kHistogramMax, header.max);
  append_double_field(histogram, kHistogramNum, header.num);
  append_double_field(histogram, kHistogramSum, header.sum);
  append_double_field(histogram, kHistogramSumSquares, header.sum_squares);
  append_doubles_field(histogram, kHistogramBucketLimit, buckets.limits);
  append_doubles_field(histogram, kHistogramBucket, buckets.counts);
  const std::size_t tag_field_bytes = tag.empty() ? 0 : 1 + varint_bytes(tag.size()) + tag.size();
  const std::size_t value_bytes =
      tag_field_bytes + 1 + varint_bytes(histogram.size()) + histogram.size();
  append_tfrecord(out, [&] {
    append_wall_time_and_step(record, out);
    out.push_back(kEventSummary);
    append_varint(out, 1 + varint_bytes(value_bytes) + value_bytes);
    out.push_back(kSummaryValue);
    append_varint(out, value_bytes);
    if (!tag.empty()) append_bytes_field(out, kValueTag, tag);
    append_bytes_field(out, kValueHistogram, histogram);
  });
}

void append_ready_event(std::span<const std::byte> event, std::string& out) {
  append_tfrecord(out,
                  [&] { out.append(reinterpret_cast<const char*>(event.data()), event.size()); });
}

bool append_event_from_file(const std::string& path, std::string& out) {
  const std::size_t before = out.size();
  int error = 0;
  append_tfrecord(out, [&] { error = append_content(path, out); });
  if (error == 0) return true;
  out.resize(before);
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case EACCES:
    case EPERM:
    case ENODATA:
      return false;
    default:
      throw std::system_error(error, std::generic_category(), "cannot read " + path);
  }
}

std::string version_event(double wall_time_s) {
  std::string out;
  append_tfrecord(out, [&] {
    out.push_back(kEventWallTime);
    append_raw(out, wall_time_s);
    append_bytes_field(out, kEventFileVersion, "brain.Event:2");
    std::string source;
    append_bytes_field(source, kSourceMetadataWriter, "tracelet.event_file");
    append_bytes_field(out, kEventSourceMetadata, source);
  });
  return out;
}

}  // namespace tracelet
