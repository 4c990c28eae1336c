// Payloads: the arena of a ring as a buffer, and payloads gathered for a block of the journal.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "tracelet/histogram/payload.h"
#include "tracelet/series_summary.h"

namespace tracelet::bindings {
namespace {

// Keeps the ring's file mapped for as long as its memory is looked at.
struct Payloads {
  std::shared_ptr<RunRing> run;
};

int payloads_get_buffer(PyObject* self, Py_buffer* view, int flags) {
  const PayloadSpan span = nb::inst_ptr<Payloads>(self)->run->file->payloads().span();
  return PyBuffer_FillInfo(view, self, const_cast<std::byte*>(span.data),
                           static_cast<Py_ssize_t>(span.size), /*readonly=*/1, flags);
}

PyType_Slot payloads_slots[] = {
    {Py_bf_getbuffer, reinterpret_cast<void*>(payloads_get_buffer)},
    {0, nullptr},
};

struct Gathered {
  std::vector<Record> records;
  std::string payloads;
};

bool have_payloads(RecordSpan records) {
  for (const Record& record : records) {
    if (record.payload_size != 0) return true;
  }
  return false;
}

// The first records whose payloads fit `limit_bytes`, at least one, with their payloads.
Gathered gather(RecordSpan records, PayloadSpan payloads, std::size_t limit_bytes) {
  Gathered gathered;
  for (Record record : records) {
    if (!gathered.records.empty() && gathered.payloads.size() + record.payload_size > limit_bytes) {
      break;
    }
    const std::span<const std::byte> payload = payloads.of(record);
    record.payload_offset = gathered.payloads.size();
    record.payload_size = payload.size();
    gathered.payloads.append(reinterpret_cast<const char*>(payload.data()), payload.size());
    gathered.records.push_back(record);
  }
  return gathered;
}

nb::object gather_block(nb::handle records, nb::handle payloads, std::size_t limit_bytes) {
  const RecordBuffer buffer(records);
  const PayloadBuffer payload_buffer(payloads);
  Gathered gathered;
  {
    ReleasedGil released;
    if (have_payloads(buffer.span())) {
      gathered = gather(buffer.span(), payload_buffer.span(), limit_bytes);
    }
  }
  if (gathered.records.empty()) return nb::none();
  return nb::make_tuple(nb::bytes(reinterpret_cast<const char*>(gathered.records.data()),
                                  gathered.records.size() * sizeof(Record)),
                        nb::bytes(gathered.payloads.data(), gathered.payloads.size()));
}

using Awaited = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;
using PayloadFile = std::pair<std::uint64_t, std::string>;
using Inspected =
    std::tuple<unsigned, std::vector<Awaited>, std::vector<PayloadFile>, std::uint64_t>;
// So many records are looked at and then summed up, while they are in the first cache.
constexpr std::size_t kBlock = 128;

void add_awaited(const Record& record, std::span<const std::byte> payload,
                 std::vector<Awaited>& awaited) {
  if (record.kind == RecordKind::kScalar) {
    awaited.emplace_back(record.sequence, static_cast<std::uint64_t>(record.value), 0, 0);
    return;
  }
  HistogramHeader header;
  if (payload.size() < sizeof(header)) return;
  std::memcpy(&header, payload.data(), sizeof(header));
  if ((header.flags & kParked) == 0) return;
  awaited.emplace_back(record.sequence, header.nan_count, record.payload_offset,
                       record.payload_size);
}

unsigned kind_bit(const Record& record) { return 1U << static_cast<unsigned>(record.kind); }

void inspect_block(RecordSpan block, const PayloadBuffer& payload_buffer, Inspected& inspected) {
  auto& [kinds, awaited, files, observed] = inspected;
  for (const Record& record : block) {
    kinds |= kind_bit(record);
    if ((record.flags & (kAwaitsDevice | kPayloadInFile)) == 0) [[likely]]
      continue;
    const std::span<const std::byte> payload = payload_buffer.span().of(record);
    if ((record.flags & kAwaitsDevice) != 0) add_awaited(record, payload, awaited);
    if ((record.flags & kPayloadInFile) != 0) {
      files.emplace_back(record.sequence, std::string(reinterpret_cast<const char*>(payload.data()),
                                                      payload.size()));
    }
  }
}

Inspected inspect(nb::handle records, nb::handle payloads, SeriesSummaries& summaries,
                  std::uint64_t after) {
  const RecordBuffer buffer(records);
  const PayloadBuffer payload_buffer(payloads);
  ReleasedGil released;
  Inspected inspected;
  auto& [kinds, awaited, files, observed] = inspected;
  observed = after;
  const RecordSpan span = buffer.span();
  for (std::size_t start = 0; start < span.size; start += kBlock) {
    const RecordSpan block{span.data + start, std::min(kBlock, span.size - start)};
    inspect_block(block, payload_buffer, inspected);
    if (!awaited.empty()) continue;  // in their order: once the values are there
    summaries.observe(block, after);
    observed = std::max(observed, block.data[block.size - 1].sequence);
  }
  return inspected;
}

unsigned kinds_in(nb::handle records) {
  const RecordBuffer buffer(records);
  ReleasedGil released;
  unsigned kinds = 0;
  for (const Record& record : buffer.span()) kinds |= kind_bit(record);
  return kinds;
}

nb::bytes select_kinds(nb::handle records, unsigned kinds) {
  const RecordBuffer buffer(records);
  std::vector<Record> selected;
  for (const Record& record : buffer.span()) {
    if ((kind_bit(record) & kinds) != 0) selected.push_back(record);
  }
  return nb::bytes(reinterpret_cast<const char*>(selected.data()),
                   selected.size() * sizeof(Record));
}

// Completes the payload of a record that awaited a device.
void write_payload(RunRing& run, std::uint64_t offset, nb::bytes payload) {
  const PayloadSpan arena = run.file->payloads().span();
  if (offset > arena.size || payload.size() > arena.size - offset) {
    throw nb::value_error("a payload beyond the arena's end");
  }
  std::memcpy(const_cast<std::byte*>(arena.data) + offset, payload.c_str(), payload.size());
}

// Puts in the value of a scalar that awaited a device.
void complete_scalar(nb::handle lease, std::uint64_t sequence, double value) {
  const RecordBuffer buffer(lease);
  const RecordSpan span = buffer.span();
  const std::uint64_t index = sequence - (span.size == 0 ? 0 : span.data->sequence);
  if (index >= span.size) throw nb::value_error("the record is not leased");
  auto& record = const_cast<Record&>(span.data[index]);
  record.value = value;
  record.flags = static_cast<std::uint16_t>(record.flags & ~kAwaitsDevice);
}

}  // namespace

void register_payloads(nb::module_& m) {
  nb::class_<Payloads>(m, "Payloads", nb::type_slots(payloads_slots),
                       "The payloads of a ring's records, as a read-only buffer that their "
                       "payload_offset counts in; a payload is good as long as its record's lease.")
      .def(
          "__init__",
          [](Payloads* self, std::shared_ptr<RunRing> ring) { new (self) Payloads{ring}; },
          nb::arg("ring"));
  m.def("inspect", &inspect, nb::arg("records"), nb::arg("payloads"), nb::arg("summaries"),
        nb::arg("after"),
        "(kinds, awaited, files, observed) of records, whose scalars behind the sequence `after` "
        "are summed up, up to the first that awaits its device, which `observed` is before: a bit "
        "for each kind there is (1 << kind); (sequence, "
        "ticket, offset, size) of each payload that still awaits its device, with a size of 0 for "
        "a scalar's value; (sequence, path) of each that lies in a file.");
  m.def("kinds_in", &kinds_in, nb::arg("records"), "A bit for each kind there is: 1 << kind.");
  m.def("select_kinds", &select_kinds, nb::arg("records"), nb::arg("kinds"),
        "A copy of the records of these kinds.");
  m.def("write_payload", &write_payload, nb::arg("ring"), nb::arg("offset"), nb::arg("payload"),
        "Writes over the beginning of a payload that is leased. Consumer only.");
  m.def("complete_scalar", &complete_scalar, nb::arg("lease"), nb::arg("sequence"),
        nb::arg("value"),
        "Puts in the value of a leased scalar that awaited its device. Consumer only.");
  m.def("gather_block", &gather_block, nb::arg("records"), nb::arg("payloads").none(),
        nb::arg("limit_bytes"),
        nb::sig("def gather_block(records: object, payloads: object | None, limit_bytes: int) -> "
                "tuple[bytes, bytes] | None"),
        "The first records whose payloads fit the limit, at least one, and these payloads in one "
        "piece, which payload_offset counts in then. None when no record has a payload.");
}

}  // namespace tracelet::bindings
