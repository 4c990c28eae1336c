// The ring's file of a dead process, read without trust: whatever its bytes are, what comes out is
// bounded and typed, and encoders, fold and sinks may believe it. It takes no lock, waits for
// nobody, maps nothing and writes nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tracelet/record_check.h"
#include "tracelet/ring_file.h"
#include "tracelet/stored_file.h"
#include "tracelet/stored_names.h"

namespace tracelet {

struct StoredRecords {
  // From the position that was asked for on, without a gap; in the place of what is no point lies a
  // record of kind kSkipped. Their payload_offset counts in `payloads`.
  std::vector<Record> records;
  std::string payloads;
  // What the skipped ones were. Calls that had claimed a slot and not returned, ...
  std::uint64_t cut_off = 0;
  // ... scalars whose value a device was to tell: they hold a ticket, good in one process, ...
  std::uint64_t awaiting_device = 0;
  // ... and damaged records.
  FaultCounts faults{};
};

class StoredRing {
 public:
  // Throws std::system_error; StoredFileError for what is no ring, is one of another version, or is
  // so damaged that its points can't be found.
  static StoredRing open(const std::string& path);
  explicit StoredRing(StoredFile file);
  // The ring's own id (RingFileHeader), by its header alone; empty for a ring without. Throws
  // std::system_error; StoredFileError for what is no ring of this version's.
  static std::string id_of(const std::string& path);

  const std::string& path() const { return file_.path(); }
  std::uint64_t capacity() const { return capacity_; }
  std::uint32_t owner_pid() const { return owner_pid_; }
  const std::string& id() const { return id_; }
  // The points between them are in the ring: tail <= head, head - tail <= capacity.
  std::uint64_t head() const { return head_; }
  std::uint64_t tail() const { return tail_; }
  std::uint64_t skipped() const { return skipped_; }
  // Points that were dropped, by reason, as RunCounters has them.
  struct Counters {
    std::uint64_t ring_full = 0;
    std::uint64_t tag_table_full = 0;
    std::uint64_t no_disk_space = 0;
    std::uint64_t run_ended = 0;
    std::uint64_t not_finite_values = 0;
  };
  const Counters& counters() const { return counters_; }
  const StoredNames& names() const { return names_; }
  // What was damaged and got round, in words; "" for a ring that is as it should be.
  const std::string& problem() const { return problem_; }

  // Up to `limit` records from `position` on, at least one while there are any, and no further one
  // once their payloads are `limit_bytes` or more. Throws StoredFileError when the file can't be
  // read any more.
  StoredRecords read(std::uint64_t position, std::size_t limit, std::size_t limit_bytes,
                     const StoredNames& names) const;
  // The scalars from `position` on, at least one while there are any, also those that were taken
  // out: a slot keeps its record until the ring comes round, so what is asked for begins at most
  // `capacity` before the head. For who looks at a ring in use: there a record may be half of a
  // later lap's, unless the head, read once more, is still within `capacity` of it. All else is of
  // kind kSkipped.
  std::vector<Record> scalars_again(std::uint64_t position, std::size_t limit) const;

 private:
  void read_header();
  void find_positions(std::uint64_t head, std::uint64_t tail);
  void find_positions_by_slots(const std::vector<std::uint64_t>& sequences);
  std::vector<std::uint64_t> sequences() const;
  void find_sound_payloads();
  std::vector<Record> slots(std::uint64_t position, std::size_t count) const;
  void note(const std::string& problem);

  StoredFile file_;
  std::uint64_t capacity_ = 0;
  std::uint64_t payload_bytes_ = 0;
  std::uint32_t owner_pid_ = 0;
  std::string id_;
  std::uint64_t head_ = 0;
  std::uint64_t tail_ = 0;
  std::uint64_t skipped_ = 0;
  // Payloads of records before this position can't be there any more: later ones lie over them.
  std::uint64_t sound_payloads_from_ = 0;
  Counters counters_;
  StoredNames names_;
  std::string problem_;
};

}  // namespace tracelet
