// StoredRing, StoredNames, check_records: what a dead process left, read without trust.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "bindings.h"
#include "tracelet/record_check.h"
#include "tracelet/stored_ring.h"

namespace tracelet::bindings {
namespace {

nb::bytes bytes_of(const std::vector<Record>& records) {
  return nb::bytes(reinterpret_cast<const char*>(records.data()), records.size() * sizeof(Record));
}

nb::dict dict_of(const FaultCounts& faults) {
  nb::dict counts;
  for (std::size_t i = 0; i < faults.size(); ++i) {
    if (faults[i] != 0) counts[words_of(static_cast<RecordFault>(i))] = faults[i];
  }
  return counts;
}

nb::tuple read(const StoredRing& ring, std::uint64_t position, std::size_t limit,
               std::size_t limit_bytes, const std::shared_ptr<StoredNames>& names) {
  StoredRecords found;
  {
    ReleasedGil released;
    found = ring.read(position, limit, limit_bytes, names ? *names : ring.names());
  }
  nb::dict counts = dict_of(found.faults);
  if (found.cut_off != 0) counts["cut off"] = found.cut_off;
  if (found.awaiting_device != 0) counts["device's value lost"] = found.awaiting_device;
  return nb::make_tuple(bytes_of(found.records),
                        nb::bytes(found.payloads.data(), found.payloads.size()), counts);
}

nb::object check(nb::handle records, nb::handle payloads, const StoredNames& names) {
  const RecordBuffer buffer(records);
  const PayloadBuffer payload_buffer(payloads);
  CheckedRecords checked;
  {
    ReleasedGil released;
    checked = check_records(buffer.span(), names, payload_buffer.span().size);
  }
  if (checked.records.empty()) return nb::none();
  return nb::make_tuple(bytes_of(checked.records), dict_of(checked.faults));
}

nb::dict dropped(const StoredRing& ring) {
  const StoredRing::Counters& counters = ring.counters();
  nb::dict dropped;
  dropped["ring full"] = counters.ring_full;
  dropped["tag table full"] = counters.tag_table_full;
  dropped["no disk space"] = counters.no_disk_space;
  dropped["run ended"] = counters.run_ended;
  return dropped;
}

void register_names(nb::module_& m) {
  nb::class_<StoredNames>(m, "StoredNames",
                          "The strings behind the ids of a dead process' records, as far as they "
                          "can be trusted. Ids may be missing between others.")
      .def(nb::init<>(), "Without a string.")
      .def_static(
          "read",
          [](const std::string& path) {
            return std::make_shared<StoredNames>(StoredNames::read(path));
          },
          nb::arg("path"),
          "Out of a `names.bin`; none of a missing file. A damaged block costs its own strings. "
          "Raises OSError, also for what is no regular file of this user's, and RuntimeError for "
          "one of a newer version.")
      .def(
          "text",
          [](StoredNames& self, std::uint32_t id) {
            const std::string_view text = self.text(id);
            return nb::str(text.data(), text.size());
          },
          nb::arg("id"), "Empty for an id that is not known.")
      .def("text_count", &StoredNames::size, "The greatest id that is known.")
      .def("knows", &StoredNames::knows, nb::arg("id"))
      .def(
          "add",
          [](StoredNames& self, std::uint32_t id, const std::string& text) { self.add(id, text); },
          nb::arg("id"), nb::arg("text"), "Of an id that is known, nothing changes.")
      .def("add_missing", &StoredNames::add_missing, nb::arg("other"),
           "Takes what `other` knows and this does not.")
      .def_prop_ro("problem", &StoredNames::problem, "What was damaged, or \"\".")
      .def_prop_ro("whole_bytes", &StoredNames::whole_bytes,
                   "Of a `names.bin`: where its last whole block ends.");
}

}  // namespace

void register_stored(nb::module_& m) {
  register_names(m);
  nb::class_<StoredRing>(
      m, "StoredRing",
      "The ring's file of a dead process, read without trust: what comes out is bounded, and its "
      "records can be given to encoders, fold and sinks. It maps nothing, takes no lock, writes "
      "nothing.\n\n"
      "    ring = StoredRing.open(path)\n"
      "    names = StoredNames.read(names_bin)  # has checksums, so it comes first\n"
      "    names.add_missing(ring.names)\n"
      "    position = ring.tail\n"
      "    while position < ring.head:\n"
      "        records, payloads, set_aside = ring.read(position, 65536, 4 << 20, names)\n"
      "        position += len(records) // RECORD_SIZE_BYTES\n\n"
      "What a journal gives back goes through `check_records(records, payloads, names)`.")
      .def_static(
          "open",
          [](const std::string& path) {
            return std::make_shared<StoredRing>(StoredRing::open(path));
          },
          nb::arg("path"),
          "Raises OSError, also for what is no regular file of this user's; RuntimeError, with "
          "words, for what is no ring, one of another version, or damaged beyond use.")
      .def_static("id_of", &StoredRing::id_of, nb::arg("path"),
                  "The ring's own id by its header alone; \"\" for a ring without. Raises as "
                  "`open`.")
      .def_prop_ro("path", &StoredRing::path)
      .def_prop_ro("id", &StoredRing::id)
      .def_prop_ro("capacity", &StoredRing::capacity)
      .def_prop_ro("owner_pid", &StoredRing::owner_pid)
      .def_prop_ro("head", &StoredRing::head, "How many points were accepted.")
      .def_prop_ro("tail", &StoredRing::tail, "How many points were taken out.")
      .def_prop_ro("skipped", &StoredRing::skipped)
      .def_prop_ro("dropped", &dropped, nb::sig("def dropped(self) -> dict[str, int]"),
                   "Points that found no place, by reason, as `Ring.dropped`: they outlive the "
                   "process that dropped them.")
      .def_prop_ro("not_finite_values",
                   [](const StoredRing& self) { return self.counters().not_finite_values; })
      .def_prop_ro(
          "names",
          [](const StoredRing& self) { return std::make_shared<StoredNames>(self.names()); },
          "The strings of its own tag table, which has no checksums.")
      .def_prop_ro("problem", &StoredRing::problem,
                   "What was damaged and got round, in words; or \"\".")
      .def(
          "read", &read, nb::arg("position"), nb::arg("limit"), nb::arg("limit_bytes"),
          nb::arg("names").none() = nb::none(),
          nb::sig("def read(self, position: int, limit: int, limit_bytes: int, names: StoredNames "
                  "| None = None) -> tuple[bytes, bytes, dict[str, int]]"),
          "(records, payloads, set_aside) from `position` on: at least one record while there are "
          "any, and none further once the payloads are `limit_bytes` or more. In the place of what "
          "is no point lies a record of kind 0; `set_aside` counts them by reason. \"cut off\": "
          "the call had not returned. Ids are looked up in `names`, or in the ring's own.")
      .def(
          "scalars_again",
          [](const StoredRing& self, std::uint64_t position, std::size_t limit) {
            return bytes_of(self.scalars_again(position, limit));
          },
          nb::arg("position"), nb::arg("limit"),
          "Records from `position` on, also those that were taken out: for who looks at the ring "
          "of "
          "a run that goes on. Kind 0 for what is no scalar. What lies more than `capacity` before "
          "the head, read once more afterwards, may be torn and must be left out.");
  m.def(
      "check_records", &check, nb::arg("records"), nb::arg("payloads").none(), nb::arg("names"),
      nb::sig("def check_records(records: object, payloads: object | None, names: StoredNames) -> "
              "tuple[bytes, dict[str, int]] | None"),
      "None when each record is one that this version could have written. Else the records, with "
      "one of kind 0 in the place of each that is damaged or whose name is lost, and how many "
      "those are by reason.");
}

}  // namespace tracelet::bindings
