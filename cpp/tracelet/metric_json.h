// Scalars as MLflow metrics: the JSON objects of `runs/log-batch`, {"key", "value", "timestamp",
// "step"}, divided by commas. The same record gives the same bytes each time: to MLflow a metric is
// known by all four together, so a batch that is sent again is no new row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tracelet/json_lines.h"
#include "tracelet/record.h"

namespace tracelet {

// Not thread-safe: one thread at a time.
class MetricJsonEncoder {
 public:
  // Names a series; the name is a JSON string, quotes included.
  void define(std::uint32_t writer_id, std::uint32_t tag_id, std::string_view name_json);
  // The first record of each series in `records` that has no name yet.
  std::vector<Record> undefined_series(RecordSpan records) const;

  // Appends the metrics of `records` to `out`, until there are `limit_count`, or `out` holds
  // `limit_bytes` or more. All series are defined, all records scalars.
  EncodeCounts encode(RecordSpan records, std::size_t limit_count, std::size_t limit_bytes,
                      std::string& out) const;

 private:
  std::unordered_map<std::uint64_t, std::string> starts_;  // {"key":…,"value":
};

}  // namespace tracelet
