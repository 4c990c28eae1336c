// One logged point, as it lies in the ring, in the journal and in every view a sink receives.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace tracelet {

enum class RecordKind : std::uint16_t {
  kSkipped = 0,  // no point: its producer died between claiming the slot and committing it
  kScalar = 1,
  kHistogram = 2,  // its payload: histogram/payload.h
  kEvent = 3,      // its payload: a TensorBoard Event protobuf that was built outside
};

enum RecordFlags : std::uint16_t {
  kNoStep = 1,           // the caller gave no step: TensorBoard shows such a point at step 0
  kNewStyle = 2,         // add_scalar(new_style=True): a tensor in the event, not a simple_value
  kDoublePrecision = 4,  // add_scalar(double_precision=True): that tensor is a DT_DOUBLE
  kAwaitsDevice = 8,     // a device computes what the record is to hold: the payload is completed
                         // before a sink sees it. A scalar has a ticket for a value meanwhile, and
                         // loses the flag with it; one that has it still has no value.
  kPayloadInFile = 16,   // the payload is the path of a file that holds it
};

// The id of a writer that has no folder: Experiment.log_metric.
inline constexpr std::uint32_t kNoWriter = 0;

// What the tag table has for a writer: its log folder and, after a NUL, the suffix of its event
// file's name where it has one. Writers that differ in either have files of their own.
inline constexpr char kSuffixMark = '\0';

// The layout is a file format: the ring's file outlives the process, the journal holds the same
// bytes, and python/tracelet/records.py describes them to numpy. A change raises kRecordVersion.
inline constexpr std::uint32_t kRecordVersion = 4;

struct Record {
  std::uint64_t sequence;        // position in the stream plus one, once committed; see ring.h
  double value;                  // of a scalar
  std::int64_t step;             //
  double wall_time_s;            // seconds since the epoch
  std::uint32_t tag_id;          // TagTable
  std::uint32_t writer_id;       // TagTable: folder and suffix; kNoWriter without one
  RecordKind kind;               //
  std::uint16_t flags;           // RecordFlags
  std::uint32_t producer_pid;    // who claimed the slot
  std::uint64_t payload_offset;  // where its payload begins: in the ring's PayloadArena, or in what
                                 // a journal's block holds besides its records
  std::uint64_t payload_size;    // in bytes; 0 for none
};

static_assert(sizeof(Record) == 64, "one record is one cache line: no two producers share a line");
static_assert(std::is_trivially_copyable_v<Record>);
static_assert(offsetof(Record, sequence) == 0 && offsetof(Record, value) == 8);
static_assert(offsetof(Record, step) == 16 && offsetof(Record, wall_time_s) == 24);
static_assert(offsetof(Record, tag_id) == 32 && offsetof(Record, writer_id) == 36);
static_assert(offsetof(Record, kind) == 40 && offsetof(Record, flags) == 42);
static_assert(offsetof(Record, producer_pid) == 44);
static_assert(offsetof(Record, payload_offset) == 48 && offsetof(Record, payload_size) == 56);
static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);

// Whether a scalar's value came from its device, if that is where it was.
inline bool has_value(const Record& record) { return (record.flags & kAwaitsDevice) == 0; }

// What a producer says of a point.
struct Point {
  double value = 0;
  std::int64_t step = 0;
  double wall_time_s = 0;
  std::uint32_t tag_id = 0;
  std::uint32_t writer_id = kNoWriter;
  RecordKind kind = RecordKind::kScalar;
  std::uint16_t flags = 0;
};

// A run of records that lie one after the other in memory; borrowed, never owned.
struct RecordSpan {
  const Record* data = nullptr;
  std::size_t size = 0;

  const Record* begin() const { return data; }
  const Record* end() const { return data + size; }
};

// The bytes that records' payload_offset counts in; borrowed.
struct PayloadSpan {
  const std::byte* data = nullptr;
  std::size_t size = 0;

  // Empty where the record has none, or one that is not in here.
  std::span<const std::byte> of(const Record& record) const {
    if (record.payload_offset > size || record.payload_size > size - record.payload_offset) {
      return {};
    }
    return {data + record.payload_offset, static_cast<std::size_t>(record.payload_size)};
  }
};

}  // namespace tracelet
