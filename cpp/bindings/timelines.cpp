// HistogramTimelines: the histograms of a run over time, for ClearML.
#include "tracelet/histogram/timelines.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"

namespace tracelet::bindings {
namespace {

using Key = std::tuple<std::uint32_t, std::uint32_t>;
using Figure = std::tuple<std::uint32_t, std::uint32_t, std::string>;

std::vector<Key> as_tuples(const std::vector<HistogramTimelines::Key>& keys) {
  std::vector<Key> tuples;
  for (const auto& key : keys) tuples.emplace_back(key.writer_id, key.tag_id);
  return tuples;
}

}  // namespace

void register_timelines(nb::module_& m) {
  nb::class_<HistogramTimelines>(m, "HistogramTimelines",
                                 "The histograms of each series over time, a bounded number of "
                                 "them. One thread at a time.")
      .def(nb::init<>())
      .def(
          "observe",
          [](HistogramTimelines& self, nb::handle records, nb::handle payloads) {
            const RecordBuffer buffer(records);
            const PayloadBuffer payload_buffer(payloads);
            ReleasedGil released;
            return as_tuples(self.observe(buffer.span(), payload_buffer.span()));
          },
          nb::arg("records"), nb::arg("payloads").none(),
          "Takes in the histograms among the records; those that were given before are passed "
          "over. "
          "Returns (writer_id, tag_id) of the series met for the first time.")
      .def(
          "take_changed",
          [](HistogramTimelines& self) {
            ReleasedGil released;
            std::vector<Figure> figures;
            for (auto& [key, plot] : self.take_changed()) {
              figures.emplace_back(key.writer_id, key.tag_id, std::move(plot));
            }
            return figures;
          },
          "(writer_id, tag_id, figure) of each series with new histograms since the last call; the "
          "figure is plotly's JSON, a heatmap.")
      .def(
          "put_back",
          [](HistogramTimelines& self, std::uint32_t writer_id, std::uint32_t tag_id) {
            self.put_back({writer_id, tag_id});
          },
          nb::arg("writer_id"), nb::arg("tag_id"),
          "Has the series taken again: its figure could not be sent.")
      .def(
          "state",
          [](const HistogramTimelines& self) {
            std::string state;
            self.append_state(state);
            return nb::bytes(state.data(), state.size());
          },
          "What `restore` goes on from, with a checksum.")
      .def(
          "restore",
          [](HistogramTimelines& self, nb::bytes state) {
            return self.restore(
                std::as_bytes(std::span(static_cast<const char*>(state.data()), state.size())));
          },
          nb::arg("state"),
          "Goes on from the state of another one, in a process that died. False for bytes that are "
          "no whole state.")
      .def(
          "keys", [](const HistogramTimelines& self) { return as_tuples(self.keys()); },
          "(writer_id, tag_id) of all series.");
}

}  // namespace tracelet::bindings
