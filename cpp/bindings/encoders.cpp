// EventFileSet and JsonLinesEncoder: records to TensorBoard event files and ClearML events.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <string_view>
#include <tuple>

#include "bindings.h"
#include "tracelet/append_file.h"
#include "tracelet/event_file.h"
#include "tracelet/event_file_set.h"
#include "tracelet/file_ledger.h"
#include "tracelet/json_lines.h"
#include "tracelet/metric_json.h"
#include "tracelet/stored_names.h"

namespace tracelet::bindings {
namespace {

// Keeps what the event files read their strings from: a ring's file, mapped, or a dead run's names.
struct RunEventFiles {
  RunEventFiles(std::shared_ptr<RunRing> ring, std::shared_ptr<FileLedger> its_ledger)
      : run(std::move(ring)),
        ledger(std::move(its_ledger)),
        files(&run->file->tags(), ledger.get()) {}
  RunEventFiles(std::shared_ptr<StoredNames> names, std::shared_ptr<FileLedger> its_ledger)
      : stored(std::move(names)),
        ledger(std::move(its_ledger)),
        files(stored.get(), ledger.get()) {}
  std::shared_ptr<RunRing> run;
  std::shared_ptr<StoredNames> stored;
  std::shared_ptr<FileLedger> ledger;  // none: nothing is to outlive the process
  EventFileSet files;
};

using SeriesIds = std::tuple<std::uint32_t, std::uint32_t, bool>;
using Notice = std::tuple<std::uint32_t, std::uint32_t, std::int64_t, double, bool>;

std::vector<SeriesIds> undefined_series(JsonLinesEncoder& self, nb::handle records) {
  const RecordBuffer buffer(records);
  std::vector<Record> found;
  {
    ReleasedGil released;
    found = self.undefined_series(buffer.span());
  }
  std::vector<SeriesIds> ids;
  for (const Record& record : found) {
    ids.emplace_back(record.writer_id, record.tag_id, record.kind == RecordKind::kHistogram);
  }
  return ids;
}

std::tuple<nb::bytes, EncodeCounts> encode_lines(JsonLinesEncoder& self, nb::handle records,
                                                 nb::handle payloads, std::size_t limit_bytes) {
  const RecordBuffer buffer(records);
  const PayloadBuffer payload_buffer(payloads);
  std::string out;
  EncodeCounts counts;
  {
    ReleasedGil released;
    counts = self.encode_lines(buffer.span(), payload_buffer.span(), limit_bytes, out);
  }
  return {nb::bytes(out.data(), out.size()), counts};
}

void append_array_lines(JsonLinesEncoder& self, nb::handle records, nb::handle payloads,
                        std::size_t line_bytes, AppendFile& file, EncodeCounts& counts) {
  const RecordBuffer buffer(records);
  const PayloadBuffer payload_buffer(payloads);
  ReleasedGil released;
  self.append_array_lines(buffer.span(), payload_buffer.span(), line_bytes, file, counts);
}

}  // namespace

void register_encoders(nb::module_& m) {
  nb::class_<FileLedger>(m, "FileLedger",
                         "What of each file that grows is acknowledged, in a file that "
                         "outlives the process. One thread of one process at a time.")
      .def_static(
          "create",
          [](const std::string& path) {
            return std::shared_ptr<FileLedger>(FileLedger::create(path));
          },
          nb::arg("path"), "Creates the file, mode 0600. Raises OSError.")
      .def_static(
          "open",
          [](const std::string& path) {
            return std::shared_ptr<FileLedger>(FileLedger::open(path));
          },
          nb::arg("path"),
          "The file of a process that died. Raises OSError, RuntimeError when it is damaged.")
      .def_static(
          "recover",
          [](const std::string& path) {
            return std::shared_ptr<FileLedger>(FileLedger::recover(path));
          },
          nb::arg("path"),
          "The file of a process that died; a new one, which is_damaged, when there is none or "
          "nothing of it can be read, which is kept as PATH.damaged. Raises OSError, RuntimeError "
          "for one of a later version.")
      .def("add", &FileLedger::add, nb::arg("writer_id"), nb::arg("path"), nb::arg("sequence") = 0,
           "Adds a file before it is made; returns its place. Raises OSError.")
      .def("acknowledge", &FileLedger::acknowledge, nb::arg("place"), nb::arg("size_bytes"),
           nb::arg("sequence"), nb::arg("count") = 0,
           "The file holds so many bytes now, and with them the records up to `sequence`, in all "
           "`count` points.")
      .def("sync", &FileLedger::sync, nb::call_guard<nb::gil_scoped_release>(),
           "Has it reach the disk. Raises OSError.")
      .def(
          "entries",
          [](const FileLedger& self) {
            using Row = std::tuple<std::uint32_t, std::string, std::uint64_t, std::uint64_t,
                                   std::uint32_t, bool, std::size_t>;
            std::vector<Row> rows;
            for (FileLedger::Entry& entry : self.entries()) {
              rows.emplace_back(entry.writer_id, std::move(entry.path), entry.size_bytes,
                                entry.sequence, entry.count, entry.is_certain, entry.place);
            }
            return rows;
          },
          "(writer_id, path, size_bytes, sequence, count, is_certain, place) of each file, in the "
          "order in which they were made: what it holds for certain, the last record therein, how "
          "many points, and whether nothing later was acknowledged. A size of UNKNOWN_SIZE: that "
          "is lost, and the file is to be left as it is.")
      .def_prop_ro("is_damaged", &FileLedger::is_damaged, "Whether something in it is lost.");
  m.attr("UNKNOWN_SIZE") = FileLedger::kUnknownSize;

  m.def(
      "version_event",
      [](double wall_time_s) {
        const std::string event = version_event(wall_time_s);
        return nb::bytes(event.data(), event.size());
      },
      nb::arg("wall_time_s"), "What every event file begins with.");
  m.def(
      "framed_event",
      [](nb::bytes event) {
        std::string framed;
        append_ready_event({reinterpret_cast<const std::byte*>(event.c_str()), event.size()},
                           framed);
        return nb::bytes(framed.data(), framed.size());
      },
      nb::arg("event"), "A serialized Event as it stands in an event file, with its check sums.");
  nb::class_<RunEventFiles>(m, "EventFileSet",
                            "The TensorBoard event files of a run, one a log folder. One thread at "
                            "a time. Format: TFRecord framing around Event protobufs.")
      .def(nb::init<std::shared_ptr<RunRing>, std::shared_ptr<FileLedger>>(), nb::arg("ring"),
           nb::arg("ledger").none() = nb::none(),
           nb::sig("def __init__(self, ring: Ring, ledger: FileLedger | None = None) -> None"))
      .def(nb::init<std::shared_ptr<StoredNames>, std::shared_ptr<FileLedger>>(), nb::arg("names"),
           nb::arg("ledger").none() = nb::none(),
           nb::sig("def __init__(self, names: StoredNames, ledger: FileLedger | None = None) -> "
                   "None"))
      .def(
          "open",
          [](RunEventFiles& self, std::uint32_t writer_id, const std::string& path,
             double wall_time_s,
             std::uint64_t sequence) { self.files.open(writer_id, path, wall_time_s, sequence); },
          nb::arg("writer_id"), nb::arg("path"), nb::arg("wall_time_s"), nb::arg("sequence") = 0,
          "Creates the event file of a writer, whose records up to `sequence` lie in other files. "
          "One that has a file goes on in this one. Raises OSError.")
      .def(
          "leave_out",
          [](RunEventFiles& self, std::uint32_t writer_id) { self.files.leave_out(writer_id); },
          nb::arg("writer_id"),
          "A writer that can't have a file for now: its records are passed by until `open` "
          "succeeds.")
      .def(
          "unopened_writers",
          [](RunEventFiles& self, nb::handle records) {
            const RecordBuffer buffer(records);
            ReleasedGil released;
            return self.files.unopened_writers(buffer.span());
          },
          nb::arg("records"),
          "Ids of the writers in `records` that have no file: none yet, or it was deleted.")
      .def(
          "write",
          [](RunEventFiles& self, nb::handle records, nb::handle payloads) {
            const RecordBuffer buffer(records);
            const PayloadBuffer payload_buffer(payloads);
            ReleasedGil released;
            const auto written = self.files.write(buffer.span(), payload_buffer.span());
            return std::tuple(written.count, written.unreadable);
          },
          nb::arg("records"), nb::arg("payloads").none(),
          "Appends each record to its writer's file: (how many a file has now, how many have a "
          "payload that can't be read). Raises OSError; the same call may then be repeated, "
          "nothing "
          "is written twice.")
      .def(
          "sync",
          [](RunEventFiles& self, FileLedger& synced) {
            ReleasedGil released;
            self.files.sync(synced);
          },
          nb::arg("synced"),
          "Has what was written before this call reach the disk, and notes it in a ledger that is "
          "for this call alone. For a thread of its own. Raises OSError.")
      .def(
          "hold",
          [](RunEventFiles& self, std::uint32_t writer_id, const std::string& path,
             std::uint64_t from_bytes, std::uint64_t until_sequence) {
            ReleasedGil released;
            const auto found = self.files.held(writer_id).load(path, from_bytes, until_sequence);
            return std::tuple(found.end_bytes, found.count);
          },
          nb::arg("writer_id"), nb::arg("path"), nb::arg("from_bytes") = 0,
          nb::arg("until_sequence") = 0,
          "What the file of a dead process has from a byte on is not written again. "
          "`until_sequence`: the last record that the file had, which may lack some. Returns where "
          "the file ceases to be whole, and how many points were found. Raises OSError.")
      .def(
          "restored",
          [](RunEventFiles& self, std::uint32_t writer_id) {
            return self.files.held(writer_id).restored();
          },
          nb::arg("writer_id"),
          "How many records of a file that lacks some are to be found elsewhere now.")
      .def("close", [](RunEventFiles& self) { self.files.close(); });

  nb::class_<AppendFile>(m, "AppendFile", "A file of lines of JSON, by one or several processes.")
      .def(nb::init<const std::string&>(), nb::arg("path"))
      .def_prop_ro("path", [](const AppendFile& self) { return self.path(); })
      .def(
          "append",
          [](AppendFile& self, nb::bytes piece) {
            const std::string_view bytes(piece.c_str(), piece.size());
            ReleasedGil released;
            return self.append_line(bytes);
          },
          nb::arg("piece"),
          "Appends a line, or several, whole or not at all; returns where they end, in bytes. "
          "Raises OSError.");

  nb::class_<EncodeCounts>(m, "EncodeCounts", "What became of the records of one encoder call.")
      .def(nb::init<>())
      .def_ro("consumed", &EncodeCounts::consumed)
      .def_ro("encoded", &EncodeCounts::encoded)
      .def_ro("not_finite", &EncodeCounts::not_finite)
      .def_ro("beyond_float32", &EncodeCounts::beyond_float32)
      .def_ro("unreadable", &EncodeCounts::unreadable);

  nb::class_<JsonLinesEncoder>(m, "JsonLinesEncoder",
                               "Points as ClearML events (events.add_batch). One thread at a time.")
      .def(
          "__init__",
          [](JsonLinesEncoder* self, const std::string& task_json) {
            new (self) JsonLinesEncoder(task_json);
          },
          nb::arg("task_json"))
      .def(
          "define",
          [](JsonLinesEncoder& self, std::uint32_t writer_id, std::uint32_t tag_id,
             bool is_histogram, const std::string& metric_json, const std::string& variant_json) {
            const RecordKind kind = is_histogram ? RecordKind::kHistogram : RecordKind::kScalar;
            self.define(writer_id, tag_id, kind, metric_json, variant_json);
          },
          nb::arg("writer_id"), nb::arg("tag_id"), nb::arg("is_histogram"), nb::arg("metric_json"),
          nb::arg("variant_json"), "Names a series; both names are JSON strings, quotes included.")
      .def("undefined_series", &undefined_series, nb::arg("records"),
           "(writer_id, tag_id, is_histogram) of each series in `records` without a name.")
      .def("encode_lines", &encode_lines, nb::arg("records"), nb::arg("payloads").none(),
           nb::arg("limit_bytes"),
           "Events on lines of their own, until there are `limit_bytes` or more: (bytes, counts).")
      .def("append_array_lines", &append_array_lines, nb::arg("records"),
           nb::arg("payloads").none(), nb::arg("line_bytes"), nb::arg("file"), nb::arg("counts"),
           "Appends the events to an offline session's metrics file, as lines that are arrays. "
           "Raises OSError; `counts` then says how far it came.")
      .def(
          "take_notices",
          [](JsonLinesEncoder& self) {
            std::vector<Notice> notices;
            for (const SetAsideNotice& notice : self.take_notices()) {
              notices.emplace_back(notice.writer_id, notice.tag_id, notice.step, notice.value,
                                   notice.reason == SetAside::kNotFinite);
            }
            return notices;
          },
          "What was set aside for the first time since the last call: (writer_id, tag_id, step, "
          "value, whether it is not finite rather than beyond float32).");

  nb::class_<MetricJsonEncoder>(m, "MetricJsonEncoder",
                                "Scalars as MLflow metrics (runs/log-batch). One thread at a time.")
      .def(nb::init<>())
      .def(
          "define",
          [](MetricJsonEncoder& self, std::uint32_t writer_id, std::uint32_t tag_id,
             const std::string& name_json) { self.define(writer_id, tag_id, name_json); },
          nb::arg("writer_id"), nb::arg("tag_id"), nb::arg("name_json"),
          "Names a series; the name is a JSON string, quotes included.")
      .def(
          "undefined_series",
          [](const MetricJsonEncoder& self, nb::handle records) {
            const RecordBuffer buffer(records);
            std::vector<Record> found;
            {
              ReleasedGil released;
              found = self.undefined_series(buffer.span());
            }
            std::vector<std::tuple<std::uint32_t, std::uint32_t>> ids;
            for (const Record& record : found) ids.emplace_back(record.writer_id, record.tag_id);
            return ids;
          },
          nb::arg("records"), "(writer_id, tag_id) of each series in `records` without a name.")
      .def(
          "encode",
          [](const MetricJsonEncoder& self, nb::handle records, std::size_t limit_count,
             std::size_t limit_bytes) {
            const RecordBuffer buffer(records);
            std::string out;
            EncodeCounts counts;
            {
              ReleasedGil released;
              counts = self.encode(buffer.span(), limit_count, limit_bytes, out);
            }
            return std::tuple(nb::bytes(out.data(), out.size()), counts);
          },
          nb::arg("records"), nb::arg("limit_count"), nb::arg("limit_bytes"),
          "Metrics divided by commas, at most so many: (bytes, counts).");
}

}  // namespace tracelet::bindings
