// Bytes that records refer to: a ring of bytes in the ring's file, filled by producers in the order
// of their records and freed by the consumer with them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "tracelet/record.h"
#include "tracelet/ring.h"

namespace tracelet {

struct PayloadArenaState {
  // Bytes claimed since the start, and bytes freed. `head` is written under the lock, by producers.
  // `tail` is written by the consumer, after its last read of what it frees, and read by producers
  // before they write there: sequentially consistent, for Ring::wait_for_room.
  alignas(64) std::atomic<std::uint64_t> head;
  std::atomic<std::uint64_t> tail;
  // A ProcessLock, held to claim a place and a slot at once, so that payloads lie in the order of
  // their records. A holder that died has claimed a place with a slot, a slot alone, or nothing.
  std::atomic<std::uint32_t> lock_pid;
};

class PayloadArena {
 public:
  // The memory is the caller's and outlives the arena. `size_bytes` is a multiple of 8.
  PayloadArena(PayloadArenaState* state, std::byte* data, std::size_t size_bytes)
      : state_(state), data_(data), size_bytes_(size_bytes) {}

  std::size_t size_bytes() const { return size_bytes_; }
  PayloadSpan span() const { return {data_, size_bytes_}; }

  // Producers: pushes the point with its payload into the ring; `payload` is not empty and at most
  // size_bytes(). False when there is no room in the ring or here; the consumer has then been
  // woken.
  bool try_push(Ring& ring, const Point& point, std::span<const std::byte> payload);
  // Producers: sleeps until there may be room for such a payload, or the timeout is over.
  bool wait_for_room(Ring& ring, std::size_t payload_bytes, std::chrono::nanoseconds timeout);

  // The consumer: frees the payloads of records that are about to be given back to the ring.
  void give_back(RecordSpan records);
  // The consumer, when records were given back to the ring: frees the place of a payload whose
  // producer died, once no other payload is on its way whose end would free it too. Without it a
  // place so large that no other payload finds room would be lost for good.
  void reclaim(const Ring& ring);

 private:
  // Where a payload claimed now would begin, in bytes since the start.
  std::uint64_t next_place(std::size_t stored_bytes) const;
  // In an empty arena there is room for anything, wherever its head is: what is skipped to the end
  // holds nothing that would be written over.
  bool has_room(std::uint64_t place, std::size_t stored_bytes) const {
    const std::uint64_t tail = state_->tail.load();
    return place + stored_bytes - tail <= size_bytes_ ||
           state_->head.load(std::memory_order_relaxed) == tail;
  }

  PayloadArenaState* state_;
  std::byte* data_;
  std::size_t size_bytes_;
  std::uint64_t reclaimed_skips_ = 0;  // the ring's skips that reclaim() has dealt with
};

}  // namespace tracelet
