// Fold: the aggregation of points before they are shipped.
#include "tracelet/fold.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bindings.h"

namespace tracelet::bindings {
namespace {

nb::bytes to_bytes(const std::vector<Record>& records) {
  return nb::bytes(reinterpret_cast<const char*>(records.data()), records.size() * sizeof(Record));
}

}  // namespace

void register_fold(nb::module_& m) {
  nb::enum_<Reduce>(m, "Reduce", "What a window of points becomes.")
      .value("MEAN", Reduce::kMean)
      .value("LAST", Reduce::kLast)
      .value("MIN_MAX", Reduce::kMinMax);

  nb::class_<Fold>(m, "Fold", "Windows of points by tag, folded into one or two. One thread.")
      .def(nb::init<>())
      .def(
          "define",
          [](Fold& self, std::uint32_t tag_id, Reduce reduce, std::int64_t every_steps,
             double every_s) { self.define(tag_id, {reduce, every_steps, every_s}); },
          nb::arg("tag_id"), nb::arg("reduce"), nb::arg("every_steps"), nb::arg("every_s"))
      .def(
          "pass_through", [](Fold& self, std::uint32_t tag_id) { self.define(tag_id); },
          nb::arg("tag_id"))
      .def(
          "undefined_tags",
          [](const Fold& self, nb::handle records) {
            const RecordBuffer buffer(records);
            ReleasedGil released;
            return self.undefined_tags(buffer.span());
          },
          nb::arg("records"))
      .def(
          "apply",
          [](Fold& self, nb::handle records) {
            const RecordBuffer buffer(records);
            std::vector<Record> out;
            {
              ReleasedGil released;
              self.apply(buffer.span(), out);
            }
            return to_bytes(out);
          },
          nb::arg("records"), "What leaves the fold as `records` enter it, as record bytes.")
      .def(
          "flush",
          [](Fold& self) {
            std::vector<Record> out;
            self.flush(out);
            return to_bytes(out);
          },
          "The windows still open, closed, as record bytes.")
      .def_prop_ro("folded", &Fold::folded, "Points that others stand for.")
      .def_prop_ro("held", &Fold::held, "Points in windows that are still open.");
}

}  // namespace tracelet::bindings
