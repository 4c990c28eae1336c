// Strings to dense ids: tags and log folders. Append-only, in the ring's file, shared by every
// process that logs; a reader of a dead process' file needs nothing else.
//
// Format, from the table's offset in the file on: each string is a 32-bit length in bytes and the
// UTF-8 bytes, padded to 4. The id is the string's number, counted from 1; 0 is no string.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tracelet/names.h"
#include "tracelet/platform.h"

namespace tracelet {

struct TagTableState {
  // Bytes of whole strings in the table. Written by the lock's holder (release, after the bytes),
  // read by all (acquire): publishes the strings' bytes.
  std::atomic<std::uint64_t> used_bytes;
  // A ProcessLock, held to append or to look up. What a holder that died left is whole, because
  // `used_bytes` is published last.
  std::atomic<std::uint32_t> lock_pid;
};

class TagTable final : public Names {
 public:
  // The strings begin at `offset_bytes` of `file`; both outlive the table.
  TagTable(TagTableState* state, MappedFile* file, std::size_t offset_bytes);
  ~TagTable();
  TagTable(const TagTable&) = delete;
  TagTable& operator=(const TagTable&) = delete;

  // The id of `text`, appended if it is new. Any thread. 0 when there is no room left for it, on
  // the file system or in the table's address space, or when the file is damaged.
  std::uint32_t intern(std::string_view text);
  // The string of an id, good as long as the table; empty for an unknown id. Any thread.
  std::string_view text(std::uint32_t id) override;
  // How many strings there are.
  std::uint32_t size() override;

  // For the child of a fork: drops what this process knew of the table, which another thread may
  // have been changing at the time, and reads the shared bytes again.
  void after_fork_in_child();

 private:
  struct Index {
    std::vector<std::string_view> texts;
    std::unordered_map<std::string_view, std::uint32_t> ids;
    std::size_t read_bytes = 0;
  };

  void read_new_strings();

  TagTableState* state_;
  MappedFile* file_;
  std::size_t offset_bytes_;
  Index* index_;  // guarded by the lock in shared memory
};

}  // namespace tracelet
