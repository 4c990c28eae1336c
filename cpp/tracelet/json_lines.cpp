#include "tracelet/json_lines.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "tracelet/histogram/plot.h"
#include "tracelet/names.h"

namespace tracelet {
namespace {

constexpr std::uint32_t kNoSeries = UINT32_MAX;
constexpr std::string_view kTimestampKey = ",\"timestamp\":";
// The longest int64, the shortest form of any double, a timestamp in ms, and what stands around.
constexpr std::size_t kNumbersBytes = 20 + 32 + 20 + 16;
// Dates that Elasticsearch takes end in year 9999.
constexpr double kLatestTimestampMs = 253402300799999.0;

std::uint64_t series_key(std::uint32_t writer_id, std::uint32_t tag_id) {
  return std::uint64_t{writer_id} << 32 | tag_id;
}

char* put(char* at, std::string_view text) {
  std::memcpy(at, text.data(), text.size());
  return at + text.size();
}

char* put_value(char* at, char* end, double value) {
  if (value == 0) return put(at, std::signbit(value) ? "-0.0" : "0.0");
  // The shortest decimal that reads back as the same double.
  return std::to_chars(at, end, value).ptr;
}

std::int64_t timestamp_ms(double wall_time_s) {
  const double ms = wall_time_s * 1e3;
  return ms > 0 && ms <= kLatestTimestampMs ? static_cast<std::int64_t>(ms) : 0;
}

SetAside reason_to_set_aside(double value) {
  if (!std::isfinite(value)) [[unlikely]]
    return SetAside::kNotFinite;
  if (!std::isfinite(static_cast<float>(value))) [[unlikely]]
    return SetAside::kBeyondFloat32;
  return SetAside::kNone;
}

}  // namespace

JsonLinesEncoder::JsonLinesEncoder(std::string_view task_json)
    : scalar_start_("{\"type\":\"training_stats_scalar\",\"task\":"),
      plot_start_("{\"type\":\"plot\",\"task\":") {
  scalar_start_.append(task_json).append(",\"iter\":");
  plot_start_.append(task_json).append(",\"iter\":");
}

void JsonLinesEncoder::define(std::uint32_t writer_id, std::uint32_t tag_id, RecordKind kind,
                              std::string_view metric_json, std::string_view variant_json) {
  std::string names(",\"metric\":");
  names.append(metric_json).append(",\"variant\":").append(variant_json);
  names.append(kind == RecordKind::kHistogram ? ",\"plot_str\":\"" : ",\"value\":");
  SeriesTable& defined = table(kind);
  const auto index = static_cast<std::uint32_t>(defined.series.size());
  defined.series.push_back({writer_id, tag_id, std::move(names)});
  defined.index_of[series_key(writer_id, tag_id)] = index;
  std::vector<std::uint32_t>& last = defined.last_index_by_tag;
  if (tag_id >= kMostNames) return;  // found by `index_of` alone
  if (tag_id >= last.size()) last.resize(tag_id + 1, kNoSeries);
  last[tag_id] = index;
}

JsonLinesEncoder::Series* JsonLinesEncoder::SeriesTable::find(std::uint32_t writer_id,
                                                              std::uint32_t tag_id) {
  if (tag_id >= kMostNames) [[unlikely]] {
    const auto found = index_of.find(series_key(writer_id, tag_id));
    return found == index_of.end() ? nullptr : &series[found->second];
  }
  if (tag_id >= last_index_by_tag.size()) return nullptr;
  std::uint32_t& last = last_index_by_tag[tag_id];
  if (last == kNoSeries) return nullptr;
  if (series[last].writer_id == writer_id) [[likely]]
    return &series[last];
  const auto found = index_of.find(series_key(writer_id, tag_id));
  if (found == index_of.end()) return nullptr;
  last = found->second;
  return &series[last];
}

std::vector<Record> JsonLinesEncoder::undefined_series(RecordSpan records) {
  std::vector<Record> undefined;
  std::unordered_map<std::uint64_t, bool> seen[2];
  for (const Record& record : records) {
    if (table(record.kind).find(record.writer_id, record.tag_id) != nullptr) continue;
    auto& seen_of_kind = seen[record.kind == RecordKind::kHistogram ? 1 : 0];
    if (seen_of_kind.emplace(series_key(record.writer_id, record.tag_id), true).second) {
      undefined.push_back(record);
    }
  }
  return undefined;
}

EncodeCounts JsonLinesEncoder::encode(RecordSpan records, PayloadSpan payloads,
                                      std::size_t limit_bytes, char separator, std::string& out) {
  EncodeCounts counts;
  for (const Record& record : records) {
    if (out.size() >= limit_bytes) break;
    ++counts.consumed;
    Series* series = table(record.kind).find(record.writer_id, record.tag_id);
    if (series == nullptr) continue;
    if (record.kind == RecordKind::kHistogram) {
      if (!buckets_.read(payloads.of(record))) {
        ++counts.unreadable;
        continue;
      }
      if (counts.encoded > 0) out.push_back(separator);
      append_plot(record, *series, out);
    } else {
      if (!has_value(record)) {
        ++counts.unreadable;
        continue;
      }
      if (const SetAside reason = reason_to_set_aside(record.value); reason != SetAside::kNone) {
        set_aside(record, *series, reason, counts);
        continue;
      }
      if (counts.encoded > 0) out.push_back(separator);
      append_scalar(record, *series, out);
    }
    ++counts.encoded;
  }
  return counts;
}

void JsonLinesEncoder::append_scalar(const Record& record, const Series& series, std::string& out) {
  const std::size_t start = out.size();
  out.resize(start + scalar_start_.size() + series.names.size() + kTimestampKey.size() +
             kNumbersBytes);
  char* const end = out.data() + out.size();
  char* at = put(out.data() + start, scalar_start_);
  at = std::to_chars(at, end, record.step).ptr;
  at = put(at, series.names);
  at = put_value(at, end, record.value);
  at = put(at, kTimestampKey);
  at = std::to_chars(at, end, timestamp_ms(record.wall_time_s)).ptr;
  *at++ = '}';
  out.resize(static_cast<std::size_t>(at - out.data()));
}

// The figure of `buckets_`, as a string within the event.
void JsonLinesEncoder::append_plot(const Record& record, const Series& series, std::string& out) {
  figure_.clear();
  append_bar_figure(buckets_, figure_);
  out.append(plot_start_).append(std::to_string(record.step)).append(series.names);
  for (const char character : figure_) {
    if (character == '"' || character == '\\') out.push_back('\\');
    out.push_back(character);
  }
  out.append("\"").append(kTimestampKey);
  out.append(std::to_string(timestamp_ms(record.wall_time_s))).append("}");
}

void JsonLinesEncoder::set_aside(const Record& record, Series& series, SetAside reason,
                                 EncodeCounts& counts) {
  (reason == SetAside::kNotFinite ? counts.not_finite : counts.beyond_float32) += 1;
  const auto bit = static_cast<std::uint8_t>(reason);
  if ((series.noticed & bit) != 0) return;
  series.noticed = static_cast<std::uint8_t>(series.noticed | bit);
  notices_.push_back({record.writer_id, record.tag_id, record.step, record.value, reason});
}

EncodeCounts JsonLinesEncoder::encode_lines(RecordSpan records, PayloadSpan payloads,
                                            std::size_t limit_bytes, std::string& out) {
  return encode(records, payloads, limit_bytes, '\n', out);
}

void JsonLinesEncoder::append_array_lines(RecordSpan records, PayloadSpan payloads,
                                          std::size_t line_bytes, AppendFile& file,
                                          EncodeCounts& total) {
  while (records.size > 0) {
    line_.assign(1, '[');
    const EncodeCounts counts = encode(records, payloads, line_bytes, ',', line_);
    if (counts.encoded > 0) {
      line_.append("]\n");
      file.append_line(line_);
    }
    total.consumed += counts.consumed;
    total.encoded += counts.encoded;
    total.not_finite += counts.not_finite;
    total.beyond_float32 += counts.beyond_float32;
    total.unreadable += counts.unreadable;
    records = {records.data + counts.consumed, records.size - counts.consumed};
  }
}

std::vector<SetAsideNotice> JsonLinesEncoder::take_notices() { return std::exchange(notices_, {}); }

}  // namespace tracelet
