// HistogramTimelines: the histograms of a run over time, for ClearML.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "tracelet/histogram/plot.h"

namespace tracelet::bindings {
namespace {

using Key = std::tuple<std::uint32_t, std::uint32_t>;
using Figure = std::tuple<std::uint32_t, std::uint32_t, std::string>;

class Timelines {
 public:
  // Returns the series that are new.
  std::vector<Key> observe(RecordSpan records, PayloadSpan payloads) {
    std::vector<Key> added;
    for (const Record& record : records) {
      if (record.kind != RecordKind::kHistogram || record.sequence <= last_sequence_) continue;
      last_sequence_ = record.sequence;
      if (!buckets_.read(payloads.of(record))) continue;
      const Key key{record.writer_id, record.tag_id};
      const auto [found, is_new] = series_.try_emplace(key);
      if (is_new) added.push_back(key);
      Series& series = found->second;
      series.timeline.add(record.step, buckets_);
      series.has_changed = !series.timeline.is_empty();
    }
    return added;
  }

  std::vector<Figure> take_changed() {
    std::vector<Figure> figures;
    for (auto& [key, series] : series_) {
      if (!series.has_changed) continue;
      series.has_changed = false;
      std::string figure;
      series.timeline.append_heatmap_figure(figure);
      figures.emplace_back(std::get<0>(key), std::get<1>(key), std::move(figure));
    }
    return figures;
  }

  void put_back(std::uint32_t writer_id, std::uint32_t tag_id) {
    series_[{writer_id, tag_id}].has_changed = true;
  }

 private:
  struct Series {
    HistogramTimeline timeline;
    bool has_changed = false;
  };

  std::map<Key, Series> series_;
  std::uint64_t last_sequence_ = 0;
  HistogramBuckets buckets_;
};

}  // namespace

void register_timelines(nb::module_& m) {
  nb::class_<Timelines>(m, "HistogramTimelines",
                        "The histograms of each series over time, a bounded number of them. One "
                        "thread at a time.")
      .def(nb::init<>())
      .def(
          "observe",
          [](Timelines& self, nb::handle records, nb::handle payloads) {
            const RecordBuffer buffer(records);
            const PayloadBuffer payload_buffer(payloads);
            ReleasedGil released;
            return self.observe(buffer.span(), payload_buffer.span());
          },
          nb::arg("records"), nb::arg("payloads").none(),
          "Takes in the histograms among the records; those that were given before are passed "
          "over. "
          "Returns (writer_id, tag_id) of the series met for the first time.")
      .def(
          "take_changed",
          [](Timelines& self) {
            ReleasedGil released;
            return self.take_changed();
          },
          "(writer_id, tag_id, figure) of each series with new histograms since the last call; the "
          "figure is plotly's JSON, a heatmap.")
      .def("put_back", &Timelines::put_back, nb::arg("writer_id"), nb::arg("tag_id"),
           "Has the series taken again: its figure could not be sent.");
}

}  // namespace tracelet::bindings
