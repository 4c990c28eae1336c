#include "tracelet/ring.h"

#include <algorithm>

namespace tracelet {

bool Ring::has_room_after_look(std::uint64_t position) {
  // Pairs with the release in give_back.
  const std::uint64_t tail = state_->tail.load(std::memory_order_acquire);
  state_->tail_seen.store(tail, std::memory_order_release);
  const auto fill = static_cast<std::int64_t>(position - tail);
  if (fill < static_cast<std::int64_t>(wake_fill_)) return true;
  wake();
  return fill < static_cast<std::int64_t>(capacity());
}

RecordSpan Ring::committed(std::size_t limit) const {
  const std::uint64_t tail = state_->tail.load(std::memory_order_relaxed);  // its only writer
  const std::uint64_t first_slot = tail & mask_;
  const Record* first = slots_ + first_slot;
  const std::size_t in_one_piece = static_cast<std::size_t>(capacity() - first_slot);
  limit = std::min(limit, in_one_piece);
  std::size_t count = 0;
  while (count < limit) {
    auto& sequence = const_cast<std::uint64_t&>(first[count].sequence);
    // Pairs with the release at the end of try_push.
    if (std::atomic_ref<std::uint64_t>(sequence).load(std::memory_order_acquire) !=
        tail + count + 1) {
      break;
    }
    ++count;
  }
  return {first, count};
}

void Ring::give_back(std::size_t count) {
  const std::uint64_t tail = state_->tail.load(std::memory_order_relaxed);  // its only writer
  // Release: the reads of these slots come before a producer's next write to them. Sequentially
  // consistent for wait_for_room.
  state_->tail.store(tail + count);
  if (state_->room_waiters.load() != 0) {
    state_->room_word.fetch_add(1);
    wake_all(state_->room_word);
  }
}

void Ring::wait_for_records(std::chrono::nanoseconds timeout) {
  const std::uint32_t word = state_->wake_word.load();
  if (state_->wake_pending.load() == 0) wait_on(state_->wake_word, word, timeout);
  state_->wake_pending.store(0);
}

void Ring::wake() {
  if (state_->wake_pending.load(std::memory_order_relaxed) != 0) return;
  if (state_->wake_pending.exchange(1) != 0) return;
  state_->wake_word.fetch_add(1);
  wake_all(state_->wake_word);
}

}  // namespace tracelet
