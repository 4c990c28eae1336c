// The ring in one process.
#include "tracelet/ring.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "ring_support.h"
#include "test_support.h"

namespace tracelet {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;
using testing::is_whole;
using testing::push;
using testing::RingInMemory;
using testing::seconds_since;

TEST_SUITE("ring") {
  TEST_CASE("a record comes out as it was pushed") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    CHECK(ring.capacity() == 16);
    CHECK(ring.committed(100).size == 0);
    REQUIRE(ring.try_push({0.5, -7, 1e9, 3, 4, RecordKind::kScalar, kNewStyle}));
    REQUIRE(ring.try_push({1.5, 8, 2e9, 5, 6, RecordKind::kScalar, kNoStep}));
    const RecordSpan records = ring.committed(100);
    REQUIRE(records.size == 2);
    const Record& first = records.data[0];
    CHECK(first.sequence == 1);
    CHECK(first.value == 0.5);
    CHECK(first.step == -7);
    CHECK(first.wall_time_s == 1e9);
    CHECK(first.tag_id == 3);
    CHECK(first.writer_id == 4);
    CHECK(first.kind == RecordKind::kScalar);
    CHECK(first.flags == kNewStyle);
    CHECK(first.producer_pid == static_cast<std::uint32_t>(getpid()));
    CHECK(records.data[1].sequence == 2);
    CHECK(records.data[1].flags == kNoStep);
    CHECK(ring.committed(1).size == 1);
    CHECK(ring.committed(0).size == 0);
    CHECK(ring.head() == 2);
    CHECK(ring.tail() == 0);
  }

