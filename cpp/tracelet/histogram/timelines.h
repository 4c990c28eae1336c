// The histograms of all series of a run over time, and their state as bytes: another process goes
// on with the views where a dead one has left them.
//
// Format of the state, little-endian: "TLVIEW1\0"; u64 the last sequence that was taken in; u32 the
// number of series; for each u32 writer id, u32 tag id and its timeline (plot.h); u32 CRC-32C of
// all before it.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "tracelet/histogram/plot.h"
#include "tracelet/record.h"

namespace tracelet {

// One thread at a time.
class HistogramTimelines {
 public:
  struct Key {
    std::uint32_t writer_id;
    std::uint32_t tag_id;
    auto operator<=>(const Key&) const = default;
  };
  struct Figure {
    Key key;
    std::string plot;  // plotly's JSON, a heatmap
  };

  // Takes in the histograms among the records; those that were given before are passed over.
  // Returns the series that are new.
  std::vector<Key> observe(RecordSpan records, PayloadSpan payloads);
  // Those of series with new histograms since the last call.
  std::vector<Figure> take_changed();
  // Has the series taken again.
  void put_back(Key key) { series_[key].has_changed = true; }

  void append_state(std::string& out) const;
  // Goes on from a state; for one that holds nothing yet. False, and nothing is changed, for bytes
  // that are none. Nothing is believed of them but what the checksum and the ranges bear out.
  bool restore(std::span<const std::byte> state);
  std::vector<Key> keys() const;

 private:
  struct Series {
    HistogramTimeline timeline;
    bool has_changed = false;
  };

  std::map<Key, Series> series_;
  std::uint64_t last_sequence_ = 0;
  HistogramBuckets buckets_;
};

}  // namespace tracelet
