#include "tracelet/tag_table.h"

#include <cstring>

#include "tracelet/process_lock.h"

namespace tracelet {
namespace {

constexpr std::size_t kGrowBytes = std::size_t{1} << 20;
constexpr std::size_t kLengthBytes = sizeof(std::uint32_t);

std::size_t stored_bytes(std::size_t text_bytes) { return kLengthBytes + (text_bytes + 3) / 4 * 4; }

}  // namespace

TagTable::TagTable(TagTableState* state, MappedFile* file, std::size_t offset_bytes)
    : state_(state), file_(file), offset_bytes_(offset_bytes), index_(new Index) {}

TagTable::~TagTable() { delete index_; }

std::uint32_t TagTable::intern(std::string_view text) {
  const ProcessLock lock(state_->lock_pid);
  read_new_strings();
  if (const auto found = index_->ids.find(text); found != index_->ids.end()) return found->second;

  if (index_->texts.size() + 1 >= kMostNames) return 0;
  const std::size_t used_bytes = state_->used_bytes.load(std::memory_order_relaxed);
  if (index_->read_bytes != used_bytes) return 0;  // a damaged file: ids can't be counted on
  const std::size_t end_bytes = offset_bytes_ + used_bytes + stored_bytes(text.size());
  if (end_bytes > file_->size_bytes()) {
    const std::size_t rounded = (end_bytes + kGrowBytes - 1) / kGrowBytes * kGrowBytes;
    if (!file_->grow(rounded)) return 0;
  }
  std::byte* place = file_->data() + offset_bytes_ + used_bytes;
  const auto length = static_cast<std::uint32_t>(text.size());
  std::memcpy(place, &length, kLengthBytes);
  std::memcpy(place + kLengthBytes, text.data(), text.size());
  // Pairs with the acquire in read_new_strings, and with a later reader of the file.
  state_->used_bytes.store(used_bytes + stored_bytes(text.size()), std::memory_order_release);
  read_new_strings();
  return static_cast<std::uint32_t>(index_->texts.size());
}

std::string_view TagTable::text(std::uint32_t id) {
  const ProcessLock lock(state_->lock_pid);
  if (id > index_->texts.size()) read_new_strings();
  if (id == 0 || id > index_->texts.size()) return {};
  return index_->texts[id - 1];
}

std::uint32_t TagTable::size() {
  const ProcessLock lock(state_->lock_pid);
  read_new_strings();
  return static_cast<std::uint32_t>(index_->texts.size());
}

void TagTable::after_fork_in_child() {
  // Leaked: it may be half changed, so its destructor is not safe to run.
  index_ = new Index;
}

void TagTable::read_new_strings() {
  const std::uint64_t used_bytes = state_->used_bytes.load(std::memory_order_acquire);
  while (index_->read_bytes < used_bytes) {
    const std::byte* place = file_->data() + offset_bytes_ + index_->read_bytes;
    std::uint32_t length;
    std::memcpy(&length, place, kLengthBytes);
    // A damaged file: what follows can't be told apart.
    if (stored_bytes(length) > used_bytes - index_->read_bytes) return;
    const std::string_view text(reinterpret_cast<const char*>(place + kLengthBytes), length);
    index_->texts.push_back(text);
    index_->ids.emplace(text, static_cast<std::uint32_t>(index_->texts.size()));
    index_->read_bytes += stored_bytes(length);
  }
}

}  // namespace tracelet
