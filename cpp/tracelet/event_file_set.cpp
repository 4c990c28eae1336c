#include "tracelet/event_file_set.h"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <filesystem>
#include <system_error>
#include <utility>

#include "tracelet/event_file.h"
#include "tracelet/platform.h"

namespace tracelet {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 18;
constexpr int kMostReads = 5;  // of one event's file on a device that fails

}  // namespace

void EventFileSet::open(std::uint32_t writer_id, const std::string& path, double wall_time_s,
                        std::uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  std::size_t place = 0;
  if (ledger_ != nullptr) {
    const auto failed = failed_places_.find(writer_id);
    const bool is_known = failed != failed_places_.end() && failed->second.first == path;
    place = is_known ? failed->second.second : ledger_->add(writer_id, path, sequence);
  }
  const auto [at, is_new] = files_.try_emplace(writer_id);
  File& file = at->second;
  close(file);
  if (!is_new) retire(writer_id, file);
  file.path = path;
  file.count = 0;
  file.size_bytes = 0;
  file.wall_time_s = wall_time_s;
  file.ledger_place = place;
  file.written_sequence = std::max(file.written_sequence, sequence);
  try {
    reopen(file);
    file.is_left_out = false;
  } catch (...) {
    // What an older file holds is known for as long as there are points to come.
    if (is_new) files_.erase(at);
    failed_places_.insert_or_assign(writer_id, std::pair(path, place));
    throw;
  }
}

void EventFileSet::leave_out(std::uint32_t writer_id) {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(writer_id);
  if (found == files_.end()) return;
  close(found->second);
  found->second.is_left_out = true;
}

void EventFileSet::reopen(File& file) {
  if (open_files_ >= kMostOpenFiles) {
    File* oldest = nullptr;
    for (auto& [id, each] : files_) {
      if (each.file && (oldest == nullptr || each.last_flush < oldest->last_flush)) oldest = &each;
    }
    close(*oldest);
  }
  AppendFile opened(file.path);
  // New, or removed while it was closed: what follows is readable either way.
  if (opened.is_empty()) {
    file.size_bytes = opened.append(version_event(file.wall_time_s));
    file.count = 0;
  }
  file.file.emplace(std::move(opened));
  ++open_files_;
  file.last_flush = ++flushes_;
}

void EventFileSet::close(File& file) {
  if (file.file) --open_files_;
  file.file.reset();
}

// A deleted file takes what is written to it, and nobody will find it: its link count says nothing
// where a client of a network file system renames what is deleted while it is open.
bool EventFileSet::is_gone(const File& file) {
  return file.file ? !file.file->is_named() : !is_there(file.path);
}

std::vector<std::uint32_t> EventFileSet::unopened_writers(RecordSpan records) {
  std::vector<std::uint32_t> unopened;
  std::uint32_t last = kNoWriter;
  ++looks_;
  for (const Record& record : records) {
    if (record.writer_id == last) continue;
    last = record.writer_id;
    if (last == kNoWriter) continue;
    if (const auto found = files_.find(last); found != files_.end()) {
      const bool is_known = std::exchange(found->second.looked_at, looks_) == looks_;
      if (is_known || (!found->second.is_left_out && !is_gone(found->second))) continue;
    }
    if (std::find(unopened.begin(), unopened.end(), last) == unopened.end()) {
      unopened.push_back(last);
    }
  }
  return unopened;
}

