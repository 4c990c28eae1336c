// What of each file that grows is acknowledged: its size and the sequence of the last record in it,
// in a mapped file that outlives the process. Whoever goes on with a dead process' run cuts an
// event file back to that size and writes what came after that sequence to a new one: no event is
// missing, and none is there twice, at whatever instruction the process died.
//
// Format: a header, then entries. An entry is added before its file is made, so that there is no
// file without one; `used_bytes` is stored last. An entry's writer and path have a checksum; its
// state is there twice, each with a generation and a checksum: the older one is written over, and
// of those that are whole the newest counts, at whatever instruction the process died and whichever
// of its pages reached the disk. A ledger of version 1, without checksums, is made one of this
// version when it is opened.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "tracelet/platform.h"

namespace tracelet {

// Nothing of it can be read.
class DamagedLedgerError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Not thread-safe: one thread of one process at a time.
class FileLedger {
 public:
  struct Entry {
    std::uint32_t writer_id = 0;
    std::string path{};
    // 0: nothing is acknowledged, not even that the file is there. kUnknownSize: what was is lost;
    // the file is to be left as it is, and all is to be written anew.
    std::uint64_t size_bytes = 0;
    std::uint64_t sequence = 0;  // the file holds its writer's records up to this one
    std::size_t place = 0;       // for `acknowledge`
    std::uint32_t count = 0;     // points in it; 0 where that is not known
    // Whether nothing later was acknowledged: not where the other state is damaged, which may have
    // been the newest one.
    bool is_certain = true;
  };

  static constexpr std::uint64_t kUnknownSize = std::uint64_t{1} << 62;

  // Throws std::system_error; `open` DamagedLedgerError for a file that is no ledger, and
  // std::runtime_error for one of a later version.
  static std::unique_ptr<FileLedger> create(const std::string& path);
  static std::unique_ptr<FileLedger> open(const std::string& path);
  // As `open`, but a ledger always: where there is none, or nothing of it can be read, a new one,
  // which says that it is damaged. What was there is kept beside it, as PATH.damaged.
  static std::unique_ptr<FileLedger> recover(const std::string& path);

  // Adds a file whose writer's records up to `sequence` lie in others, and returns its
  // place. Throws std::system_error when the file system is full.
  std::size_t add(std::uint32_t writer_id, std::string_view path, std::uint64_t sequence);
  // The file now holds `size_bytes`, and with them its writer's records up to `sequence`, in all
  // `count` points.
  void acknowledge(std::size_t place, std::uint64_t size_bytes, std::uint64_t sequence,
                   std::uint32_t count = 0) noexcept;
  // Has what was acknowledged before this call reach the disk. Throws std::system_error.
  void sync() const;

  // In the order in which they were added. One that is damaged costs itself; see is_damaged.
  std::vector<Entry> entries() const;
  // Whether something in it is lost.
  bool is_damaged() const;

 private:
  struct Header;
  struct EntryHeader;
  struct State;

  struct Look {
    bool is_right;         // nothing between the entries is none
    std::size_t last_end;  // where the last whole one ends
  };
  // Goes through the entries.
  template <typename Visit>
  Look visit_entries(Visit visit) const;
  static std::unique_ptr<FileLedger> open_version_1(const std::string& path);
  static State* newest(EntryHeader* entry);
  static bool is_certain(const EntryHeader* entry);
  bool is_whole(std::size_t place, std::size_t end) const;
  void write_header();

  // Where the next entry goes, by what the whole entries say: `used_bytes` has no checksum, and a
  // damaged one would have an entry, or memory, written over.
  std::size_t first_free_place() const;

  explicit FileLedger(MappedFile file) : file_(std::move(file)) {}
  Header* header() const;
  EntryHeader* at(std::size_t place) const;

  MappedFile file_;
  // Where `add` puts the next entry; 0 until it has looked.
  std::size_t end_ = 0;
  bool was_damaged_ = false;  // when it was opened
};

}  // namespace tracelet
