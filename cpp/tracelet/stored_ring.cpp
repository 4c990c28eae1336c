#include "tracelet/stored_ring.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

namespace tracelet {
namespace {

constexpr std::size_t kChunkRecords = 8192;
constexpr std::uint64_t kMostRecordsARead = 65'536;
// More slots than this are not searched for points whose positions the header does not tell.
constexpr std::uint64_t kMostSearchedSlots = std::uint64_t{1} << 24;

std::uint64_t stored(std::uint64_t payload_bytes) { return (payload_bytes + 7) / 8 * 8; }

// The header of a ring of this version's. Throws StoredFileError for any other file.
class HeaderBytes {
 public:
  explicit HeaderBytes(const StoredFile& file) {
    if (!file.read(0, bytes_, sizeof(bytes_)) || !is_ring_magic(header()->magic)) {
      throw StoredFileError(file.path() + " is not the ring of a tracelet run");
    }
    const std::uint32_t version = header()->record_version;
    if (version == kRecordVersion) return;
    const bool is_newer = version > kRecordVersion;
    throw StoredFileError(file.path() + " was written by " + (is_newer ? "a newer" : "an older") +
                          " version of tracelet (record version " + std::to_string(version) +
                          ", this one reads " + std::to_string(kRecordVersion) + "): " +
                          (is_newer ? "update tracelet" : "use that version") + " to read it");
  }
  const RingFileHeader* header() const { return reinterpret_cast<const RingFileHeader*>(bytes_); }

