// TensorBoard event files: points encoded and appended.
//
// A file is a sequence of TFRecords, each: length (u64), masked CRC-32C of the length, data, masked
// CRC-32C of the data. The data are an Event protobuf (tensorboard/compat/proto/event.proto,
// summary.proto). https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tracelet/append_file.h"
#include "tracelet/file_ledger.h"
#include "tracelet/histogram/payload.h"
#include "tracelet/names.h"
#include "tracelet/record.h"

namespace tracelet {

// Appends the TFRecord of one scalar record to `out`. `summary_prefix` comes from
// scalar_summary_prefix(tag) and is used for plain scalars only.
void append_scalar_event(const Record& record, std::string_view tag,
                         std::string_view summary_prefix, std::string& out);
// The bytes of a plain scalar's summary that its tag fixes: all but the value, which ends it.
std::string scalar_summary_prefix(std::string_view tag);
// Appends the TFRecord of a histogram record to `out`.
void append_histogram_event(const Record& record, std::string_view tag,
                            const HistogramBuckets& buckets, std::string& out);
// Appends the TFRecord of an Event protobuf, given as its bytes.
void append_ready_event(std::span<const std::byte> event, std::string& out);
// The same for an Event that is a file's content; false, and nothing appended, when there is no
// such file, or none that may be read. Throws std::system_error, and nothing is appended, for what
// may pass: no descriptor left, no memory, an error of the device.
bool append_event_from_file(const std::string& path, std::string& out);
// The record every event file begins with: the format's version and who wrote it.
std::string version_event(double wall_time_s);

// The event files of a run, one a writer. Not thread-safe: one thread at a time. As there may be
// more writers than a process may have files open, only those written last are open.
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
  void close() {
    files_.clear();
    open_files_ = 0;
  }

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
    bool has_failed = false;      // in the write under way
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
  // None for an id that is no tag's.
  const CachedTag* tag(std::uint32_t id);

  Names* names_;
  FileLedger* ledger_;
  std::map<std::uint32_t, File> files_;
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
