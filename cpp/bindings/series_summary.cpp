// SeriesSummaries: the last, least and greatest value of each series.
#include "tracelet/series_summary.h"

#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <vector>

#include "bindings.h"

namespace tracelet::bindings {

void register_series_summary(nb::module_& m) {
  using Row =
      std::tuple<std::uint32_t, std::uint32_t, double, double, double, std::uint64_t, std::int64_t>;
  nb::class_<SeriesSummaries>(m, "SeriesSummaries",
                              "Counts the scalars of each series. One thread observes, any reads.")
      .def(nb::init<>())
      .def(
          "observe",
          [](SeriesSummaries& self, nb::handle records, std::uint64_t after) {
            const RecordBuffer buffer(records);
            ReleasedGil released;
            self.observe(buffer.span(), after);
          },
          nb::arg("records"), nb::arg("after"),
          "Takes in the scalars whose sequence is greater than `after`.")
      .def(
          "read",
          [](const SeriesSummaries& self) {
            std::vector<Row> rows;
            {
              const WithoutGil released;  // who observes may hold the lock for a moment
              for (const SeriesSummary& each : self.read()) {
                rows.emplace_back(each.tag_id, each.writer_id, each.last, each.least, each.greatest,
                                  each.points, each.last_step);
              }
            }
            return rows;
          },
          "(tag_id, writer_id, last, least, greatest, points, last_step) of each series, in the "
          "order in which they came; least and greatest are NaN where no value is finite.");
}

}  // namespace tracelet::bindings
