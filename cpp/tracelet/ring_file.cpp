#include "tracelet/ring_file.h"

#include <bit>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace tracelet {
namespace {

constexpr char kMagic[8] = {'T', 'R', 'C', 'L', 'R', 'I', 'N', 'G'};
// Address space for the strings, of which the file backs what is used: 100,000 tags of 10,000
// characters each fit.
constexpr std::size_t kTagAddressSpaceBytes = std::size_t{1} << 30;
// 64 TiB of records. Beyond it lie sizes that wrap around to small ones.
constexpr std::uint64_t kLargestCapacity = std::uint64_t{1} << 40;

std::size_t tags_offset(std::uint64_t capacity) {
  return kRingFileHeaderBytes + static_cast<std::size_t>(capacity) * sizeof(Record);
}

}  // namespace

RingFile::RingFile(MappedFile file, std::uint64_t capacity)
    : file_(std::move(file)),
      header_(reinterpret_cast<RingFileHeader*>(file_.data())),
      ring_(&header_->ring, reinterpret_cast<Record*>(file_.data() + kRingFileHeaderBytes),
            capacity),
      tags_(&header_->tags, &file_, tags_offset(capacity)) {}

std::unique_ptr<RingFile> RingFile::create(const std::string& path, std::uint64_t capacity) {
  if (!std::has_single_bit(capacity) || capacity < 16 || capacity > kLargestCapacity) {
    throw std::invalid_argument("the ring's capacity must be a power of two, 16 or more, not " +
                                std::to_string(capacity));
  }
  const std::size_t size_bytes = tags_offset(capacity);
  MappedFile file = MappedFile::create(path, size_bytes, size_bytes + kTagAddressSpaceBytes);
  // A new file is all zero bytes, which is how every atomic in it begins.
  auto* header = reinterpret_cast<RingFileHeader*>(file.data());
  std::memcpy(header->magic, kMagic, sizeof(kMagic));
  header->record_version = kRecordVersion;
  header->owner_pid = current_pid();
  header->capacity = capacity;
  return std::unique_ptr<RingFile>(new RingFile(std::move(file), capacity));
}

std::unique_ptr<RingFile> RingFile::open(const std::string& path) {
  std::uint64_t capacity;
  {
    const MappedFile head = MappedFile::open(path, kRingFileHeaderBytes);
    const auto* header = reinterpret_cast<const RingFileHeader*>(head.data());
    if (head.size_bytes() < kRingFileHeaderBytes ||
        std::memcmp(header->magic, kMagic, sizeof(kMagic)) != 0) {
      throw std::runtime_error(path + " is not the ring of a tracelet run");
    }
    if (header->record_version != kRecordVersion) {
      throw std::runtime_error(path +
                               " was written by another version of tracelet (record version " +
                               std::to_string(header->record_version) + ", this one reads " +
                               std::to_string(kRecordVersion) + ")");
    }
    capacity = header->capacity;
    // Read before the size: another process may be adding strings.
    const std::uint64_t tag_bytes = header->tags.used_bytes.load(std::memory_order_acquire);
    if (!std::has_single_bit(capacity) || capacity > kLargestCapacity ||
        tag_bytes > kTagAddressSpaceBytes ||
        head.size_bytes() < tags_offset(capacity) + tag_bytes) {
      throw std::runtime_error(path + " is shorter than its header says");
    }
  }
  return std::unique_ptr<RingFile>(new RingFile(
      MappedFile::open(path, tags_offset(capacity) + kTagAddressSpaceBytes), capacity));
}

}  // namespace tracelet
