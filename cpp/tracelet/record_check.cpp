#include "tracelet/record_check.h"

#include "tracelet/histogram/payload.h"

namespace tracelet {
namespace {

constexpr std::size_t kLongestPath = 4096;
constexpr std::uint16_t kScalarFlags = kNoStep | kNewStyle | kDoublePrecision | kAwaitsDevice;
constexpr std::uint16_t kHistogramFlags = kNoStep | kAwaitsDevice;
constexpr std::uint16_t kEventFlags = kNoStep | kPayloadInFile;

bool is_within(const Record& record, std::uint64_t payload_bytes) {
  return record.payload_offset <= payload_bytes &&
         record.payload_size <= payload_bytes - record.payload_offset;
}

bool has_only(const Record& record, std::uint16_t flags) { return (record.flags & ~flags) == 0; }

}  // namespace

const char* words_of(RecordFault fault) {
  switch (fault) {
    case RecordFault::kNone:
      break;
    case RecordFault::kKind:
      return "damaged record: unknown kind";
    case RecordFault::kFlags:
      return "damaged record: unknown flags";
    case RecordFault::kName:
      return "name lost";
    case RecordFault::kPayload:
      return "damaged record: payload";
  }
  return "";
}

RecordFault fault_of(const Record& record, const StoredNames& names, std::uint64_t payload_bytes) {
  if (!is_within(record, payload_bytes)) return RecordFault::kPayload;
  switch (record.kind) {
    case RecordKind::kSkipped:
      return RecordFault::kNone;  // no sink is given it
    case RecordKind::kScalar:
      if (!has_only(record, kScalarFlags)) return RecordFault::kFlags;
      break;
    case RecordKind::kHistogram:
      if (!has_only(record, kHistogramFlags)) return RecordFault::kFlags;
      if (record.payload_size < sizeof(HistogramHeader)) return RecordFault::kPayload;
      break;
    case RecordKind::kEvent:
      if (!has_only(record, kEventFlags)) return RecordFault::kFlags;
      if ((record.flags & kPayloadInFile) != 0 &&
          (record.payload_size == 0 || record.payload_size > kLongestPath)) {
        return RecordFault::kPayload;
      }
      break;
    default:
      return RecordFault::kKind;
  }
  if (!names.knows(record.tag_id)) return RecordFault::kName;
  if (record.writer_id != kNoWriter && !names.knows(record.writer_id)) return RecordFault::kName;
  return RecordFault::kNone;
}

CheckedRecords check_records(RecordSpan records, const StoredNames& names,
                             std::uint64_t payload_bytes) {
  CheckedRecords checked;
  for (const Record& record : records) {
    const RecordFault fault = fault_of(record, names, payload_bytes);
    if (fault == RecordFault::kNone) continue;
    if (checked.records.empty()) checked.records.assign(records.begin(), records.end());
    ++checked.faults[static_cast<std::size_t>(fault)];
    checked.records[static_cast<std::size_t>(&record - records.begin())] =
        skipped_record(record.sequence);
  }
  return checked;
}

}  // namespace tracelet
