#include "tracelet/histogram/plot.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

namespace tracelet {
namespace {

// Seven digits place a bar to a ten-thousandth of its width.
constexpr int kDigits = 7;

void append_number(std::string& out, double value) {
  char text[32];
  const bool is_whole = std::abs(value) < 0x1p53 && value == std::trunc(value);
  const auto end =
      is_whole
          ? std::to_chars(text, text + sizeof(text), static_cast<std::int64_t>(value))
          : std::to_chars(text, text + sizeof(text), value, std::chars_format::general, kDigits);
  out.append(text, end.ptr);
}

template <typename Values>
void append_list(std::string& out, const Values& values) {
  out.push_back('[');
  bool is_first = true;
  for (const auto value : values) {
    if (!is_first) out.push_back(',');
    is_first = false;
    append_number(out, static_cast<double>(value));
  }
  out.push_back(']');
}

// Mass on a line, added piece by piece from left to right, as cumulated at evenly spaced edges.
class Spreader {
 public:
  Spreader(double low, double high, std::size_t bin_count)
      : low_(low),
        bins_per_unit_(static_cast<double>(bin_count) / (high - low)),
        bins_(bin_count) {}

  void add(double left, double right, double count) {
    const double from = position(left);
    const double to = position(right);
    if (!(to > from)) {  // all in one place; the last bin holds its right edge
      bins_[std::min(static_cast<std::size_t>(from), bins_.size() - 1)] += count;
      return;
    }
    const auto first = static_cast<std::size_t>(from);
    for (std::size_t i = first; i < bins_.size() && static_cast<double>(i) < to; ++i) {
      const double begin = std::max(from, static_cast<double>(i));
      const double end = std::min(to, static_cast<double>(i + 1));
      bins_[i] += count * (end - begin) / (to - from);
    }
  }

  // Rounds what has been cumulated, so that the total stays.
  std::vector<double> whole(double total) {
    double exact = 0;
    double given = 0;
    for (double& bin : bins_) {
      exact += bin;
      bin = std::round(exact) - given;
      given += bin;
    }
    bins_.back() += total - given;
    return std::move(bins_);
  }
  std::vector<double> as_they_are() { return std::move(bins_); }

 private:
  double position(double x) const {
    return std::clamp((x - low_) * bins_per_unit_, 0.0, static_cast<double>(bins_.size()));
  }