  TEST_CASE("a full ring refuses, changes nothing, and takes again what was given back") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    for (std::int64_t step = 0; step < 16; ++step) REQUIRE(push(ring, 1, step));
    for (int lap = 0; lap < 3; ++lap) {
      CHECK_FALSE(push(ring, 1, 999));
      CHECK_FALSE(push(ring, 1, 999));
      CHECK(ring.head() == ring.tail() + 16);
      ring.give_back(1);
      CHECK(push(ring, 1, 16 + lap));
    }
    CHECK_FALSE(push(ring, 1, 999));
    CHECK(ring.committed(100).size == 13);
    CHECK(ring.committed(100).data[0].step == 3);
    ring.give_back(13);
    const RecordSpan rest = ring.committed(100);
    REQUIRE(rest.size == 3);
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(rest.data[i].step == 16 + static_cast<std::int64_t>(i));
    }
    ring.give_back(3);
    CHECK(ring.committed(100).size == 0);
    CHECK(ring.head() == ring.tail());
  }

  TEST_CASE("committed() ends at the first slot that is claimed and not written yet") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    // In the second lap the claimed slot holds a sequence of the first, and in the first none.
    for (std::uint64_t start : {0U, 16U}) {
      for (std::int64_t step = 0; step < 3; ++step) REQUIRE(push(ring, 1, step));
      memory.state.head.fetch_add(1);  // another producer has claimed this one
      for (std::int64_t step = 4; step < 6; ++step) REQUIRE(push(ring, 1, step));
      CHECK(ring.committed(100).size == 3);
      ring.give_back(3);
      CHECK(ring.committed(100).size == 0);
      std::atomic_ref<std::uint64_t>(memory.slots[3].sequence).store(start + 4);
      CHECK(ring.committed(100).size == 3);
      ring.give_back(3);
      for (std::int64_t step = 6; step < 16; ++step) REQUIRE(push(ring, 1, step));
      CHECK(ring.committed(100).size == 10);
      ring.give_back(10);
    }
  }

  TEST_CASE("any order of pushes, looks and returns: as a queue") {
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    std::deque<std::int64_t> queue;
    std::int64_t next_step = 0;
    std::uint64_t given_back = 0;
    for (int tries = 0; tries < testing::repeated(200'000); ++tries) {
      if (random() % 3 != 0) {
        const bool has_room = queue.size() < 16;
        REQUIRE(push(ring, 1, next_step) == has_room);
        if (has_room) queue.push_back(next_step++);
        continue;
      }
      const std::size_t limit = random() % 20;
      const RecordSpan records = ring.committed(limit);
      // As many as there are, up to the limit and to the physical end.
      REQUIRE(records.size == std::min({limit, queue.size(), 16 - given_back % 16}));
      REQUIRE(records.data == memory.slots.data() + given_back % 16);
      for (std::size_t i = 0; i < records.size; ++i) {
        REQUIRE(records.data[i].step == queue[i]);
        REQUIRE(records.data[i].sequence == given_back + i + 1);
        REQUIRE(is_whole(records.data[i]));
      }
      const std::size_t count = records.size == 0 ? 0 : random() % (records.size + 1);
      ring.give_back(count);
      given_back += count;
      queue.erase(queue.begin(), queue.begin() + static_cast<std::ptrdiff_t>(count));
      REQUIRE(ring.tail() == given_back);
      REQUIRE(ring.head() == given_back + queue.size());
    }
  }

  TEST_CASE("eight threads push, one drains: nothing is lost, doubled, torn or out of order") {
    constexpr std::uint32_t kThreads = 8;
    constexpr std::int64_t kEach = testing::repeated(200'000);
    for (const std::uint64_t capacity : {64U, 4096U}) {
      RingInMemory memory(capacity);
      Ring& ring = memory.ring;
      std::atomic<bool> is_over = false;
      std::vector<std::thread> producers;
      for (std::uint32_t tag_id = 0; tag_id < kThreads; ++tag_id) {
        producers.emplace_back([&, tag_id] {
          for (std::int64_t step = 0; step < kEach && !is_over; ++step) {
            while (!push(ring, tag_id, step) && !is_over) ring.wait_for_room(50ms);
          }
        });
      }
      std::vector<std::int64_t> next_step(kThreads, 0);
      std::uint64_t drained = 0;
      std::uint64_t wrong = 0;
      const auto start = steady_clock::now();
      while (drained < kThreads * kEach && seconds_since(start) < 40) {
        const RecordSpan records = ring.committed(1000);
        for (const Record& record : records) {
          ++drained;
          const bool is_next = record.tag_id < kThreads &&
                               record.step == next_step[record.tag_id]++ && is_whole(record) &&
                               record.sequence == drained;
          if (!is_next) ++wrong;
        }
        ring.give_back(records.size);
        if (records.size == 0) ring.wait_for_records(1ms);
      }
      is_over = true;
      for (std::thread& producer : producers) producer.join();
      CHECK(wrong == 0);
      CHECK(drained == kThreads * kEach);
      CHECK(ring.committed(1).size == 0);
      CHECK(ring.head() == drained);
    }
  }

  // A producer that fills a slot again may know only from another one that the consumer has read
  // it. The threads take turns by relaxed flags, so that ThreadSanitizer sees the ring's own order.
  TEST_CASE("the room that one producer saw is another one's as well") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    for (std::int64_t step = 0; step < 16; ++step) REQUIRE(push(ring, 1, step));
    std::atomic<int> turn = 0;
    const auto wait_for_turn = [&turn](int mine) {
      while (turn.load(std::memory_order_relaxed) != mine) std::this_thread::yield();
    };
    std::size_t whole = 0;
    bool looked_pushed = false;
    std::size_t pushed = 0;
    std::thread consumer([&] {
      for (const Record& record : ring.committed(16)) whole += is_whole(record) ? 1 : 0;
      ring.give_back(16);
      turn.store(1, std::memory_order_relaxed);
    });
    std::thread looks_at_tail([&] {
      wait_for_turn(1);
      looked_pushed = push(ring, 2, 0);
      turn.store(2, std::memory_order_relaxed);
    });
    std::thread believes([&] {
      wait_for_turn(2);
      for (std::int64_t step = 0; step < 5; ++step) pushed += push(ring, 3, step) ? 1 : 0;
    });
    for (std::thread* each : {&consumer, &looks_at_tail, &believes}) each->join();
    CHECK(whole == 16);
    CHECK(looked_pushed);
    CHECK(pushed == 5);
    CHECK(memory.state.tail_seen.load() == 16);
    CHECK(ring.committed(16).size == 6);
  }
}

}  // namespace
}  // namespace tracelet
