#include "tracelet/file_ledger.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <stdexcept>
#include <system_error>

#include "tracelet/crc32c.h"
#include "tracelet/stored_file.h"

namespace tracelet {
namespace {

constexpr char kMagic[8] = {'T', 'R', 'C', 'L', 'L', 'D', 'G', 'R'};
constexpr std::uint32_t kVersion = 3;
constexpr std::size_t kGrowBytes = std::size_t{1} << 16;
// Address space; the file backs what is used. A million files of long paths fit.
constexpr std::size_t kReservedBytes = std::size_t{1} << 30;
constexpr std::size_t kMostPathBytes = std::size_t{1} << 16;

constexpr std::size_t padded(std::size_t bytes) { return (bytes + 7) / 8 * 8; }

// As version 1 had them.
struct Entry1 {
  std::uint32_t writer_id;
  std::uint32_t path_bytes;
  std::uint64_t current;  // which of the two states counts
  struct {
    std::uint64_t size_bytes;
    std::uint64_t sequence;
  } states[2];
};

}  // namespace

struct FileLedger::Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t crc;  // of what is before it; 0 in version 2
  // Written last by `add` (release), after the entry; read by a process that opens a dead one's
  // file (acquire).
  std::atomic<std::uint64_t> used_bytes;

  std::uint32_t right_crc() const { return crc32c(this, offsetof(Header, crc)); }
  bool is_sound() const {
    return std::memcmp(magic, kMagic, sizeof(kMagic)) == 0 && version != 0 &&
           (crc == 0 || crc == right_crc());
  }
};

struct FileLedger::State {
  std::uint64_t size_bytes;
  std::uint64_t sequence;
  std::uint64_t generation;  // 0: never written
  std::uint32_t crc;         // of all others, and the writer: none is taken for another file's
  std::uint32_t count;       // 0 in version 2

  std::uint32_t right_crc(std::uint32_t writer_id) const {
    const std::uint32_t start = count == 0 ? writer_id : crc32c(&count, sizeof(count), writer_id);
    return crc32c(this, offsetof(State, crc), start);
  }
  bool was_written() const { return (size_bytes | sequence | generation | crc | count) != 0; }
};

struct FileLedger::EntryHeader {
  std::uint32_t writer_id;
  std::uint32_t path_bytes;
  std::uint32_t crc;  // of the two and the path
  std::uint32_t unused;
  State states[2];
  // the path follows, padded to 8

  std::string_view path() const { return {reinterpret_cast<const char*>(this + 1), path_bytes}; }
  std::uint32_t right_crc() const {
    return crc32c(path().data(), path_bytes, crc32c(this, offsetof(EntryHeader, crc)));
  }
};

std::size_t FileLedger::first_free_place() const {
  const std::size_t last_end = visit_entries([](std::size_t) {}).last_end;
  // Behind the last whole entry there may be a damaged one: it stays, for who can read it.
  const std::uint64_t used = header()->used_bytes.load(std::memory_order_acquire);
  const bool is_plausible = used > last_end && used <= file_.size_bytes() && used % 8 == 0;
  return is_plausible ? static_cast<std::size_t>(used) : last_end;
}

FileLedger::Header* FileLedger::header() const { return reinterpret_cast<Header*>(file_.data()); }

FileLedger::EntryHeader* FileLedger::at(std::size_t place) const {
  return reinterpret_cast<EntryHeader*>(file_.data() + place);
}

std::unique_ptr<FileLedger> FileLedger::create(const std::string& path) {
  MappedFile file = MappedFile::create(path, kGrowBytes, kReservedBytes);
  std::unique_ptr<FileLedger> ledger(new FileLedger(std::move(file)));
  ledger->write_header();
  ledger->header()->used_bytes.store(sizeof(Header), std::memory_order_release);
  return ledger;
}

void FileLedger::write_header() {
  std::memcpy(header()->magic, kMagic, sizeof(kMagic));
  header()->version = kVersion;
  header()->crc = header()->right_crc();
}

