// The ring between processes and mappings.
#include <doctest/doctest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "ring_support.h"
#include "test_support.h"
#include "tracelet/ring.h"

namespace tracelet {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;
using testing::end_of_child;
using testing::is_whole;
using testing::kVeryLong;
using testing::push;
using testing::RingInFile;
using testing::seconds_since;
using testing::start_child;
using testing::TempDir;

// ThreadSanitizer knows one process.
const auto kNeedsFork = doctest::skip(testing::kThreadSanitizer);

TEST_SUITE("ring_processes") {
  TEST_CASE("two mappings of one file are one ring") {
    TempDir dir;
    RingInFile one = RingInFile::create(dir.file("ring"), 16);
    RingInFile two = RingInFile::open(dir.file("ring"), 16);
    REQUIRE(one.file.data() != two.file.data());
    for (std::int64_t step = 0; step < 100; ++step) {
      REQUIRE(push(step % 2 == 0 ? one.ring : two.ring, 1, step));
      Ring& reader = step % 3 == 0 ? one.ring : two.ring;
      const RecordSpan records = reader.committed(100);
      REQUIRE(records.size == 1);
      REQUIRE(records.data[0].step == step);
      reader.give_back(1);
    }
    for (std::int64_t step = 0; step < 16; ++step) REQUIRE(push(one.ring, 1, step));
    CHECK_FALSE(push(two.ring, 1, 16));

    // A wake-up crosses from one mapping to the other.
    std::thread consumer([&] {
      std::this_thread::sleep_for(20ms);
      two.ring.give_back(1);
    });
    const auto start = steady_clock::now();
    CHECK(one.ring.wait_for_room(kVeryLong));
    CHECK(seconds_since(start) < kVeryLong.count() / 2);
    consumer.join();
  }

  TEST_CASE("a push after fork bears the child's pid" * kNeedsFork) {
    TempDir dir;
    RingInFile shared = RingInFile::create(dir.file("ring"), 16);
    REQUIRE(push(shared.ring, 1, 0));
    const pid_t child = start_child([&] {
      const pid_t grandchild = start_child([&] { return push(shared.ring, 3, 0) ? 0 : 1; });
      const bool pushed = push(shared.ring, 2, 0);
      return pushed && end_of_child(grandchild) == 0 ? 0 : 1;
    });
    REQUIRE(end_of_child(child) == 0);
    std::map<std::uint32_t, std::uint32_t> pid_of_tag;
    for (const Record& record : shared.ring.committed(100)) {
      CHECK(is_whole(record));
      pid_of_tag[record.tag_id] = record.producer_pid;
    }
    REQUIRE(pid_of_tag.size() == 3);
    CHECK(pid_of_tag[1] == static_cast<std::uint32_t>(getpid()));
    CHECK(pid_of_tag[2] == static_cast<std::uint32_t>(child));
    CHECK(pid_of_tag[3] != pid_of_tag[1]);
    CHECK(pid_of_tag[3] != pid_of_tag[2]);
  }

  TEST_CASE("four children push, the parent drains: nothing is lost or out of order" * kNeedsFork) {
    constexpr std::uint32_t kChildren = 4;
    constexpr std::int64_t kEach = testing::repeated(100'000);
    TempDir dir;
    RingInFile shared = RingInFile::create(dir.file("ring"), 256);
    std::vector<pid_t> children;
    for (std::uint32_t tag_id = 0; tag_id < kChildren; ++tag_id) {
      children.push_back(start_child([&] {
        for (std::int64_t step = 0; step < kEach; ++step) {
          while (!push(shared.ring, tag_id, step)) shared.ring.wait_for_room(kVeryLong);
        }
        return 0;
      }));
    }
    std::vector<std::int64_t> next_step(kChildren, 0);
    std::uint64_t drained = 0;
    std::uint64_t wrong = 0;
    const auto start = steady_clock::now();
    while (drained < kChildren * kEach && seconds_since(start) < kVeryLong.count()) {
      const RecordSpan records = shared.ring.committed(1000);
      for (const Record& record : records) {
        ++drained;
        const bool is_next =
            record.tag_id < kChildren && record.step == next_step[record.tag_id]++ &&
            is_whole(record) &&
            record.producer_pid == static_cast<std::uint32_t>(children[record.tag_id]);
        if (!is_next) ++wrong;
      }
      shared.ring.give_back(records.size);
      if (records.size == 0) shared.ring.wait_for_records(1ms);
    }
    CHECK(wrong == 0);
    CHECK(drained == kChildren * kEach);
    for (const pid_t child : children) {
      if (drained != kChildren * kEach) kill(child, SIGKILL);
      CHECK(end_of_child(child) == 0);
    }
  }

  TEST_CASE("a child killed between two pushes: its records stay, and others go on" * kNeedsFork) {
    TempDir dir;
    RingInFile shared = RingInFile::create(dir.file("ring"), 64);
    const pid_t child = start_child([&] {
      for (std::int64_t step = 0; step < 40; ++step) push(shared.ring, 1, step);
      for (;;) pause();
      return 0;
    });
    const auto start = steady_clock::now();
    while (shared.ring.committed(100).size < 40 && seconds_since(start) < kVeryLong.count()) {
      std::this_thread::yield();
    }
    kill(child, SIGKILL);
    REQUIRE(end_of_child(child) == -SIGKILL);
    for (std::int64_t step = 40; step < 64; ++step) REQUIRE(push(shared.ring, 1, step));
    CHECK_FALSE(push(shared.ring, 1, 64));
    const RecordSpan records = shared.ring.committed(100);
    REQUIRE(records.size == 64);
    for (std::size_t i = 0; i < 64; ++i) {
      CHECK(is_whole(records.data[i]));
      CHECK(records.data[i].step == static_cast<std::int64_t>(i));
    }
  }

  TEST_CASE("a child killed at any moment: what is committed is whole" * kNeedsFork) {
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    TempDir dir;
    for (int tries = 0; tries < testing::repeated(60); ++tries) {
      const std::string path = dir.file("ring" + std::to_string(tries));
      RingInFile shared = RingInFile::create(path, 1024);
      const pid_t child = start_child([&] {
        for (std::int64_t step = 0;; ++step) {
          while (!push(shared.ring, 1, step)) shared.ring.wait_for_room(1ms);
        }
        return 0;
      });
      const auto end = steady_clock::now() + std::chrono::microseconds(random() % 8'000);
      std::int64_t next_step = 0;
      bool all_whole = true;
      const auto drain = [&] {
        const RecordSpan records = shared.ring.committed(1024);
        for (const Record& record : records) {
          all_whole = all_whole && is_whole(record) && record.step == next_step++;
        }
        shared.ring.give_back(records.size);
        return records.size > 0;
      };
      while (steady_clock::now() < end) drain();
      kill(child, SIGKILL);
      REQUIRE(end_of_child(child) == -SIGKILL);
      for (int laps = 0; laps < 3 && drain();) ++laps;  // what is there lies in two pieces at most
      CHECK(all_whole);
      // Nothing is missing but the one push that it was killed in.
      CHECK(shared.ring.head() - shared.ring.tail() <= 1);
    }
  }
}

}  // namespace
}  // namespace tracelet
