#include "tracelet/metric_json.h"

#include <charconv>
#include <cmath>
#include <utility>

namespace tracelet {
namespace {

// The shortest form of any double, a timestamp in ms, the longest int64, with room to spare.
constexpr std::size_t kNumberBytes = 40;
// The last instant that Python's dates have, which MLflow's page is made of: the end of year 9999.
constexpr double kLatestTimestampMs = 253402300799999.0;

std::uint64_t series_key(const Record& record) {
  return std::uint64_t{record.writer_id} << 32 | record.tag_id;
}

template <typename Number>
void append_number(Number number, std::string& out) {
  char digits[kNumberBytes];
  // Of a double: the shortest decimal that reads back as the same one.
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

std::int64_t timestamp_ms(double wall_time_s) {
  const double ms = wall_time_s * 1e3;
  return ms > 0 && ms <= kLatestTimestampMs ? static_cast<std::int64_t>(ms) : 0;
}

}  // namespace

void MetricJsonEncoder::define(std::uint32_t writer_id, std::uint32_t tag_id,
                               std::string_view name_json) {
  std::string start("{\"key\":");
  start.append(name_json).append(",\"value\":");
  starts_[std::uint64_t{writer_id} << 32 | tag_id] = std::move(start);
}

std::vector<Record> MetricJsonEncoder::undefined_series(RecordSpan records) const {
  std::vector<Record> undefined;
  std::unordered_map<std::uint64_t, bool> seen;
  for (const Record& record : records) {
    const std::uint64_t key = series_key(record);
    if (!starts_.contains(key) && seen.emplace(key, true).second) undefined.push_back(record);
  }
  return undefined;
}

EncodeCounts MetricJsonEncoder::encode(RecordSpan records, std::size_t limit_count,
                                       std::size_t limit_bytes, std::string& out) const {
  EncodeCounts counts;
  for (const Record& record : records) {
    if (counts.encoded >= limit_count || out.size() >= limit_bytes) break;
    ++counts.consumed;
    const auto start = starts_.find(series_key(record));
    if (start == starts_.end()) continue;
    if (!has_value(record)) {
      ++counts.unreadable;
      continue;
    }
    if (!std::isfinite(record.value)) {
      ++counts.not_finite;
      continue;
    }
    if (counts.encoded > 0) out.push_back(',');
    out.append(start->second);
    append_number(record.value, out);
    out.append(",\"timestamp\":");
    append_number(timestamp_ms(record.wall_time_s), out);
    out.append(",\"step\":");
    append_number(record.step, out);
    out.push_back('}');
    ++counts.encoded;
  }
  return counts;
}

}  // namespace tracelet
