#include "tracelet/held_events.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <optional>
#include <system_error>

#include "tracelet/crc32c.h"
#include "tracelet/stored_file.h"

namespace tracelet {
namespace {

constexpr std::size_t kHeaderBytes = 12;  // of a TFRecord: length, checksum of the length
constexpr std::size_t kCrcBytes = 4;
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;

template <typename T>
T load_at(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

// How many bytes the record that `bytes` begin with has; 0 when its length is damaged.
std::uint64_t record_bytes(const char* bytes) {
  if (masked_crc32c(bytes, 8) != load_at<std::uint32_t>(bytes + 8)) return 0;
  return load_at<std::uint64_t>(bytes) + kHeaderBytes + kCrcBytes;
}

bool is_whole(std::string_view record) {
  const std::string_view data =
      record.substr(kHeaderBytes, record.size() - kHeaderBytes - kCrcBytes);
  return masked_crc32c(data.data(), data.size()) ==
         load_at<std::uint32_t>(data.data() + data.size());
}

std::optional<StoredFile> open_if_there(const std::string& path) {
  try {
    return StoredFile::open(path);
  } catch (const std::system_error& error) {
    const int code = error.code().value();
    if (code == ENOENT || code == ENOTDIR) return std::nullopt;
    throw;
  }
}

std::uint64_t hash_of(std::string_view event) { return std::hash<std::string_view>()(event); }

}  // namespace

HeldEvents::Found HeldEvents::load(const std::string& path, std::uint64_t from_bytes,
                                   std::uint64_t until_sequence) {
  until_sequence_ = std::max(until_sequence_, until_sequence);
  const std::optional<StoredFile> opened = open_if_there(path);
  if (!opened) return {};
  const StoredFile& file = *opened;
  Counts& counts = until_sequence > 0 ? in_damaged_ : in_others_;
  Found found{.end_bytes = from_bytes};
  std::string chunk;
  std::uint64_t chunk_start = from_bytes;
  // The bytes from `found.end_bytes` on, so many of them; none when the file ends before.
  const auto bytes_at_end = [&](std::uint64_t wanted_bytes) -> const char* {
    if (found.end_bytes > file.size_bytes() || wanted_bytes > file.size_bytes() - found.end_bytes) {
      return nullptr;
    }
    if (found.end_bytes + wanted_bytes > chunk_start + chunk.size()) {
      const std::uint64_t left = file.size_bytes() - found.end_bytes;
      chunk.resize(static_cast<std::size_t>(
          std::min(left, std::max<std::uint64_t>(wanted_bytes, kChunkBytes))));
      chunk_start = found.end_bytes;
      // The file has these bytes: an error of the disk is not its end, behind which it would be
      // cut.
      if (!file.read(chunk_start, chunk.data(), chunk.size())) {
        throw std::system_error(EIO, std::generic_category(), "cannot read " + path);
      }
    }
    return chunk.data() + (found.end_bytes - chunk_start);
  };
  while (const char* head = bytes_at_end(kHeaderBytes)) {
    const std::uint64_t size_bytes = record_bytes(head);
    if (size_bytes < kHeaderBytes + kCrcBytes) break;
    const char* bytes = bytes_at_end(size_bytes);
    if (bytes == nullptr) break;
    const std::string_view record(bytes, static_cast<std::size_t>(size_bytes));
    if (!is_whole(record)) break;
    const bool is_first = found.end_bytes == 0;  // says which version the file has
    found.end_bytes += size_bytes;
    if (is_first) continue;
    ++counts[hash_of(record)];
    ++found.count;
  }
  return found;
}

bool HeldEvents::take(std::string_view event, std::uint64_t sequence) {
  const std::uint64_t hash = hash_of(event);
  Counts* from = nullptr;
  for (Counts* counts : {&in_damaged_, &in_others_}) {
    const auto found = counts->find(hash);
    if (found == counts->end() || found->second == 0) continue;
    --found->second;
    from = counts;
    taken_.push_back({counts, hash});
    break;
  }
  if (from != &in_damaged_ && sequence <= until_sequence_) ++newly_restored_;
  return from != nullptr;
}

void HeldEvents::commit() {
  taken_.clear();
  restored_ += newly_restored_;
  newly_restored_ = 0;
}

void HeldEvents::put_back() {
  for (const Taken& taken : taken_) ++(*taken.from)[taken.hash];
  taken_.clear();
  newly_restored_ = 0;
}

}  // namespace tracelet