EventFileSet::Written EventFileSet::write(RecordSpan records, PayloadSpan payloads) {
  const std::lock_guard lock(mutex_);
  for (auto& [id, held] : held_) held.put_back();
  for (auto& [id, file] : files_) {
    file.buffer.clear();
    file.buffered_sequence = file.written_sequence;
    file.buffered_count = 0;
    file.has_failed = false;
  }
  Written written;
  std::exception_ptr failure;
  const auto try_flush = [&](std::uint32_t id, File& each) {
    try {
      flush(each);
      if (const auto held = held_.find(id); held != held_.end()) held->second.commit();
    } catch (const std::system_error&) {
      each.has_failed = true;
      if (!failure) failure = std::current_exception();
    }
  };
  std::uint32_t writer_id = kNoWriter;
  File* file = nullptr;
  HeldEvents* held = nullptr;
  for (const Record& record : records) {
    if (record.writer_id != writer_id || file == nullptr) {
      writer_id = record.writer_id;
      const auto found = files_.find(writer_id);
      file = found == files_.end() ? nullptr : &found->second;
      const auto its_held = held_.find(writer_id);
      held = its_held == held_.end() ? nullptr : &its_held->second;
    }
    if (file == nullptr || file->is_left_out) continue;
    if (file->has_failed) continue;  // what can't be written is not gathered
    if (record.sequence > file->written_sequence) {
      bool is_readable = false;
      try {
        is_readable = buffer(record, payloads, *file, held);
      } catch (const std::system_error& error) {
        if (error.code().value() != EIO || !is_last_try(record)) {
          try_flush(writer_id,
                    *file);  // what comes before it; it and what comes after are given again
          file->has_failed = true;
          if (!failure) failure = std::current_exception();
          continue;
        }
      }
      if (!is_readable) {
        ++written.unreadable;
        continue;
      }
      file->buffered_sequence = record.sequence;
      if (file->buffer.size() >= kBufferBytes) try_flush(writer_id, *file);
    }
    ++written.count;
  }
  for (auto& [id, each] : files_) {
    if (!each.has_failed) try_flush(id, each);
  }
  if (failure) std::rethrow_exception(failure);
  return written;
}

bool EventFileSet::buffer(const Record& record, PayloadSpan payloads, File& file,
                          HeldEvents* held) {
  const std::size_t start = file.buffer.size();
  if (!append(record, payloads, file.buffer)) return false;
  if (held != nullptr && held->take(std::string_view(file.buffer).substr(start), record.sequence)) {
    file.buffer.resize(start);
  } else {
    ++file.buffered_count;
  }
  return true;
}

// A device that always fails at a file must not hold back all that comes after it.
bool EventFileSet::is_last_try(const Record& record) {
  unread_tries_ = record.sequence == unread_sequence_ ? unread_tries_ + 1 : 1;
  unread_sequence_ = record.sequence;
  return unread_tries_ >= kMostReads;
}

bool EventFileSet::append(const Record& record, PayloadSpan payloads, std::string& out) {
  // An event has its tags in its own bytes.
  if (record.kind == RecordKind::kEvent) return append_event(record, payloads, out);
  const CachedTag* const found = tag(record.tag_id);
  if (found == nullptr) return false;
  const CachedTag& cached = *found;
  switch (record.kind) {
    case RecordKind::kScalar:
      if (!has_value(record)) return false;
      append_scalar_event(record, cached.text, cached.summary_prefix, out);
      return true;
    case RecordKind::kHistogram:
      if (!buckets_.read(payloads.of(record))) return false;
      append_histogram_event(record, cached.text, buckets_, out);
      return true;
    case RecordKind::kEvent:
    case RecordKind::kSkipped:
      break;
  }
  return false;
}

bool EventFileSet::append_event(const Record& record, PayloadSpan payloads, std::string& out) {
  const std::span<const std::byte> payload = payloads.of(record);
  if (payload.size() != record.payload_size) return false;  // not in here
  if ((record.flags & kPayloadInFile) == 0) {
    append_ready_event(payload, out);
    return true;
  }
  return append_event_from_file(
      std::string(reinterpret_cast<const char*>(payload.data()), payload.size()), out);
}

