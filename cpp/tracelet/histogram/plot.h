// Histograms as plotly figures for ClearML: bars for one step, and a heatmap of steps by bins.
//
// They are binned already, so no figure is of plotly's type "histogram", which bins again.
// https://plotly.com/javascript/reference/bar/ and .../heatmap/
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tracelet/histogram/payload.h"

namespace tracelet {

// A bucket's count is spread evenly over the bucket, as far as it lies between min and max, but for
// one value each at min and max. Counts that are whole stay whole, and their total stays what it
// is.
std::vector<double> spread(const HistogramBuckets& buckets, double low, double high,
                           std::size_t bin_count);

// Buckets of explicit limits that are at most this many are shown as they are; others are spread
// over kUniformBars bars of equal width. Empty bars are left out.
inline constexpr std::size_t kMostBars = 128;
inline constexpr std::size_t kUniformBars = 64;
void append_bar_figure(const HistogramBuckets& buckets, std::string& out);

// The histograms of one series over time. Keeps at most kMostRows of them, evenly: the first of
// every n, where n doubles when they have become too many; besides these the last one. Which ones
// it keeps depends on nothing but how many there were.
class HistogramTimeline {
 public:
  static constexpr std::size_t kMostRows = 48;
  static constexpr std::size_t kColumns = 64;

  // One without any bucket is passed over.
  void add(std::int64_t step, const HistogramBuckets& buckets);
  bool is_empty() const { return added_ == 0; }
  // At most 64 KiB. Rows are sorted by step; of several with the same step the last one is shown.
  void append_heatmap_figure(std::string& out) const;

  // Little-endian: u64 histograms so far, u64 stride, u32 rows; of each row, the last one after the
  // kept ones, i64 step, f64 min, f64 max and kColumns f32.
  void append_state(std::string& out) const;
  // Takes one from the front of the bytes. False for what no timeline can have left; then neither
  // is to be used.
  bool take_state(std::span<const std::byte>& bytes);

 private:
  struct Row {
    std::int64_t step = 0;
    double min = 0;
    double max = 0;
    std::vector<float> counts;  // kColumns, evenly from min to max
  };

  std::vector<Row> rows_;
  Row last_;
  std::uint64_t added_ = 0;
  std::uint64_t stride_ = 1;
};

}  // namespace tracelet
