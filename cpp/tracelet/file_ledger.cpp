#include "tracelet/file_ledger.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

namespace tracelet {
namespace {

constexpr char kMagic[8] = {'T', 'R', 'C', 'L', 'L', 'D', 'G', 'R'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kGrowBytes = std::size_t{1} << 16;
// Address space; the file backs what is used. A million files of long paths fit.
constexpr std::size_t kReservedBytes = std::size_t{1} << 30;

}  // namespace

struct FileLedger::Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t unused;
  // Written last by `add` (release), after the entry; read by a process that opens a dead one's
  // file (acquire).
  std::atomic<std::uint64_t> used_bytes;
};

struct FileLedger::EntryHeader {
  std::uint32_t writer_id;
  std::uint32_t path_bytes;
  // Which of the two states counts. Written (release) after the other one was written whole.
  std::atomic<std::uint64_t> current;
  struct {
    std::uint64_t size_bytes;
    std::uint64_t sequence;
  } states[2];
  // the path follows, padded to 8
};

namespace {

constexpr std::size_t padded(std::size_t bytes) { return (bytes + 7) / 8 * 8; }

}  // namespace

FileLedger::Header* FileLedger::header() const { return reinterpret_cast<Header*>(file_.data()); }

FileLedger::EntryHeader* FileLedger::at(std::size_t place) const {
  return reinterpret_cast<EntryHeader*>(file_.data() + place);
}

std::unique_ptr<FileLedger> FileLedger::create(const std::string& path) {
  MappedFile file = MappedFile::create(path, kGrowBytes, kReservedBytes);
  auto* header = reinterpret_cast<Header*>(file.data());
  std::memcpy(header->magic, kMagic, sizeof(kMagic));
  header->version = kVersion;
  header->used_bytes.store(sizeof(Header), std::memory_order_release);
  return std::unique_ptr<FileLedger>(new FileLedger(std::move(file)));
}

std::unique_ptr<FileLedger> FileLedger::open(const std::string& path) {
  MappedFile file = MappedFile::open(path, kReservedBytes);
  const auto* header = reinterpret_cast<const Header*>(file.data());
  if (file.size_bytes() < sizeof(Header) ||
      std::memcmp(header->magic, kMagic, sizeof(kMagic)) != 0 || header->version != kVersion ||
      header->used_bytes.load() < sizeof(Header) || header->used_bytes.load() > file.size_bytes()) {
    throw std::runtime_error(path + " is damaged, or of another version of tracelet");
  }
  return std::unique_ptr<FileLedger>(new FileLedger(std::move(file)));
}

std::size_t FileLedger::add(std::uint32_t writer_id, std::string_view path,
                            std::uint64_t sequence) {
  const auto place = static_cast<std::size_t>(header()->used_bytes.load(std::memory_order_relaxed));
  const std::size_t end = place + sizeof(EntryHeader) + padded(path.size());
  if (end > file_.size_bytes() && !file_.grow((end + kGrowBytes - 1) / kGrowBytes * kGrowBytes)) {
    throw std::system_error(ENOSPC, std::generic_category(), "cannot grow " + file_.path());
  }
  EntryHeader* entry = at(place);
  entry->writer_id = writer_id;
  entry->path_bytes = static_cast<std::uint32_t>(path.size());
  entry->states[0] = {0, sequence};
  entry->current.store(0, std::memory_order_relaxed);
  std::memcpy(file_.data() + place + sizeof(EntryHeader), path.data(), path.size());
  header()->used_bytes.store(end, std::memory_order_release);
  return place;
}

void FileLedger::acknowledge(std::size_t place, std::uint64_t size_bytes,
                             std::uint64_t sequence) noexcept {
  EntryHeader* entry = at(place);
  const std::uint64_t next = 1 - entry->current.load(std::memory_order_relaxed);
  entry->states[next] = {size_bytes, sequence};
  entry->current.store(next, std::memory_order_release);
}

std::vector<FileLedger::Entry> FileLedger::entries() const {
  std::vector<Entry> found;
  const auto used = static_cast<std::size_t>(header()->used_bytes.load(std::memory_order_acquire));
  std::size_t place = sizeof(Header);
  while (place + sizeof(EntryHeader) <= used) {
    const EntryHeader* entry = at(place);
    const std::uint64_t current = entry->current.load(std::memory_order_acquire);
    const std::size_t left = used - place - sizeof(EntryHeader);
    if (current > 1 || padded(entry->path_bytes) > left) break;
    const auto& state = entry->states[current];
    found.push_back({entry->writer_id,
                     std::string(reinterpret_cast<const char*>(entry + 1), entry->path_bytes),
                     state.size_bytes, state.sequence, place});
    place += sizeof(EntryHeader) + padded(entry->path_bytes);
  }
  return found;
}

}  // namespace tracelet