std::unique_ptr<FileLedger> FileLedger::recover(const std::string& path) {
  try {
    return open(path);
  } catch (const DamagedLedgerError&) {
    std::filesystem::rename(path, path + ".damaged");
  } catch (const std::system_error& error) {
    if (error.code().value() != ENOENT) throw;
  }
  std::unique_ptr<FileLedger> ledger = create(path);
  ledger->was_damaged_ = true;
  return ledger;
}

std::unique_ptr<FileLedger> FileLedger::open(const std::string& path) {
  // Looked at through a descriptor before it is mapped: a page beyond the end of a file that is too
  // short is a SIGBUS.
  alignas(Header) char head[sizeof(Header)];
  const StoredFile stored = StoredFile::open(path);
  const auto* found = reinterpret_cast<const Header*>(head);
  if (stored.size_bytes() < sizeof(head) || stored.size_bytes() > kReservedBytes) {
    throw DamagedLedgerError(path + " is damaged, or no ledger of tracelet's");
  }
  if (!stored.read(0, head, sizeof(head))) {  // an error of the disk, which may pass, is no damage
    throw std::system_error(EIO, std::generic_category(), "cannot read " + path);
  }
  const bool is_sound = found->is_sound();
  if (is_sound && found->version > kVersion) {
    throw std::runtime_error(path + " was written by a newer version of tracelet (format " +
                             std::to_string(found->version) + ", this one reads " +
                             std::to_string(kVersion) + "): update tracelet to read it");
  }
  if (is_sound && found->version == 1) return open_version_1(path);
  std::unique_ptr<FileLedger> ledger(new FileLedger(MappedFile::open(path, kReservedBytes)));
  // The entries have checksums of their own, so they are good under a header that is not.
  if (!is_sound) {
    if (ledger->entries().empty()) {
      throw DamagedLedgerError(path + " is damaged, or no ledger of tracelet's");
    }
    ledger->was_damaged_ = true;
    ledger->header()->used_bytes.store(ledger->first_free_place(), std::memory_order_release);
  }
  ledger->write_header();
  return ledger;
}

std::unique_ptr<FileLedger> FileLedger::open_version_1(const std::string& path) {
  const std::string content = StoredFile::open(path).content(kReservedBytes);
  if (content.size() < sizeof(Header)) throw DamagedLedgerError(path + " is damaged");
  std::uint64_t used = 0;
  std::memcpy(&used, content.data() + offsetof(Header, used_bytes), sizeof(used));
  if (used < sizeof(Header) || used > content.size()) {
    throw DamagedLedgerError(path + " is damaged");
  }
  const std::string new_path = path + ".new";
  std::filesystem::remove(new_path);
  const std::unique_ptr<FileLedger> ledger = create(new_path);
  for (std::size_t place = sizeof(Header); place + sizeof(Entry1) <= used;) {
    Entry1 entry;
    std::memcpy(&entry, content.data() + place, sizeof(entry));
    place += sizeof(entry);
    if (entry.current > 1 || padded(entry.path_bytes) > used - place) break;
    const auto& state = entry.states[entry.current];
    const std::size_t added = ledger->add(
        entry.writer_id, std::string_view(content).substr(place, entry.path_bytes), state.sequence);
    if (state.size_bytes != 0) ledger->acknowledge(added, state.size_bytes, state.sequence);
    place += padded(entry.path_bytes);
  }
  std::filesystem::rename(new_path, path);
  return open(path);
}

