// A bounded queue of records in shared memory: many producers, one consumer.
//
// After D. Vyukov's bounded queue: a producer claims a position by moving `head`, writes the slot,
// and publishes it by the slot's own sequence. With one consumer the way back is simpler than
// there: a position is free again once `tail` has passed it, so the consumer writes one word a
// batch and never dirties the slots. Positions only grow; position p lies in slot p mod capacity,
// and its slot holds sequence p + 1 once committed. A sequence left from an earlier lap is smaller
// and never mistaken for it.
//
// A process may be killed between claiming a slot and committing it. Who claimed a slot is
// therefore known at any instant: `head` holds the pid of the last claimant beside the position, in
// one word, and a producer that finds another process' pid there leaves it in that claimant's slot
// (a mark) before it claims the next one. So a slot without a mark was claimed by the process that
// claimed the slot after it, and the last one by the process in `head`. The consumer skips the slot
// of a dead process, and never that of a live one, however long it is stopped or swapped out. It
// costs the one process that usually logs a compare of two registers.
//
// The state and the slots lie in a file mapped by every process that logs, so what was pushed
// outlives the process (RingFile).
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "tracelet/platform.h"
#include "tracelet/record.h"

namespace tracelet {

struct RingState {
  // Next position to claim, in the low kPositionBits, and the pid of the process that claimed the
  // one before; kClosed is added to the position by the consumer when it ends. Written by producers
  // (compare-exchange, release: publishes the mark on the slot before, and those of earlier claims
  // too, since each is a read-modify-write of this word), read by all; pairs with the acquire in
  // Ring::claimant.
  alignas(64) std::atomic<std::uint64_t> head;
  // The tail as some producer last saw it. Written (release) and read (acquire) by producers. A
  // producer that acquires it inherits that producer's acquire of `tail`. A stale value is safe:
  // the tail only grows, so the ring looks fuller than it is.
  std::atomic<std::uint64_t> tail_seen;
  // First position not yet given back. Written by the consumer (release, after its last read of
  // the slots before it), read by producers (acquire, before they overwrite those slots).
  alignas(64) std::atomic<std::uint64_t> tail;
  // Slots skipped so far. Written by the consumer, read by any; publishes no other bytes.
  std::atomic<std::uint64_t> skipped;
  // Wakes the consumer. `wake_pending` keeps the producers from more than one system call a drain;
  // it is set by producers (exchange) and cleared by the consumer. `wake_word` is what the consumer
  // sleeps on. They publish no other bytes: the consumer looks at the slots themselves.
  alignas(64) std::atomic<std::uint32_t> wake_word;
  std::atomic<std::uint32_t> wake_pending;
  // Wakes producers that found the ring full. `room_word` is bumped by the consumer when it gave
  // back room and `room_waiters` is not zero.
  std::atomic<std::uint32_t> room_word;
  std::atomic<std::uint32_t> room_waiters;
};

// `head`, one word:
//
//   63                42  41      40                                              0
//  +--------------------+--------+-------------------------------------------------+
//  | pid of the last    | kClosed| position to be claimed next                      |
//  | claimant           |        |                                                  |
//  +--------------------+--------+-------------------------------------------------+
//
// What the slot of position p has in `sequence`:
//
//   free        an older lap's: p + 1 - capacity, or 0 in the first lap
//     |  a producer moves head from p to p + 1
//     v
//   claimed     the same, until a producer of another process claims p + 1 and finds it so:
//     |         then a mark with the claimant's pid (kMark, ring.cpp)
//     |
//     +--  it stores the other 56 bytes, then p + 1 (release)  -->  committed
//     |
//     +--  its process is dead: the consumer stores kind 0, p + 1  -->  skipped, read as committed
//
//   given back  p + 1 as before, and tail > p (release): free for position p + capacity
//
// Linux' pids have 22 bits. At the last position, 2.1e12, the ring takes nothing more and says that
// it is full: that is the 25th day at 1,000,000 points a second. A ring that is closed is one that
// has passed it; a ring's length is kept below, where producers may claim without a look.
inline constexpr int kPositionBits = 42;
inline constexpr std::uint64_t kPositionMask = (std::uint64_t{1} << kPositionBits) - 1;
inline constexpr std::uint32_t kPidMask = (1U << (64 - kPositionBits)) - 1;
inline constexpr std::uint64_t kClosed = std::uint64_t{1} << (kPositionBits - 1);
inline constexpr std::uint64_t kLargestCapacity = std::uint64_t{1} << 36;
inline constexpr std::uint64_t kLastPosition = kClosed - kLargestCapacity;

class Ring {
 public:
  // `capacity` is a power of two. The memory is the caller's and outlives the ring.
  Ring(RingState* state, Record* slots, std::uint64_t capacity)
      : state_(state), slots_(slots), mask_(capacity - 1), wake_fill_(capacity / 2) {}

  std::uint64_t capacity() const { return mask_ + 1; }

