#include "tracelet/series_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tracelet {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

constexpr std::size_t kMostIds = 4 * SeriesSummaries::kMostSeries;
constexpr std::uint32_t kNoIndex = ~std::uint32_t{0};

}  // namespace

void SeriesSummaries::observe(RecordSpan records, std::uint64_t after) {
  const std::lock_guard lock(mutex_);
  for (const Record& record : records) {
    if (record.kind != RecordKind::kScalar || !has_value(record) || record.sequence <= after) {
      continue;
    }
    SeriesSummary* series = find(record);
    if (series == nullptr) continue;
    series->last = record.value;
    series->last_step = record.step;
    ++series->points;
    if (!std::isfinite(record.value)) continue;
    // NaN, of the beginning, compares false: it is replaced.
    if (!(series->least <= record.value)) series->least = record.value;
    if (!(series->greatest >= record.value)) series->greatest = record.value;
  }
}

SeriesSummary* SeriesSummaries::find(const Record& record) {
  if (record.tag_id < last_of_tag_.size()) [[likely]] {
    const std::uint32_t index = last_of_tag_[record.tag_id];
    if (index < series_.size()) [[likely]] {
      SeriesSummary& series = series_[index];
      if (series.tag_id == record.tag_id && series.writer_id == record.writer_id) [[likely]]
        return &series;
    }
  }
  return find_slow(record);
}

SeriesSummary* SeriesSummaries::find_slow(const Record& record) {
  const std::uint64_t key = std::uint64_t{record.writer_id} << 32 | record.tag_id;
  const auto known = indexes_.find(key);
  std::uint32_t index;
  if (known != indexes_.end()) {
    index = known->second;
  } else {
    if (series_.size() >= kMostSeries) return nullptr;
    index = static_cast<std::uint32_t>(series_.size());
    series_.push_back({record.tag_id, record.writer_id, kNan, kNan, kNan, 0, 0});
    indexes_.emplace(key, index);
    // Ids are given one by one; a larger one is looked up each time.
    if (record.tag_id >= last_of_tag_.size() && record.tag_id < kMostIds) {
      last_of_tag_.resize(std::min(kMostIds, std::size_t{record.tag_id} * 2 + 64), kNoIndex);
    }
  }
  if (record.tag_id < last_of_tag_.size()) last_of_tag_[record.tag_id] = index;
  return &series_[index];
}

std::vector<SeriesSummary> SeriesSummaries::read() const {
  const std::lock_guard lock(mutex_);
  return series_;
}

}  // namespace tracelet