void EventFileSet::flush(File& file) {
  if (file.buffer.empty()) {
    file.written_sequence = file.buffered_sequence;  // what came is in an older file
    return;
  }
  if (!file.file) {
    std::error_code ignored;  // opening tells
    std::filesystem::create_directories(std::filesystem::path(file.path).parent_path(), ignored);
    reopen(file);
  }
  file.last_flush = ++flushes_;
  file.size_bytes = file.file->append(file.buffer);
  file.written_sequence = file.buffered_sequence;
  file.count += file.buffered_count;
  file.buffered_count = 0;
  file.is_synced = false;
  if (ledger_ != nullptr) {
    ledger_->acknowledge(file.ledger_place, file.size_bytes, file.written_sequence, file.count);
  }
  file.buffer.clear();
  // Of many writers that log large events now and then, each would keep room for its largest.
  if (file.buffer.capacity() > 4 * kBufferBytes) std::string().swap(file.buffer);
}

void EventFileSet::retire(std::uint32_t writer_id, const File& file) {
  if (file.is_synced) return;
  retired_.push_back({writer_id, file.path, file.size_bytes, file.written_sequence, file.count});
}

std::vector<EventFileSet::ToSync> EventFileSet::take_unsynced() {
  const std::lock_guard lock(mutex_);
  for (auto& [id, file] : files_) {
    retire(id, file);
    file.is_synced = true;
  }
  return std::exchange(retired_, {});
}

void EventFileSet::sync(FileLedger& synced) {
  std::exception_ptr failure;
  std::vector<ToSync> failed;
  for (const ToSync& wanted : take_unsynced()) {
    try {
      sync_one(wanted, synced);
    } catch (const std::system_error&) {
      if (!failure) failure = std::current_exception();
      // One that was to be synced before, and failed, is a part of this one.
      std::erase_if(failed, [&](const ToSync& each) { return each.path == wanted.path; });
      failed.push_back(wanted);
    }
  }
  if (failure) {
    const std::lock_guard lock(mutex_);
    retired_.insert(retired_.begin(), failed.begin(), failed.end());
  }
  synced.sync();
  if (failure) std::rethrow_exception(failure);
}

void EventFileSet::sync_one(const ToSync& wanted, FileLedger& synced) {
  const int error = sync_file(wanted.path);
  if (error == ENOENT || error == ENOTDIR) return;  // removed: `write` makes another one
  const auto check = [&](int its_error) {
    if (its_error != 0) {
      throw std::system_error(its_error, std::generic_category(), "cannot sync " + wanted.path);
    }
  };
  check(error);
  const std::pair key(wanted.writer_id, wanted.path);
  auto place = synced_places_.find(key);
  if (place == synced_places_.end()) {
    const std::filesystem::path folder = std::filesystem::path(wanted.path).parent_path();
    check(sync_folder(folder.string()));
    // Which of those above it are as new is not known. One that is not ours is older than the run.
    for (auto above = folder; above != above.parent_path();) {
      above = above.parent_path();
      (void)sync_folder(above.string());
    }
    place = synced_places_.emplace(key, synced.add(wanted.writer_id, wanted.path, 0)).first;
  }
  synced.acknowledge(place->second, wanted.size_bytes, wanted.sequence, wanted.count);
}

void EventFileSet::close() {
  const std::lock_guard lock(mutex_);
  for (auto& [id, file] : files_) retire(id, file);
  files_.clear();
  open_files_ = 0;
}

// An id that is not in the names is of a damaged record: what is kept by it stays as small as they.
const EventFileSet::CachedTag* EventFileSet::tag(std::uint32_t id) {
  if (id >= cached_tags_.size()) {
    if (id > names_->size() || id >= kMostNames) return nullptr;
    cached_tags_.resize(std::size_t{id} + 1);
  }
  CachedTag& cached = cached_tags_[id];
  if (cached.summary_prefix.empty()) {
    cached.text = names_->text(id);
    cached.summary_prefix = scalar_summary_prefix(cached.text);
  }
  return &cached;
}

}  // namespace tracelet