  // Producers, any thread of any process that shares the memory. Never blocks or allocates. False
  // when the ring is full; the consumer has then been woken.
  bool try_push(const Point& point) {
    const std::uint32_t pid = current_pid();
    std::uint64_t position;
    if (!try_claim(pid, &position)) [[unlikely]]
      return false;
    commit(pid, position, point, 0, 0);
    return true;
  }

  // The two halves of try_push, for a point whose payload's place is to be claimed with its slot.
  // A position that was claimed must be committed. `pid` is current_pid().
  bool try_claim(std::uint32_t pid, std::uint64_t* claimed) {
    const std::uint64_t own = std::uint64_t{pid} << kPositionBits;
    std::uint64_t last = state_->head.load(std::memory_order_relaxed);
    std::uint64_t position;
    do {
      position = last & kPositionMask;
      // Signed: `position` may be stale and lie behind the tail; the compare-exchange then fails.
      const auto fill =
          static_cast<std::int64_t>(position - state_->tail_seen.load(std::memory_order_acquire));
      if (fill >= static_cast<std::int64_t>(wake_fill_)) [[unlikely]] {
        if (!has_room_after_look(position)) return false;
      }
      if (last - position != own) [[unlikely]]
        mark_last_claim(last);
    } while (!state_->head.compare_exchange_weak(
        last, own | (position + 1), std::memory_order_release, std::memory_order_relaxed));
    *claimed = position;
    return true;
  }
  void commit(std::uint32_t pid, std::uint64_t position, const Point& point,
              std::uint64_t payload_offset, std::uint64_t payload_size) {
    Record& slot = slots_[position & mask_];
    slot.value = point.value;
    slot.step = point.step;
    slot.wall_time_s = point.wall_time_s;
    slot.tag_id = point.tag_id;
    slot.writer_id = point.writer_id;
    slot.kind = point.kind;
    slot.flags = point.flags;
    slot.producer_pid = pid;
    slot.payload_offset = payload_offset;
    slot.payload_size = payload_size;
    // Pairs with the acquire in committed(): publishes the slot's other 56 bytes, and its payload.
    std::atomic_ref<std::uint64_t>(slot.sequence).store(position + 1, std::memory_order_release);
  }

  // Producers: sleeps until there may be room or the timeout is over. True when there was room.
  bool wait_for_room(std::chrono::nanoseconds timeout) {
    return wait_for_room(timeout, [this] { return head() - state_->tail.load() < capacity(); });
  }
  // The same for room of another kind that the consumer makes before it calls give_back.
  template <typename HasRoom>
  bool wait_for_room(std::chrono::nanoseconds timeout, HasRoom has_room) {
    // Counted before the look at the room, and give_back looks at the count after it made room (all
    // sequentially consistent): one of the two sees the other.
    state_->room_waiters.fetch_add(1);
    const std::uint32_t word = state_->room_word.load();
    if (!has_room()) {
      wake();
      wait_on(state_->room_word, word, timeout);
    }
    state_->room_waiters.fetch_sub(1);
    return has_room();
  }

  // The consumer, one thread. The committed records from the tail on, at most `limit`, as far as
  // they lie in one piece. They stay as they are until give_back.
  RecordSpan committed(std::size_t limit) const;
  // The consumer: frees the oldest `count` records for the producers.
  void give_back(std::size_t count);
  // The consumer: when the slot at the tail is claimed and not committed, and its claimant is dead,
  // commits a record of kind kSkipped in its place. False when it is committed, or may yet be; a
  // pid that another process has got since then counts as alive until that one ends, too.
  bool skip_dead(const std::function<bool(std::uint32_t pid)>& is_alive = process_is_alive);
  // The consumer: whether a record from the tail on has a payload, or may have one once committed.
  bool may_hold_payloads() const;
  // How many were skipped so far, in all processes that consumed this ring. Any thread.
  std::uint64_t skipped() const { return state_->skipped.load(std::memory_order_relaxed); }
  // Takes no more points, for good: each is either in the ring now, or try_push said that it is
  // not. Anyone; wakes producers that wait for room.
  void close();
  bool is_closed() const { return (state_->head.load(std::memory_order_acquire) & kClosed) != 0; }
  // The consumer: sleeps until the ring is half full, wake() or the timeout.
  void wait_for_records(std::chrono::nanoseconds timeout);
  // Anyone: ends wait_for_records.
  void wake();

  // Positions claimed so far, and positions given back. Any thread; a moment old.
  std::uint64_t head() const {
    return state_->head.load(std::memory_order_acquire) & (kClosed - 1);
  }
  std::uint64_t tail() const { return state_->tail.load(std::memory_order_acquire); }

 private:
  bool has_room_after_look(std::uint64_t position);
  void mark_last_claim(std::uint64_t head);
  std::uint32_t claimant(std::uint64_t position) const;
  std::uint64_t load_sequence(std::uint64_t position) const {
    return std::atomic_ref<std::uint64_t>(slots_[position & mask_].sequence)
        .load(std::memory_order_acquire);
  }

  RingState* state_;
  Record* slots_;
  std::uint64_t mask_;
  std::uint64_t wake_fill_;
};

}  // namespace tracelet