 private:
  alignas(RingFileHeader) std::byte bytes_[kRingFileHeaderBytes];
};

bool is_plausible(std::uint64_t head, std::uint64_t tail, std::uint64_t capacity) {
  return tail <= head && head - tail <= capacity && head <= kLastPosition + kLargestCapacity;
}

}  // namespace

StoredRing StoredRing::open(const std::string& path) { return StoredRing(StoredFile::open(path)); }

std::string StoredRing::id_of(const std::string& path) {
  return ring_id_text(HeaderBytes(StoredFile::open(path)).header()->id);
}

StoredRing::StoredRing(StoredFile file) : file_(std::move(file)) {
  read_header();
  find_sound_payloads();
}

void StoredRing::note(const std::string& problem) {
  if (!problem_.empty()) problem_.append("; ");
  problem_.append(problem);
}

void StoredRing::read_header() {
  const HeaderBytes bytes(file_);
  const RingFileHeader* header = bytes.header();
  capacity_ = header->capacity;
  payload_bytes_ = header->payload_bytes;
  owner_pid_ = header->owner_pid;
  id_ = ring_id_text(header->id);
  // None of these is summed before it is known to be small: nothing here overflows.
  if (!std::has_single_bit(capacity_) || capacity_ > kLargestCapacity ||
      payload_bytes_ > kLargestPayloadBytes || payload_bytes_ == 0 || payload_bytes_ % 8 != 0 ||
      file_.size_bytes() < tags_offset(capacity_, payload_bytes_)) {
    throw StoredFileError(path() + " is shorter than its header says, or its header is damaged");
  }
  skipped_ = header->ring.skipped.load(std::memory_order_relaxed);
  const RunCounters& counters = header->counters;
  counters_ = {counters.ring_full.load(), counters.tag_table_full.load(),
               counters.no_disk_space.load(), counters.run_ended.load(),
               counters.not_finite_values.load()};
  const std::uint64_t tags_at = tags_offset(capacity_, payload_bytes_);
  const std::uint64_t table_bytes =
      std::min<std::uint64_t>(file_.size_bytes() - tags_at, kTagAddressSpaceBytes);
  const std::uint64_t used_bytes = header->tags.used_bytes.load(std::memory_order_relaxed);
  // What lies behind the used bytes is zero; it is read only where their number makes no sense.
  const std::uint64_t read_bytes = used_bytes <= table_bytes ? used_bytes : table_bytes;
  std::string table(static_cast<std::size_t>(read_bytes), '\0');
  if (!file_.read(tags_at, table.data(), table.size())) {
    throw StoredFileError(path() + " can't be read");
  }
  names_ = StoredNames::of_tag_table(table, used_bytes);
  if (!names_.problem().empty()) note(names_.problem());
  find_positions(header->ring.head.load(std::memory_order_relaxed) & (kClosed - 1),
                 header->ring.tail.load(std::memory_order_relaxed));
}

// The sequence of each slot that holds a whole record of some lap; 0 for any other.
std::vector<std::uint64_t> StoredRing::sequences() const {
  std::vector<std::uint64_t> found;
  if (capacity_ > kMostSearchedSlots) return found;
  found.reserve(static_cast<std::size_t>(capacity_));
  for (std::uint64_t slot = 0; slot < capacity_; slot += kChunkRecords) {
    for (const Record& record : slots(slot, kChunkRecords)) {
      const std::uint64_t position = record.sequence - 1;
      const bool is_own = record.sequence != 0 && position < kLastPosition + kLargestCapacity &&
                          (position & (capacity_ - 1)) == found.size();
      found.push_back(is_own ? record.sequence : 0);
    }
  }
  return found;
}

// A head or a tail that a bit has flipped in would have points passed over, or records without end.
// A record's own sequence says where it belongs, so the slots tell the truth.
void StoredRing::find_positions(std::uint64_t head, std::uint64_t tail) {
  const std::vector<std::uint64_t> found = sequences();
  if (!is_plausible(head, tail, capacity_)) {
    find_positions_by_slots(found);
    return;
  }
  head_ = head;
  tail_ = tail;
  // A point is claimed before its sequence is stored: none lies at the head.
  while (!found.empty() && head_ - tail_ < capacity_ &&
         found[static_cast<std::size_t>(head_ & (capacity_ - 1))] == head_ + 1) {
    ++head_;
  }
  if (head_ != head) note("its head is damaged and was found anew by its records");
}

void StoredRing::find_positions_by_slots(const std::vector<std::uint64_t>& sequences) {
  std::vector<std::uint64_t> found;
  std::copy_if(sequences.begin(), sequences.end(), std::back_inserter(found),
               [](std::uint64_t sequence) { return sequence != 0; });
  if (found.empty()) {
    throw StoredFileError(path() + ": its head and tail are damaged, and it holds no record");
  }
  std::sort(found.begin(), found.end());
  // The lap that holds the most; a sequence that is damaged itself lies in one of its own.
  std::size_t best_begin = 0;
  std::size_t best_end = 0;
  for (std::size_t begin = 0, end = 0; begin < found.size(); ++begin) {
    while (end < found.size() && found[end] - found[begin] < capacity_) ++end;
    if (end - begin > best_end - best_begin) {
      best_begin = begin;
      best_end = end;
    }
  }
  tail_ = found[best_begin] - 1;
  head_ = found[best_end - 1];
  note("its head and tail are damaged and were found anew by its records");
}

std::vector<Record> StoredRing::slots(std::uint64_t position, std::size_t count) const {
  const std::uint64_t slot = position & (capacity_ - 1);
  std::vector<Record> records(
      static_cast<std::size_t>(std::min<std::uint64_t>(count, capacity_ - slot)));
  if (!file_.read(kRingFileHeaderBytes + slot * sizeof(Record), records.data(),
                  records.size() * sizeof(Record))) {
    throw StoredFileError(path() + " can't be read");
  }
  return records;
}

// Payloads lie in the order of their records, in one lap of the arena. Going back from the last
// one, the way to each is therefore known; what is further than a lap is overwritten or damaged. It
// bounds what all payloads take together, too.
void StoredRing::find_sound_payloads() {
  sound_payloads_from_ = tail_;
  bool has_next = false;
  std::uint64_t next_offset = 0;
  std::uint64_t way_bytes = 0;
  for (std::uint64_t end = head_; end > tail_;) {
    const std::uint64_t in_lap = (end - 1) % capacity_ + 1;
    const std::uint64_t count = std::min({end - tail_, in_lap, std::uint64_t{kChunkRecords}});
    const std::vector<Record> records = slots(end - count, static_cast<std::size_t>(count));
    for (std::size_t i = records.size(); i-- > 0;) {
      const Record& record = records[i];
      if (record.sequence != end - count + i + 1 || record.payload_size == 0) continue;
      if (record.payload_offset > payload_bytes_ || record.payload_offset % 8 != 0 ||
          record.payload_size > payload_bytes_ - record.payload_offset) {
        continue;  // read() finds it out
      }
      const std::uint64_t size_bytes = stored(record.payload_size);
      std::uint64_t distance =
          has_next ? (next_offset + payload_bytes_ - record.payload_offset) % payload_bytes_
                   : size_bytes;
      if (distance < size_bytes) distance += payload_bytes_;
      way_bytes += distance;
      if (way_bytes > payload_bytes_) {
        sound_payloads_from_ = record.sequence;
        return;
      }
      has_next = true;
      next_offset = record.payload_offset;
    }
    end -= count;
  }
}

StoredRecords StoredRing::read(std::uint64_t position, std::size_t limit, std::size_t limit_bytes,
                               const StoredNames& names) const {
  StoredRecords read;
  if (position < tail_ || position >= head_) return read;
  limit = static_cast<std::size_t>(
      std::min<std::uint64_t>({limit, head_ - position, kMostRecordsARead}));
  read.records = slots(position, limit);
  for (std::size_t i = 0; i < read.records.size(); ++i) {
    Record& record = read.records[i];
    const std::uint64_t sequence = position + i + 1;
    // A slot's sequence is stored last: another one there is of an earlier lap.
    if (record.sequence != sequence) {
      ++read.cut_off;
      record = skipped_record(sequence);
      continue;
    }
    RecordFault fault = fault_of(record, names, payload_bytes_);
    if (fault == RecordFault::kNone && record.payload_size != 0 &&
        (sequence <= sound_payloads_from_ || record.payload_offset % 8 != 0)) {
      fault = RecordFault::kPayload;
    }
    const bool awaits = record.kind == RecordKind::kScalar && !has_value(record);
    if (fault != RecordFault::kNone || awaits || record.kind == RecordKind::kSkipped) {
      read.awaiting_device += fault == RecordFault::kNone && awaits;
      if (fault != RecordFault::kNone) ++read.faults[static_cast<std::size_t>(fault)];
      record = skipped_record(sequence);
      continue;
    }
    const std::size_t offset = read.payloads.size();
    if (record.payload_size != 0) {
      read.payloads.resize(offset + static_cast<std::size_t>(record.payload_size));
      if (!file_.read(payloads_offset(capacity_) + record.payload_offset,
                      read.payloads.data() + offset, read.payloads.size() - offset)) {
        throw StoredFileError(path() + " can't be read");
      }
    }
    record.payload_offset = offset;
    if (read.payloads.size() >= limit_bytes) {
      read.records.resize(i + 1);
      break;
    }
  }
  return read;
}

std::vector<Record> StoredRing::scalars_again(std::uint64_t position, std::size_t limit) const {
  const std::uint64_t first = head_ > capacity_ ? head_ - capacity_ : 0;
  if (position < first || position >= head_) return {};
  limit = static_cast<std::size_t>(
      std::min<std::uint64_t>({limit, head_ - position, kMostRecordsARead}));
  std::vector<Record> records = slots(position, limit);
  for (std::size_t i = 0; i < records.size(); ++i) {
    Record& record = records[i];
    const std::uint64_t sequence = position + i + 1;
    const bool is_shown = record.sequence == sequence && record.kind == RecordKind::kScalar &&
                          fault_of(record, names_, payload_bytes_) == RecordFault::kNone &&
                          has_value(record);
    if (!is_shown) record = skipped_record(sequence);
  }
  return records;
}

}  // namespace tracelet
