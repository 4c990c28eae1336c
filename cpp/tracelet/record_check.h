// Whether a record that lay on disk is one that this version could have written: what reads it
// afterwards (encoders, fold, sinks) indexes by its ids and reads its payload without a look.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tracelet/record.h"
#include "tracelet/stored_names.h"

namespace tracelet {

enum class RecordFault : std::uint8_t {
  kNone = 0,
  kKind,     // of none of RecordKind's
  kFlags,    // with flags that mean nothing, or nothing to its kind
  kName,     // its tag or its writer is not known: a point in the wrong series is worse than none
  kPayload,  // its payload is not where it says, or can't be what its kind has
};
inline constexpr std::size_t kRecordFaults = 5;

// The reason under which such records are counted.
const char* words_of(RecordFault fault);

// How many records had which fault.
using FaultCounts = std::array<std::uint64_t, kRecordFaults>;

// `payload_bytes` is the size of what its payload_offset counts in.
RecordFault fault_of(const Record& record, const StoredNames& names, std::uint64_t payload_bytes);

struct CheckedRecords {
  std::vector<Record> records;  // empty when none has a fault: those given are good as they are
  FaultCounts faults{};
};
// A record with a fault becomes one of kind kSkipped, which no sink is given, in its place.
CheckedRecords check_records(RecordSpan records, const StoredNames& names,
                             std::uint64_t payload_bytes);

// The record that stands in the place of one that is no point.
inline Record skipped_record(std::uint64_t sequence) {
  Record record{};
  record.sequence = sequence;
  return record;
}

}  // namespace tracelet
