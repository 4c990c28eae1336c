// The event files of a run: who has which, what each holds, and that it reaches the disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tracelet/append_file.h"
#include "tracelet/file_ledger.h"
#include "tracelet/held_events.h"
#include "tracelet/histogram/payload.h"
#include "tracelet/names.h"
#include "tracelet/record.h"

namespace tracelet {

// The event files of a run, one a writer. Not thread-safe: one thread at a time, and another one
// for `sync`. As there may be more writers than a process may have files open, only those written
// last are open.
class EventFileSet {
 public:
  // The ledger, where there is one, outlives the set, as the names do.
  explicit EventFileSet(Names* names, FileLedger* ledger = nullptr)
      : names_(names), ledger_(ledger) {}
  EventFileSet(const EventFileSet&) = delete;
  EventFileSet& operator=(const EventFileSet&) = delete;

  // Creates the event file of a writer, whose records up to `sequence` lie in other files. One
  // that has a file goes on in the new one, with what comes after the records in the old one.
  // Throws std::system_error.
  void open(std::uint32_t writer_id, const std::string& path, double wall_time_s,
            std::uint64_t sequence = 0);
  // A writer that can't have a file for now: its records are passed by until `open` succeeds, also
  // where an older file of it is open yet, deleted maybe.
  void leave_out(std::uint32_t writer_id);
  // The writers in `records` that have no file, each once: there was none yet, or it is gone, as
  // its folder was deleted. kNoWriter is left out.
  std::vector<std::uint32_t> unopened_writers(RecordSpan records);
  static constexpr std::size_t kMostOpenFiles = 64;
  struct Written {
    std::size_t count = 0;  // records that a file has now
    std::size_t unreadable =
        0;  // left out: their payload can't be read, not at the last try either
  };
  // Appends every record whose writer has a file to that file, in order. Throws std::system_error
  // when a file, or an event that lies in one, can't be written or read now, once all else is
  // written: it may lie on other disks. Calling it
  // again with the same records is then right: each file knows what it already holds, by the
  // records' sequence.
  Written write(RecordSpan records, PayloadSpan payloads);
  // Has what was written before this call reach the disk, and notes it in `synced`, a ledger of
  // this call's own: what that one says of a file is true after a loss of power, too. Waits for the
  // disk. Throws std::system_error for the first file that failed, once it has tried all.
  void sync(FileLedger& synced);
  // What a dead process' files may hold of the writer's records that are given once more.
  HeldEvents& held(std::uint32_t writer_id) { return held_[writer_id]; }
  void close();

 private:
  struct File {
    std::string path;
    double wall_time_s = 0;          // of its version event
    std::size_t ledger_place = 0;    //
    std::optional<AppendFile> file;  // while it is open
    std::uint64_t last_flush = 0;    // counted in flushes of any file
    std::string buffer{};
    std::uint64_t written_sequence = 0;  // the file holds all its records up to this one
    std::uint64_t buffered_sequence = 0;
    std::uint64_t size_bytes = 0;  // with the last flush
    std::uint32_t count = 0;       // points in the file
    std::uint32_t buffered_count = 0;
    bool is_synced = true;
    bool has_failed = false;      // in the write under way
    bool is_left_out = false;     // until it is opened
    std::uint64_t looked_at = 0;  // the last of `looks_` in which it was looked for
  };
  struct CachedTag {
    std::string_view text;
    std::string summary_prefix;
  };

  bool append(const Record& record, PayloadSpan payloads, std::string& out);
  bool is_last_try(const Record& record);
  bool append_event(const Record& record, PayloadSpan payloads, std::string& out);
  static bool is_gone(const File& file);
  void close(File& file);
  void flush(File& file);
  void reopen(File& file);
  // Appends it to the file's buffer, unless a dead process' file has it. False when it can't be
  // read.
  bool buffer(const Record& record, PayloadSpan payloads, File& file, HeldEvents* held);
  // None for an id that is no tag's.
  const CachedTag* tag(std::uint32_t id);

  // What is to be on the disk: a copy, as the file may be written meanwhile.
  struct ToSync {
    std::uint32_t writer_id;
    std::string path;
    std::uint64_t size_bytes;
    std::uint64_t sequence;
    std::uint32_t count;
  };
  void retire(std::uint32_t writer_id, const File& file);
  std::vector<ToSync> take_unsynced();
  void sync_one(const ToSync& wanted, FileLedger& synced);

  Names* names_;
  FileLedger* ledger_;
  // Guards `files_` and `retired_`: held by the thread that writes, and by `sync` for the moment in
  // which it copies, never while it waits for the disk.
  std::mutex mutex_;
  std::map<std::uint32_t, File> files_;
  std::vector<ToSync> retired_;  // files that their writers have left
  // Of the thread that syncs: places in its ledger, by writer and path. A file's name, and
  // those of the folders above it, are on the disk with its first entry there.
  std::map<std::pair<std::uint32_t, std::string>, std::size_t> synced_places_;
  std::map<std::uint32_t, HeldEvents> held_;
  // Of files that could not be opened: tried again they are the same entries of the ledger.
  std::map<std::uint32_t, std::pair<std::string, std::size_t>> failed_places_;
  std::size_t open_files_ = 0;
  std::uint64_t flushes_ = 0;
  std::uint64_t looks_ = 0;
  // The event in a file that could not be read last, and how often.
  std::uint64_t unread_sequence_ = 0;
  int unread_tries_ = 0;
  std::vector<CachedTag> cached_tags_;
  HistogramBuckets buckets_;
};

}  // namespace tracelet
