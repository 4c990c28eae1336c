// The last, least and greatest value of each series, counted as the drainer passes the points on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "tracelet/record.h"

namespace tracelet {

// Of one tag of one writer.
struct SeriesSummary {
  std::uint32_t tag_id = 0;
  std::uint32_t writer_id = 0;
  double last = 0;
  double least = 0;  // of the finite values, NaN where there is none; as is the greatest
  double greatest = 0;
  std::uint64_t points = 0;
  std::int64_t last_step = 0;
};

// One thread observes, any reads.
class SeriesSummaries {
 public:
  // More are left out: a program that makes a tag for each step must not fill the memory.
  static constexpr std::size_t kMostSeries = std::size_t{1} << 17;

  // Takes in the scalars of these records whose sequence is greater than `after`.
  void observe(RecordSpan records, std::uint64_t after);
  // In the order in which the series came first.
  std::vector<SeriesSummary> read() const;

 private:
  // Null for one too many.
  SeriesSummary* find(const Record& record);
  SeriesSummary* find_slow(const Record& record);

  mutable std::mutex mutex_;  // of all below; held for a lease, a fraction of a millisecond
  std::vector<SeriesSummary> series_;
  std::unordered_map<std::uint64_t, std::uint32_t> indexes_;
  std::vector<std::uint32_t> last_of_tag_;  // by tag id: the index of the series that came last
};

}  // namespace tracelet
