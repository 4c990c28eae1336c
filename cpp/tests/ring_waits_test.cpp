// Sleeping for room and for records, and the wake-ups.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "ring_support.h"
#include "test_support.h"
#include "tracelet/ring.h"

namespace tracelet {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;
using testing::kVeryLong;
using testing::push;
using testing::RingInMemory;
using testing::seconds_since;

// A wake-up that is lost costs a whole timeout, kVeryLong; one that arrives, microseconds.
TEST_SUITE("ring_waits") {
  TEST_CASE("wait_for_room: at once when there is room, and else until the timeout") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    auto start = steady_clock::now();
    CHECK(ring.wait_for_room(kVeryLong));
    for (std::int64_t step = 0; step < 15; ++step) REQUIRE(push(ring, 1, step));
    CHECK(ring.wait_for_room(kVeryLong));
    CHECK(seconds_since(start) < kVeryLong.count());
    REQUIRE(push(ring, 1, 15));
    start = steady_clock::now();
    CHECK_FALSE(ring.wait_for_room(30ms));
    CHECK(seconds_since(start) > 0.029);
    CHECK_FALSE(ring.wait_for_room(0ms));
    CHECK(seconds_since(start) < kVeryLong.count());
    CHECK(memory.state.room_waiters.load() == 0);
  }

  TEST_CASE("wait_for_room ends when room is given back, for every waiter") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    for (std::int64_t step = 0; step < 16; ++step) REQUIRE(push(ring, 1, step));
    std::atomic<int> had_room = 0;
    std::vector<std::thread> waiters;
    for (int i = 0; i < 3; ++i) {
      waiters.emplace_back([&] { had_room += ring.wait_for_room(kVeryLong) ? 1 : 0; });
    }
    while (memory.state.room_waiters < 3) std::this_thread::yield();
    std::this_thread::sleep_for(20ms);  // now they sleep
    const auto start = steady_clock::now();
    ring.give_back(1);
    for (std::thread& waiter : waiters) waiter.join();
    CHECK(seconds_since(start) < kVeryLong.count() / 2);
    CHECK(had_room.load() == 3);
  }

  TEST_CASE("close: wakes who waits, and each push is either in the ring or refused") {
    for (int round = 0; round < 50; ++round) {
      RingInMemory memory(64);
      Ring& ring = memory.ring;
      std::atomic<std::uint64_t> accepted = 0;
      std::vector<std::thread> producers;
      for (std::uint32_t tag = 1; tag <= 3; ++tag) {
        producers.emplace_back([&, tag] {
          for (std::int64_t step = 0;; ++step) {
            if (push(ring, tag, step)) {
              ++accepted;
            } else if (ring.is_closed()) {
              return;
            } else {
              ring.wait_for_room(kVeryLong);
            }
          }
        });
      }
      std::uint64_t drained = 0;
      const auto drain = [&] {
        const RecordSpan records = ring.committed(64);
        drained += records.size;
        ring.give_back(records.size);
      };
      while (drained < 1'000) drain();
      if (round % 2 == 0) {
        while (ring.head() - ring.tail() < 64) std::this_thread::yield();  // now they wait
      }
      const auto start = steady_clock::now();
      ring.close();
      while (ring.tail() < ring.head()) drain();
      for (std::thread& producer : producers) producer.join();
      CHECK(seconds_since(start) < kVeryLong.count() / 2);
      CHECK(ring.tail() == ring.head());
      CHECK(drained == accepted.load());
      CHECK(ring.head() == drained);
      CHECK_FALSE(push(ring, 1, 0));
      CHECK_FALSE(ring.skip_dead());
    }
  }

  // The producer goes to sleep and the consumer gives back at the same moment, again and again.
  TEST_CASE("no wake-up for room is lost") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    constexpr std::int64_t kCount = testing::repeated(100'000);
    std::atomic<bool> was_lost = false;
    std::thread producer([&] {
      for (std::int64_t step = 0; step < kCount; ++step) {
        while (!push(ring, 1, step)) {
          const auto start = steady_clock::now();
          ring.wait_for_room(was_lost ? 0s : kVeryLong);
          if (seconds_since(start) > kVeryLong.count() / 2) was_lost = true;
        }
      }
    });
    for (std::int64_t drained = 0; drained < kCount;) {
      if (ring.head() - ring.tail() < 16 && drained + 16 <= kCount) continue;  // until it is full
      const auto count = ring.committed(1).size;
      ring.give_back(count);
      drained += static_cast<std::int64_t>(count);
    }
    producer.join();
    CHECK_FALSE(was_lost.load());
  }

  TEST_CASE("wait_for_records: until the timeout while the ring is not half full") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    for (std::int64_t step = 0; step < 7; ++step) REQUIRE(push(ring, 1, step));
    const auto start = steady_clock::now();
    ring.wait_for_records(30ms);
    CHECK(seconds_since(start) > 0.029);
    ring.wait_for_records(0ms);
    CHECK(seconds_since(start) < kVeryLong.count());
  }

  TEST_CASE("wait_for_records ends when the ring becomes half full") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    std::atomic<double> waited_s = -1;
    std::thread consumer([&] {
      const auto start = steady_clock::now();
      ring.wait_for_records(kVeryLong);
      waited_s = seconds_since(start);
    });
    std::this_thread::sleep_for(20ms);
    for (std::int64_t step = 0; step < 8; ++step) REQUIRE(push(ring, 1, step));
    std::this_thread::sleep_for(20ms);
    CHECK(waited_s.load() == -1);
    REQUIRE(push(ring, 1, 8));
    consumer.join();
    CHECK(waited_s.load() < kVeryLong.count() / 2);
  }

  TEST_CASE("a wake() that nobody waits for ends the next wait, and only that") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    ring.wake();
    ring.wake();
    auto start = steady_clock::now();
    ring.wait_for_records(kVeryLong);
    CHECK(seconds_since(start) < kVeryLong.count() / 2);
    start = steady_clock::now();
    ring.wait_for_records(30ms);
    CHECK(seconds_since(start) > 0.029);
    CHECK(memory.state.wake_word.load() == 1);  // one of the two was spared its system call
  }

  TEST_CASE("no wake() is lost") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    constexpr std::uint32_t kCount = testing::repeated(50'000);
    std::atomic<std::uint32_t> asked = 0;
    std::atomic<std::uint32_t> answered = 0;
    std::thread consumer([&] {
      while (answered < kCount) {
        ring.wait_for_records(kVeryLong);
        answered = asked.load();
      }
    });
    const auto start = steady_clock::now();
    for (std::uint32_t i = 1; i <= kCount; ++i) {
      asked = i;
      ring.wake();
      while (answered < i && seconds_since(start) < kVeryLong.count()) std::this_thread::yield();
    }
    consumer.join();
    CHECK(seconds_since(start) < kVeryLong.count());
  }
}

}  // namespace
}  // namespace tracelet
