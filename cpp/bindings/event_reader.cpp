// EventReader: what TensorBoard event files hold, as numpy arrays.
#include "tracelet/event_reader.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"

namespace tracelet::bindings {
namespace {

template <typename T>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
Array<T> to_numpy(const std::vector<T>& values) {
  auto* copy = new std::vector<T>(values);
  const nb::capsule owner(copy, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return {copy->data(), {copy->size()}, owner};
}

nb::bytes to_bytes(const std::string& text) { return nb::bytes(text.data(), text.size()); }

using Counts = std::tuple<nb::bytes, std::size_t, std::size_t, std::size_t, std::uint64_t>;
using Scalars = std::tuple<Array<std::int64_t>, Array<double>, Array<double>>;
template <typename Row>
using Rows = std::tuple<Array<std::int64_t>, Array<double>, nb::typed<nb::list, Row>>;

std::vector<Counts> tags(const EventReader& self) {
  std::vector<Counts> found;
  for (const TagEvents& each : self.tags()) {
    found.emplace_back(to_bytes(each.tag), each.scalars.steps.size(), each.histograms.steps.size(),
                       each.texts.steps.size(), each.others.steps.size());
  }
  return found;
}

Rows<nb::object> histograms(const EventReader& self, std::size_t place) {
  const auto& points = self.tags().at(place).histograms;
  nb::typed<nb::list, nb::object> rows;
  for (const StoredHistogram& each : points.values) {
    rows.append(nb::make_tuple(each.min, each.max, each.num, each.sum, each.sum_squares,
                               to_numpy(each.limits), to_numpy(each.counts)));
  }
  return {to_numpy(points.steps), to_numpy(points.wall_times), rows};
}

Rows<nb::bytes> texts(const EventReader& self, std::size_t place) {
  const auto& points = self.tags().at(place).texts;
  nb::typed<nb::list, nb::bytes> rows;
  for (const std::string& each : points.values) rows.append(to_bytes(each));
  return {to_numpy(points.steps), to_numpy(points.wall_times), rows};
}

using Places = std::tuple<Array<std::int64_t>, Array<double>,
                          std::vector<std::tuple<nb::bytes, std::uint64_t, std::uint32_t>>>;

Places places_of(const EventReader& self, const std::vector<std::int64_t>& steps,
                 const std::vector<double>& wall_times, const std::vector<ValuePlace>& values) {
  std::vector<std::tuple<nb::bytes, std::uint64_t, std::uint32_t>> places;
  places.reserve(values.size());
  for (const ValuePlace& each : values) {
    places.emplace_back(to_bytes(self.files().at(each.file)), each.offset, each.size_bytes);
  }
  return {to_numpy(steps), to_numpy(wall_times), std::move(places)};
}

}  // namespace

void register_event_reader(nb::module_& m) {
  nb::class_<EventReader>(m, "EventReader",
                          "TensorBoard event files read into tables, a tag each. Not thread-safe.")
      .def(nb::init<>())
      .def(
          "read_file",
          [](EventReader& self, const nb::bytes& path, std::uint64_t position) {
            const std::string name(path.c_str(), path.size());
            const WithoutGil released;
            return self.read_file(name, position);
          },
          nb::arg("path"), nb::arg("position"),
          "Reads a file's whole records from `position` (bytes) on; returns the position behind "
          "them, for a later call when the file has grown. Raises OSError. Releases the GIL.")
      .def_prop_ro("damaged_records", &EventReader::damaged_records,
                   "Records left out because they are damaged.")
      .def_prop_ro("graphs", &EventReader::graphs,
                   "Events with a graph or a profile: they have no tag.")
      .def(
          "plugin",
          [](const EventReader& self, std::size_t place) {
            return to_bytes(self.tags().at(place).plugin);
          },
          nb::arg("place"), "The name of the plugin that the tag's tensors are of; b\"\" for none.")
      .def(
          "others",
          [](const EventReader& self, std::size_t place) {
            const auto& points = self.tags().at(place).others;
            return places_of(self, points.steps, points.wall_times, points.values);
          },
          nb::arg("place"),
          "Steps, wall times (s) and, of each value that is no number, histogram or text, (path, "
          "offset, size) of its Summary.Value in a file.")
      .def(
          "text_places",
          [](const EventReader& self, std::size_t place) {
            const TagEvents& events = self.tags().at(place);
            return places_of(self, events.texts.steps, events.texts.wall_times, events.text_places);
          },
          nb::arg("place"), "As `others`, of the texts.")
      .def("tags", &tags,
           "For each tag, in the order met: its bytes and the numbers of its scalars, histograms, "
           "texts and other events.")
      .def(
          "scalars",
          [](const EventReader& self, std::size_t place) -> Scalars {
            const auto& points = self.tags().at(place).scalars;
            return {to_numpy(points.steps), to_numpy(points.wall_times), to_numpy(points.values)};
          },
          nb::arg("place"), "Steps, wall times (s) and values of the tag at `place`; copies.")
      .def("histograms", &histograms, nb::arg("place"),
           "Steps, wall times (s) and (min, max, num, sum, sum_squares, limits, counts) each.")
      .def("texts", &texts, nb::arg("place"), "Steps, wall times (s) and the texts' bytes.");
}

}  // namespace tracelet::bindings
