#include "tracelet/payload_arena.h"

#include <cstring>

#include "tracelet/process_lock.h"

namespace tracelet {
namespace {

std::size_t stored(std::uint64_t payload_bytes) {
  return static_cast<std::size_t>((payload_bytes + 7) / 8 * 8);
}

}  // namespace

std::uint64_t PayloadArena::next_place(std::size_t stored_bytes) const {
  const std::uint64_t head = state_->head.load(std::memory_order_relaxed);
  const std::uint64_t left = size_bytes_ - head % size_bytes_;
  return stored_bytes <= left ? head : head + left;  // a payload lies in one piece
}

bool PayloadArena::try_push(Ring& ring, const Point& point, std::span<const std::byte> payload) {
  const std::size_t stored_bytes = stored(payload.size());
  const std::uint32_t pid = current_pid();
  std::uint64_t place;
  std::uint64_t position;
  {
    const ProcessLock lock(state_->lock_pid);
    place = next_place(stored_bytes);
    if (!has_room(place, stored_bytes)) {
      ring.wake();
      return false;
    }
    if (!ring.try_claim(pid, &position)) return false;
    state_->head.store(place + stored_bytes, std::memory_order_relaxed);
  }
  const std::uint64_t offset = place % size_bytes_;
  std::memcpy(data_ + offset, payload.data(), payload.size());
  ring.commit(pid, position, point, offset, payload.size());
  return true;
}

bool PayloadArena::wait_for_room(Ring& ring, std::size_t payload_bytes,
                                 std::chrono::nanoseconds timeout) {
  const std::size_t stored_bytes = stored(payload_bytes);
  return ring.wait_for_room(timeout, [&] {
    return has_room(next_place(stored_bytes), stored_bytes) &&
           ring.head() - ring.tail() < ring.capacity();
  });
}

void PayloadArena::give_back(RecordSpan records) {
  const std::uint64_t tail = state_->tail.load(std::memory_order_relaxed);  // its only writer
  if (state_->head.load(std::memory_order_relaxed) == tail) return;  // spares scalars the search
  for (std::size_t i = records.size; i-- > 0;) {
    const Record& record = records.data[i];
    if (record.payload_size == 0) continue;
    // The distance to a place within one lap.
    const std::uint64_t ahead =
        (record.payload_offset + size_bytes_ - tail % size_bytes_) % size_bytes_;
    state_->tail.store(tail + ahead + stored(record.payload_size));
    return;
  }
}

void PayloadArena::reclaim(const Ring& ring) {
  const std::uint64_t skips = ring.skipped();
  if (skips == reclaimed_skips_) [[likely]]
    return;
  const ProcessLock lock(state_->lock_pid);  // no payload's slot is claimed meanwhile
  if (ring.may_hold_payloads()) return;
  state_->tail.store(state_->head.load(std::memory_order_relaxed));
  reclaimed_skips_ = skips;
}

}  // namespace tracelet
