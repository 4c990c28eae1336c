// The file of a run: a header, the ring's slots and the tag table, mapped by every process that
// logs into the run. Its bytes outlive them all.
//
//   0            RingFileHeader
//   4096         Record[capacity]
//   ...          the payload arena's bytes
//   ...          the tag table's strings; the file grows at this end
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "tracelet/payload_arena.h"
#include "tracelet/platform.h"
#include "tracelet/record.h"
#include "tracelet/ring.h"
#include "tracelet/tag_table.h"

namespace tracelet {

// Points that found no place, by reason, and NaN and infinities among the values of histograms, of
// all processes that log into the run. Written by producers, read by any; relaxed: they publish no
// other bytes.
struct RunCounters {
  std::atomic<std::uint64_t> ring_full;
  std::atomic<std::uint64_t> tag_table_full;
  std::atomic<std::uint64_t> no_disk_space;
  std::atomic<std::uint64_t> run_ended;
  std::atomic<std::uint64_t> not_finite_values;
};

struct RingFileHeader {
  char magic[8];
  std::uint32_t record_version;
  std::uint32_t owner_pid;
  std::uint64_t capacity;
  std::uint64_t payload_bytes;
  RingState ring;
  PayloadArenaState payloads;
  TagTableState tags;
  RunCounters counters;
  // Random, given when the file is made: a run's manifest names its ring by it, so that no other
  // ring is taken for its own, wherever it lies. 0: of a version before there were any.
  std::uint64_t id[2];
};

inline constexpr std::size_t kRingFileHeaderBytes = 4096;
// Address space for the strings, of which the file backs what is used: 100,000 tags of 10,000
// characters each fit.
inline constexpr std::size_t kTagAddressSpaceBytes = std::size_t{1} << 30;
inline constexpr std::uint64_t kLargestPayloadBytes = std::uint64_t{1} << 40;

// Where the payload arena and the tag table begin in the file.
inline std::size_t payloads_offset(std::uint64_t capacity) {
  return kRingFileHeaderBytes + static_cast<std::size_t>(capacity) * sizeof(Record);
}
inline std::size_t tags_offset(std::uint64_t capacity, std::uint64_t payload_bytes) {
  return payloads_offset(capacity) + static_cast<std::size_t>(payload_bytes);
}
bool is_ring_magic(const char (&magic)[8]);
// As the manifest has it: 32 hexadecimal digits; empty for no id.
std::string ring_id_text(const std::uint64_t (&id)[2]);

static_assert(sizeof(RingFileHeader) <= kRingFileHeaderBytes);

class RingFile {
 public:
  // Creates the file, for the owner alone, with all its space allocated. `capacity` is a power of
  // two, `payload_bytes` the arena's size, rounded up to pages. Throws std::system_error, or
  // std::invalid_argument.
  static std::unique_ptr<RingFile> create(const std::string& path, std::uint64_t capacity,
                                          std::uint64_t payload_bytes = kLeastPayloadBytes);
  static constexpr std::uint64_t kLeastPayloadBytes = 1 << 16;
  // Opens the file of another process, dead or alive. Throws std::system_error, or
  // std::runtime_error when it is none of ours.
  static std::unique_ptr<RingFile> open(const std::string& path);

  Ring& ring() { return ring_; }
  // Ring::skip_dead. Where the process that made the file is known to be dead, no other that has
  // got its pid (the first of a container has the same each time), this one included, counts as it.
  bool skip_dead(bool owner_is_dead);
  PayloadArena& payloads() { return payloads_; }
  TagTable& tags() { return tags_; }
  RunCounters& counters() { return header_->counters; }
  const std::string& path() const { return file_.path(); }
  bool is_named() const { return file_.is_named(); }
  // Who made the file.
  std::uint32_t owner_pid() const { return header_->owner_pid; }
  // 32 hexadecimal digits; empty where the file has none.
  std::string id() const { return ring_id_text(header_->id); }

 private:
  RingFile(MappedFile file, std::uint64_t capacity, std::uint64_t payload_bytes);

  MappedFile file_;
  RingFileHeader* header_;
  Ring ring_;
  PayloadArena payloads_;
  TagTable tags_;
};

}  // namespace tracelet