  double low_;
  double bins_per_unit_;
  std::vector<double> bins_;
};

struct Range {
  double low;
  double high;
};

// From min to max, where they are numbers and in order; else from the first finite limit to the
// last.
Range extent(const HistogramBuckets& buckets) {
  const auto& [min, max] = std::pair(buckets.header.min, buckets.header.max);
  if (std::isfinite(min) && std::isfinite(max) && min <= max) return {min, max};
  Range range{0, 0};
  bool is_first = true;
  for (const double limit : buckets.limits) {
    if (!std::isfinite(limit)) continue;
    if (is_first) range.low = limit;
    range.high = std::max(range.low, limit);
    is_first = false;
  }
  return range;
}

// As numpy does, where all values are one.
Range widened(double low, double high) {
  if (high > low && std::isfinite(high - low)) return {low, high};
  const double margin = std::max(0.5, std::abs(low) * 1e-6);
  return high > low ? Range{low / 2, high / 2} : Range{low - margin, high + margin};
}

// Where bucket i begins and ends, within the extent. NaN among limits counts as where it begins.
Range reach(const HistogramBuckets& buckets, Range extent, std::size_t i) {
  const auto inside = [&](double x) {
    return std::isnan(x) ? extent.low : std::clamp(x, extent.low, extent.high);
  };
  const double left = i == 0 ? extent.low : inside(buckets.limits[i - 1]);
  return {left, std::max(left, inside(buckets.limits[i]))};
}

bool is_shown(double count) { return std::isfinite(count) && count > 0; }

std::string with_commas(double value) {
  std::string digits;
  append_number(digits, value);
  for (std::size_t i = digits.size(); i > 3 && digits.find('.') == std::string::npos;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

// What the bars don't show, as the figure's title.
void append_title(const HistogramHeader& header, std::string& out) {
  if (header.nan_count + header.inf_count == 0 && header.num > 0) return;
  out.append("\"title\":\"");
  if (header.nan_count + header.inf_count == 0) {
    out.append("no values");
  } else {
    out.append(with_commas(static_cast<double>(header.nan_count))).append(" NaN and ");
    out.append(with_commas(static_cast<double>(header.inf_count))).append(" infinite of ");
    out.append(with_commas(header.num + static_cast<double>(header.nan_count + header.inf_count)));
    out.append(" values are not shown");
  }
  out.append("\",");
}

}  // namespace

std::vector<double> spread(const HistogramBuckets& buckets, double low, double high,
                           std::size_t bin_count) {
  Spreader spreader(low, high, bin_count);
  const Range within = extent(buckets);
  double total = 0;
  bool are_whole = true;
  for (std::size_t i = 0; i < buckets.counts.size(); ++i) {
    const double count = buckets.counts[i];
    if (!is_shown(count)) continue;
    const Range range = reach(buckets, within, i);
    total += count;
    are_whole = are_whole && count == std::trunc(count);
    // One value is known to be at each end: rounding must not leave these empty.
    double rest = count;
    for (const double end : {within.low, within.high}) {
      if (rest < 1 || (range.low != end && range.high != end)) continue;
      spreader.add(end, end, 1);
      --rest;
    }
    if (rest > 0) spreader.add(range.low, range.high, rest);
  }
  return are_whole ? spreader.whole(total) : spreader.as_they_are();
}

void append_bar_figure(const HistogramBuckets& buckets, std::string& out) {
  std::vector<double> centers, widths, counts;
  const auto add_bar = [&](double left, double right, double count) {
    if (!is_shown(count)) return;
    centers.push_back(left / 2 + right / 2);
    widths.push_back(right - left);
    counts.push_back(count);
  };
  const HistogramHeader& header = buckets.header;
  const Range within = extent(buckets);
  const auto [low, high] = widened(within.low, within.high);
  if ((header.flags & kExplicitLimits) != 0 && buckets.counts.size() <= kMostBars + 1) {
    for (std::size_t i = 0; i < buckets.counts.size(); ++i) {
      // A limit that is infinite can't be drawn: the bar ends where the values do.
      const double left = i == 0 ? low : buckets.limits[i - 1];
      const double right = buckets.limits[i];
      add_bar(std::isfinite(left) ? left : low, std::isfinite(right) ? right : high,
              buckets.counts[i]);
    }
  } else if (!buckets.counts.empty()) {
    const std::vector<double> bars = spread(buckets, low, high, kUniformBars);
    const double width = (high - low) / static_cast<double>(bars.size());
    for (std::size_t i = 0; i < bars.size(); ++i) {
      const double left = low + width * static_cast<double>(i);
      add_bar(left, left + width, bars[i]);
    }
  }
  out.append("{\"data\":[{\"type\":\"bar\",\"x\":");
  append_list(out, centers);
  out.append(",\"y\":");
  append_list(out, counts);
  out.append(",\"width\":");
  append_list(out, widths);
  out.append("}],\"layout\":{");
  append_title(header, out);
  out.append("\"bargap\":0,\"xaxis\":{\"title\":\"value\"},\"yaxis\":{\"title\":\"count\"}}}");
}

void HistogramTimeline::add(std::int64_t step, const HistogramBuckets& buckets) {
  if (buckets.counts.empty()) return;
  const Range within = extent(buckets);
  const auto [low, high] = widened(within.low, within.high);
  const std::vector<double> counts = spread(buckets, low, high, kColumns);
  last_ = {step, low, high, {counts.begin(), counts.end()}};
  if (added_++ % stride_ != 0) return;
  if (rows_.size() == kMostRows) {
    // From 1 on: moved onto itself, a row would be empty.
    for (std::size_t i = 1; i < kMostRows / 2; ++i) rows_[i] = std::move(rows_[2 * i]);
    rows_.resize(kMostRows / 2);
    stride_ *= 2;
  }
  // kMostRows is even, so this one is the first of every n for the doubled n as well.
  rows_.push_back(last_);
}

namespace {

struct TimelineHead {
  std::uint64_t added;
  std::uint64_t stride;
};
struct RowHead {
  std::int64_t step;
  double min;
  double max;
};
constexpr std::size_t kCountsBytes = HistogramTimeline::kColumns * sizeof(float);

bool take_bytes(std::span<const std::byte>& bytes, void* to, std::size_t size) {
  if (bytes.size() < size) return false;
  std::memcpy(to, bytes.data(), size);
  bytes = bytes.subspan(size);
  return true;
}

}  // namespace

void HistogramTimeline::append_state(std::string& out) const {
  const auto append = [&out](const void* bytes, std::size_t size) {
    out.append(static_cast<const char*>(bytes), size);
  };
  const TimelineHead head{added_, stride_};
  const auto count = static_cast<std::uint32_t>(rows_.size() + (is_empty() ? 0 : 1));
  append(&head, sizeof(head));
  append(&count, sizeof(count));
  const auto append_row = [&append](const Row& row) {
    const RowHead row_head{row.step, row.min, row.max};
    append(&row_head, sizeof(row_head));
    append(row.counts.data(), kCountsBytes);
  };
  for (const Row& row : rows_) append_row(row);
  if (!is_empty()) append_row(last_);
}

bool HistogramTimeline::take_state(std::span<const std::byte>& bytes) {
  TimelineHead head;
  std::uint32_t count;
  if (!take_bytes(bytes, &head, sizeof(head)) || !take_bytes(bytes, &count, sizeof(count)))
    return false;
  if (!std::has_single_bit(head.stride) || count > kMostRows + 1) return false;
  // As many are kept as `add` keeps of so many.
  const std::uint64_t kept = head.added / head.stride + (head.added % head.stride != 0 ? 1 : 0);
  if (count != (head.added == 0 ? 0 : kept + 1)) return false;
  std::vector<Row> rows(count);
  for (Row& row : rows) {
    RowHead row_head;
    row.counts.resize(kColumns);
    if (!take_bytes(bytes, &row_head, sizeof(row_head)) ||
        !take_bytes(bytes, row.counts.data(), kCountsBytes))
      return false;
    row.step = row_head.step;
    row.min = row_head.min;
    row.max = row_head.max;
    // The width must be finite, too: a figure is made of it.
    if (!std::isfinite(row.max - row.min) || !(row.min < row.max)) return false;
    for (const float each : row.counts) {
      if (!std::isfinite(each) || each < 0) return false;
    }
  }
  added_ = head.added;
  stride_ = head.stride;
  if (!rows.empty()) {
    last_ = std::move(rows.back());
    rows.pop_back();
  }
  rows_ = std::move(rows);
  return true;
}

void HistogramTimeline::append_heatmap_figure(std::string& out) const {
  std::map<std::int64_t, const Row*> by_step;
  for (const Row& row : rows_) by_step[row.step] = &row;
  if (added_ > 0) by_step[last_.step] = &last_;
  double low = last_.min;
  double high = last_.max;
  for (const auto& [step, row] : by_step) {
    low = std::min(low, row->min);
    high = std::max(high, row->max);
  }
  const double width = (high - low) / kColumns;
  std::vector<double> centers(kColumns);
  for (std::size_t i = 0; i < kColumns; ++i) {
    centers[i] = low + width * (static_cast<double>(i) + 0.5);
  }
  out.append("{\"data\":[{\"type\":\"heatmap\",\"x\":");
  append_list(out, centers);
  out.append(",\"y\":[");
  bool is_first = true;
  for (const auto& [step, row] : by_step) {
    if (!is_first) out.push_back(',');
    is_first = false;
    out.append(std::to_string(step));
  }
  out.append("],\"z\":[");
  is_first = true;
  for (const auto& [step, row] : by_step) {
    Spreader spreader(low, high, kColumns);
    const double row_width = (row->max - row->min) / kColumns;
    double total = 0;
    for (std::size_t i = 0; i < kColumns; ++i) {
      if (row->counts[i] == 0) continue;
      const double left = row->min + row_width * static_cast<double>(i);
      spreader.add(left, left + row_width, row->counts[i]);
      total += row->counts[i];
    }
    if (!is_first) out.push_back(',');
    is_first = false;
    append_list(out, spreader.whole(std::round(total)));
  }
  out.append(
      "],\"colorscale\":\"Viridis\",\"colorbar\":{\"title\":\"count\"}}],\"layout\":{\"xaxis\":"
      "{\"title\":\"value\"},\"yaxis\":{\"title\":\"step\"}}}");
}

}  // namespace tracelet
