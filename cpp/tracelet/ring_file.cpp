#include "tracelet/ring_file.h"

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <utility>

namespace tracelet {
namespace {

constexpr char kMagic[8] = {'T', 'R', 'C', 'L', 'R', 'I', 'N', 'G'};

}  // namespace

bool is_ring_magic(const char (&magic)[8]) {
  return std::memcmp(magic, kMagic, sizeof(kMagic)) == 0;
}

std::string ring_id_text(const std::uint64_t (&id)[2]) {
  if (id[0] == 0 && id[1] == 0) return {};
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(id[0]),
                static_cast<unsigned long long>(id[1]));
  return text.data();
}

RingFile::RingFile(MappedFile file, std::uint64_t capacity, std::uint64_t payload_bytes)
    : file_(std::move(file)),
      header_(reinterpret_cast<RingFileHeader*>(file_.data())),
      ring_(&header_->ring, reinterpret_cast<Record*>(file_.data() + kRingFileHeaderBytes),
            capacity),
      payloads_(&header_->payloads, file_.data() + payloads_offset(capacity),
                static_cast<std::size_t>(payload_bytes)),
      tags_(&header_->tags, &file_, tags_offset(capacity, payload_bytes)) {}

std::unique_ptr<RingFile> RingFile::create(const std::string& path, std::uint64_t capacity,
                                           std::uint64_t payload_bytes) {
  if (!std::has_single_bit(capacity) || capacity < 16 || capacity > kLargestCapacity) {
    throw std::invalid_argument("the ring's capacity must be a power of two, 16 or more, not " +
                                std::to_string(capacity));
  }
  if (payload_bytes < kLeastPayloadBytes || payload_bytes > kLargestPayloadBytes) {
    throw std::invalid_argument("the payloads' size must be " + std::to_string(kLeastPayloadBytes) +
                                " bytes or more, not " + std::to_string(payload_bytes));
  }
  constexpr std::uint64_t kPageBytes = 4096;
  payload_bytes = (payload_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  const std::size_t size_bytes = tags_offset(capacity, payload_bytes);
  MappedFile file = MappedFile::create(path, size_bytes, size_bytes + kTagAddressSpaceBytes);
  // A new file is all zero bytes, which is how every atomic in it begins.
  auto* header = reinterpret_cast<RingFileHeader*>(file.data());
  std::memcpy(header->magic, kMagic, sizeof(kMagic));
  header->record_version = kRecordVersion;
  header->owner_pid = current_pid();
  header->capacity = capacity;
  header->payload_bytes = payload_bytes;
  std::random_device random;
  for (std::uint64_t& word : header->id) word = std::uint64_t{random()} << 32 | random();
  return std::unique_ptr<RingFile>(new RingFile(std::move(file), capacity, payload_bytes));
}

std::unique_ptr<RingFile> RingFile::open(const std::string& path) {
  std::uint64_t capacity;
  std::uint64_t payload_bytes;
  {
    const MappedFile head = MappedFile::open(path, kRingFileHeaderBytes);
    const auto* header = reinterpret_cast<const RingFileHeader*>(head.data());
    if (head.size_bytes() < kRingFileHeaderBytes || !is_ring_magic(header->magic)) {
      throw std::runtime_error(path + " is not the ring of a tracelet run");
    }
    if (header->record_version != kRecordVersion) {
      throw std::runtime_error(path +
                               " was written by another version of tracelet (record version " +
                               std::to_string(header->record_version) + ", this one reads " +
                               std::to_string(kRecordVersion) + ")");
    }
    capacity = header->capacity;
    payload_bytes = header->payload_bytes;
    // Read before the size: another process may be adding strings.
    const std::uint64_t tag_bytes = header->tags.used_bytes.load(std::memory_order_acquire);
    if (!std::has_single_bit(capacity) || capacity > kLargestCapacity || payload_bytes == 0 ||
        payload_bytes > kLargestPayloadBytes || tag_bytes > kTagAddressSpaceBytes ||
        head.size_bytes() < tags_offset(capacity, payload_bytes) + tag_bytes) {
      throw std::runtime_error(path + " is shorter than its header says");
    }
  }
  const std::size_t reserved_bytes = tags_offset(capacity, payload_bytes) + kTagAddressSpaceBytes;
  return std::unique_ptr<RingFile>(
      new RingFile(MappedFile::open(path, reserved_bytes), capacity, payload_bytes));
}

bool RingFile::skip_dead(bool owner_is_dead) {
  return ring_.skip_dead([&](std::uint32_t pid) {
    const bool is_own = ((pid ^ current_pid()) & kPidMask) == 0;
    if (owner_is_dead) return !is_own && pid != header_->owner_pid && process_is_alive(pid);
    return is_own || process_is_alive(pid);
  });
}

}  // namespace tracelet