std::size_t FileLedger::add(std::uint32_t writer_id, std::string_view path,
                            std::uint64_t sequence) {
  if (path.size() > kMostPathBytes) {
    throw std::system_error(ENAMETOOLONG, std::generic_category(), "cannot note a file's path");
  }
  if (end_ == 0) end_ = first_free_place();
  const std::size_t place = end_;
  const std::size_t end = place + sizeof(EntryHeader) + padded(path.size());
  if (end > file_.size_bytes() && !file_.grow((end + kGrowBytes - 1) / kGrowBytes * kGrowBytes)) {
    throw std::system_error(ENOSPC, std::generic_category(), "cannot grow " + file_.path());
  }
  EntryHeader* entry = at(place);
  std::memset(static_cast<void*>(entry), 0, sizeof(EntryHeader));
  entry->writer_id = writer_id;
  entry->path_bytes = static_cast<std::uint32_t>(path.size());
  std::memcpy(reinterpret_cast<char*>(entry + 1), path.data(), path.size());
  entry->crc = entry->right_crc();
  acknowledge(place, 0, sequence);
  header()->used_bytes.store(end, std::memory_order_release);
  end_ = end;
  return place;
}

// The state that counts: the newest whole one; none when there is none.
FileLedger::State* FileLedger::newest(EntryHeader* entry) {
  State* newest = nullptr;
  for (State& state : entry->states) {
    if (state.generation == 0 || state.crc != state.right_crc(entry->writer_id)) continue;
    if (newest == nullptr || state.generation > newest->generation) newest = &state;
  }
  return newest;
}

void FileLedger::acknowledge(std::size_t place, std::uint64_t size_bytes, std::uint64_t sequence,
                             std::uint32_t count) noexcept {
  EntryHeader* entry = at(place);
  const State* last = newest(entry);
  State* next = last == &entry->states[0] ? &entry->states[1] : &entry->states[0];
  next->size_bytes = size_bytes;
  next->sequence = sequence;
  next->generation = last == nullptr ? 1 : last->generation + 1;
  next->count = count;
  next->crc = next->right_crc(entry->writer_id);
}

bool FileLedger::is_certain(const EntryHeader* entry) {
  return std::all_of(std::begin(entry->states), std::end(entry->states), [&](const State& state) {
    return !state.was_written() ||
           (state.generation != 0 && state.crc == state.right_crc(entry->writer_id));
  });
}

void FileLedger::sync() const {
  if (const int error = file_.sync(); error != 0) {
    throw std::system_error(error, std::generic_category(), "cannot sync " + file_.path());
  }
}

bool FileLedger::is_whole(std::size_t place, std::size_t end) const {
  if (end - place < sizeof(EntryHeader)) return false;
  const EntryHeader* entry = at(place);
  const std::size_t left = end - place - sizeof(EntryHeader);
  return entry->path_bytes <= kMostPathBytes && padded(entry->path_bytes) <= left &&
         entry->crc == entry->right_crc();
}

template <typename Visit>
FileLedger::Look FileLedger::visit_entries(Visit visit) const {
  const std::size_t size_bytes = std::min(file_.size_bytes(), kReservedBytes);
  const std::uint64_t used = header()->used_bytes.load(std::memory_order_acquire);
  std::size_t last_end = sizeof(Header);
  bool is_right = true;
  // To the file's end: what is behind the used bytes is zero, which is no entry. Where their number
  // is damaged, the entries tell.
  for (std::size_t place = sizeof(Header); place < size_bytes;) {
    if (!is_whole(place, size_bytes)) {
      is_right &= place >= used;
      place += 8;  // entries begin at multiples of it
      continue;
    }
    visit(place);
    place += sizeof(EntryHeader) + padded(at(place)->path_bytes);
    last_end = place;
  }
  return {is_right && last_end == used, last_end};
}

std::vector<FileLedger::Entry> FileLedger::entries() const {
  std::vector<Entry> found;
  visit_entries([&](std::size_t place) {
    EntryHeader* entry = at(place);
    const State* state = newest(entry);
    found.push_back({entry->writer_id, std::string(entry->path()),
                     state == nullptr ? kUnknownSize : state->size_bytes,
                     state == nullptr ? 0 : state->sequence, place,
                     state == nullptr ? 0 : state->count, is_certain(entry)});
  });
  return found;
}

bool FileLedger::is_damaged() const {
  bool has_states = true;
  const Look look =
      visit_entries([&](std::size_t place) { has_states &= newest(at(place)) != nullptr; });
  return was_damaged_ || !look.is_right || !has_states;
}

}  // namespace tracelet
