#include "tracelet/ring.h"

#include <algorithm>

namespace tracelet {
namespace {

// A mark stands in a slot's sequence until the slot is committed: this bit, the claimant's pid, and
// the position's low bits, so that it is never taken for a mark of another lap.
constexpr std::uint64_t kMark = std::uint64_t{1} << 63;
constexpr int kMarkPositionBits = 41;
constexpr std::uint64_t kMarkPositionMask = (std::uint64_t{1} << kMarkPositionBits) - 1;

std::uint64_t mark_of(std::uint32_t pid, std::uint64_t position) {
  return kMark | std::uint64_t{pid} << kMarkPositionBits | (position & kMarkPositionMask);
}
bool is_mark_of(std::uint64_t sequence, std::uint64_t position) {
  return (sequence & kMark) != 0 &&
         (sequence & kMarkPositionMask) == (position & kMarkPositionMask);
}
std::uint32_t pid_in_mark(std::uint64_t sequence) {
  return static_cast<std::uint32_t>((sequence & ~kMark) >> kMarkPositionBits);
}

}  // namespace

bool Ring::has_room_after_look(std::uint64_t position) {
  // All producers come here sooner or later, since `tail_seen` stays where it is.
  if (position >= kLastPosition) return false;
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
    // Pairs with the release at the end of try_push.
    if (load_sequence(tail + count) != tail + count + 1) break;
    ++count;
  }
  return {first, count};
}

// Leaves the last claimant's pid in its slot, unless it has committed meanwhile: it stores without
// a look, so whichever comes first, a commit is never lost. The value that is expected is that of
// one lap of this one slot, so a producer that slept for laps between its look at `head` and here
// changes nothing.
void Ring::mark_last_claim(std::uint64_t head) {
  const std::uint64_t next = head & kPositionMask;
  if (next == 0) return;
  const std::uint64_t position = next - 1;
  std::uint64_t uncommitted = position >= capacity() ? position + 1 - capacity() : 0;
  const auto pid = static_cast<std::uint32_t>(head >> kPositionBits);
  // Relaxed: the release on `head` that follows publishes it.
  std::atomic_ref<std::uint64_t>(slots_[position & mask_].sequence)
      .compare_exchange_strong(uncommitted, mark_of(pid, position), std::memory_order_relaxed);
}

// The process that claimed a position, which is claimed and not committed.
std::uint32_t Ring::claimant(std::uint64_t position) const {
  // Pairs with the release in try_claim: all marks that were left before this state of `head` are
  // seen from here on.
  const std::uint64_t head = state_->head.load(std::memory_order_acquire);
  const std::uint64_t end = head & (kClosed - 1);
  for (std::uint64_t later = position; later < end; ++later) {
    const std::uint64_t sequence = load_sequence(later);
    if (is_mark_of(sequence, later)) return pid_in_mark(sequence);
    if (sequence == later + 1) return slots_[later & mask_].producer_pid;
  }
  return static_cast<std::uint32_t>(head >> kPositionBits);
}

bool Ring::skip_dead(const std::function<bool(std::uint32_t pid)>& is_alive) {
  const std::uint64_t tail = state_->tail.load(std::memory_order_relaxed);  // its only writer
  if (tail >= head() || load_sequence(tail) == tail + 1) return false;
  const std::uint32_t pid = claimant(tail);
  if (is_alive(pid)) return false;
  // Only now: it may have committed, and died afterwards. From here on nobody else writes the slot
  // but a producer that still marks it, which the store below ends.
  if (load_sequence(tail) == tail + 1) return false;
  commit(pid, tail, Point{.kind = RecordKind::kSkipped}, 0, 0);
  state_->skipped.store(skipped() + 1, std::memory_order_relaxed);
  return true;
}

bool Ring::may_hold_payloads() const {
  const std::uint64_t end = head();
  for (std::uint64_t position = tail(); position < end; ++position) {
    if (load_sequence(position) != position + 1) return true;
    if (slots_[position & mask_].payload_size != 0) return true;
  }
  return false;
}

void Ring::give_back(std::size_t count) {
  const std::uint64_t tail = state_->tail.load(std::memory_order_relaxed);  // its only writer
  // Release: the reads of these slots come before a producer's next write to them.
  state_->tail.store(tail + count);
  // A read that is a write, like wait_for_room's: of the two the later one sees the earlier, and
  // with it the tail, or the count. A store and a load of other words may pass each other where
  // seq_cst is not kept to (qemu's arm64): one sleep in some 100,000 was not woken.
  if (state_->room_waiters.fetch_add(0) != 0) {
    state_->room_word.fetch_add(1);
    wake_all(state_->room_word);
  }
}

void Ring::close() {
  // A producer's compare-exchange comes before this, or fails and finds the position out of range.
  state_->head.fetch_or(kClosed, std::memory_order_acq_rel);
  state_->room_word.fetch_add(1);
  wake_all(state_->room_word);
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
