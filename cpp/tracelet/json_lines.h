// Points as ClearML events: the JSON objects of `events.add_batch`, as lines for the server or as
// the array lines of an offline session. A scalar is an event of type training_stats_scalar, a
// histogram one of type plot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tracelet/append_file.h"
#include "tracelet/histogram/payload.h"
#include "tracelet/record.h"

namespace tracelet {

// Why a point was not encoded: the server would refuse it, and its whole batch with it.
enum class SetAside : std::uint8_t {
  kNone = 0,
  kNotFinite = 1,      // JSON has no NaN and no infinity
  kBeyondFloat32 = 2,  // the server's index holds values as float32
};

// The first point of a series that was set aside for a reason.
struct SetAsideNotice {
  std::uint32_t writer_id;
  std::uint32_t tag_id;
  std::int64_t step;
  double value;
  SetAside reason;
};

struct EncodeCounts {
  std::size_t consumed = 0;  // records read
  std::size_t encoded = 0;   // events written
  std::size_t not_finite = 0;
  std::size_t beyond_float32 = 0;
  std::size_t unreadable = 0;  // the payload is none of ours, or a device did not give it
};

// Not thread-safe: one thread at a time.
class JsonLinesEncoder {
 public:
  // `task_json` is the task's id as a JSON string, quotes included.
  explicit JsonLinesEncoder(std::string_view task_json);

  // Names a series, which has records of one kind; both names are JSON strings, quotes included.
  void define(std::uint32_t writer_id, std::uint32_t tag_id, RecordKind kind,
              std::string_view metric_json, std::string_view variant_json);
  // The first record of each series in `records` that has no name yet.
  std::vector<Record> undefined_series(RecordSpan records);

  // Appends the events of `records` to `out`, each on a line of its own, until `out` holds
  // `limit_bytes` or more. All series are defined.
  EncodeCounts encode_lines(RecordSpan records, PayloadSpan payloads, std::size_t limit_bytes,
                            std::string& out);
  // Appends the events of `records` to an offline session's metrics file: lines of at most about
  // `line_bytes`, each an array of events, each written in one piece. Throws std::system_error;
  // `counts` then says how far it came, and the rest may be given again.
  void append_array_lines(RecordSpan records, PayloadSpan payloads, std::size_t line_bytes,
                          AppendFile& file, EncodeCounts& counts);

  // What was set aside for the first time since the last call.
  std::vector<SetAsideNotice> take_notices();

 private:
  struct Series {
    std::uint32_t writer_id;
    std::uint32_t tag_id;
    std::string names;  // ,"metric":…,"variant":…,"value": or ,"plot_str":"
    std::uint8_t noticed = 0;
  };
  struct SeriesTable {
    std::vector<Series> series;
    std::unordered_map<std::uint64_t, std::uint32_t> index_of;
    // By tag: the series of the writer that used the tag last, which is nearly always the one.
    std::vector<std::uint32_t> last_index_by_tag;

    Series* find(std::uint32_t writer_id, std::uint32_t tag_id);
  };

  SeriesTable& table(RecordKind kind) {
    return kind == RecordKind::kHistogram ? histograms_ : scalars_;
  }
  // Fills `out` with events divided by `separator`; the common core of both forms.
  EncodeCounts encode(RecordSpan records, PayloadSpan payloads, std::size_t limit_bytes,
                      char separator, std::string& out);
  void append_scalar(const Record& record, const Series& series, std::string& out);
  void append_plot(const Record& record, const Series& series, std::string& out);
  void set_aside(const Record& record, Series& series, SetAside reason, EncodeCounts& counts);

  std::string scalar_start_;  // {"type":…,"task":…,"iter":
  std::string plot_start_;
  std::string line_;
  std::string figure_;
  HistogramBuckets buckets_;
  SeriesTable scalars_;
  SeriesTable histograms_;
  std::vector<SetAsideNotice> notices_;
};

}  // namespace tracelet
