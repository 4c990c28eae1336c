// Producers that die inside a push: their slots are skipped, those of the living never.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "ring_support.h"
#include "test_support.h"
#include "tracelet/ring.h"
#include "tracelet/ring_file.h"

namespace tracelet {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;
using testing::end_of_child;
using testing::is_whole;
using testing::kVeryLong;
using testing::point_of;
using testing::push;
using testing::RingInFile;
using testing::RingInMemory;
using testing::seconds_since;
using testing::start_child;
using testing::TempDir;

// ThreadSanitizer knows one process.
const auto kNeedsFork = doctest::skip(testing::kThreadSanitizer);

// A child that claims `count` slots and dies with them.
std::uint32_t die_claiming(Ring& ring, int count, int committed_before = 0,
                           int committed_after = 0) {
  const pid_t child = start_child([&] {
    std::uint64_t position = 0;
    for (int i = 0; i < committed_before; ++i) push(ring, 2, i);
    for (int i = 0; i < count; ++i) ring.try_claim(current_pid(), &position);
    for (int i = 0; i < committed_after; ++i) push(ring, 2, committed_before + i);
    return 0;
  });
  REQUIRE(end_of_child(child) == 0);
  return static_cast<std::uint32_t>(child);
}

// What is in the ring, the oldest first: the step of a record, -1 for one that was skipped.
std::vector<std::int64_t> drain(Ring& ring) {
  std::vector<std::int64_t> steps;
  for (;;) {
    const RecordSpan records = ring.committed(1 << 20);
    for (const Record& record : records) {
      if (record.kind == RecordKind::kSkipped) {
        CHECK(record.payload_size == 0);
        steps.push_back(-1);
      } else {
        CHECK(is_whole(record));
        steps.push_back(record.step);
      }
    }
    ring.give_back(records.size);
    if (records.size == 0 && !ring.skip_dead()) return steps;
  }
}

bool nobody_is_alive(std::uint32_t) { return false; }

// The pids that the threads of a test pretend to have, and which of them are dead.
constexpr std::uint32_t kFirstPid = 1'000'000;
std::array<std::atomic<bool>, 100'000> is_dead_pid;
bool pretends_to_live(std::uint32_t pid) { return !is_dead_pid[pid - kFirstPid].load(); }

TEST_SUITE("ring_deaths") {
  TEST_CASE("a dead producer's slots are skipped, in any lap, whoever claims next" * kNeedsFork) {
    TempDir dir;
    RingInFile shared = RingInFile::create(dir.file("ring"), 16);
    Ring& ring = shared.ring;
    for (std::int64_t lap = 0; lap < 4; ++lap) {
      const std::uint64_t before = ring.skipped();
      SUBCASE("nobody") {
        const std::uint32_t pid = die_claiming(ring, 1);
        REQUIRE(ring.committed(1).size == 0);
        REQUIRE(ring.skip_dead());
        const RecordSpan records = ring.committed(10);
        REQUIRE(records.size == 1);
        CHECK(records.data[0].kind == RecordKind::kSkipped);
        CHECK(records.data[0].producer_pid == pid);
        CHECK(records.data[0].sequence == ring.tail() + 1);
        CHECK_FALSE(ring.skip_dead());  // it is committed now
        CHECK(drain(ring) == std::vector<std::int64_t>{-1});
        CHECK(ring.skipped() == before + 1);
      }
      SUBCASE("another process") {
        REQUIRE(push(ring, 1, 7));
        die_claiming(ring, 1);
        REQUIRE(push(ring, 1, 8));
        REQUIRE(push(ring, 1, 9));
        CHECK(drain(ring) == std::vector<std::int64_t>{7, -1, 8, 9});
      }
      SUBCASE("the process itself, by another thread") {
        die_claiming(ring, 2, 1, 3);
        CHECK(drain(ring) == std::vector<std::int64_t>{0, -1, -1, 1, 2, 3});
      }
      SUBCASE("several, that die as well") {
        die_claiming(ring, 2, 1);
        die_claiming(ring, 1, 0, 1);
        die_claiming(ring, 3);
        CHECK(drain(ring) == std::vector<std::int64_t>{0, -1, -1, -1, 0, -1, -1, -1});
        CHECK(ring.skipped() == before + 6);
      }
    }
    CHECK(ring.tail() == ring.head());
  }

  TEST_CASE("the slot of a live process is not skipped, even when it is stopped" * kNeedsFork) {
    TempDir dir;
    RingInFile shared = RingInFile::create(dir.file("ring"), 16);
    Ring& ring = shared.ring;
    bool is_followed = false;
    SUBCASE("the last one") {}
    SUBCASE("followed by another's") { is_followed = true; }
    const pid_t child = start_child([&] {
      std::uint64_t position = 0;
      ring.try_claim(current_pid(), &position);
      raise(SIGSTOP);
      ring.commit(current_pid(), position, point_of(1, 14), 0, 0);
      return 0;
    });
    int status = 0;
    REQUIRE(waitpid(child, &status, WUNTRACED) == child);
    if (is_followed) REQUIRE(push(ring, 2, 1));
    CHECK_FALSE(ring.skip_dead());
    CHECK(ring.committed(10).size == 0);
    kill(child, SIGCONT);
    REQUIRE(end_of_child(child) == 0);
    CHECK_FALSE(ring.skip_dead());
    const RecordSpan records = ring.committed(10);
    REQUIRE(records.size == (is_followed ? 2 : 1));
    CHECK(is_whole(records.data[0]));
    CHECK(ring.skipped() == 0);
  }

  TEST_CASE("an empty ring and a committed record are left alone") {
    RingInMemory memory(16);
    CHECK_FALSE(memory.ring.skip_dead(nobody_is_alive));
    REQUIRE(push(memory.ring, 1, 4));
    CHECK_FALSE(memory.ring.skip_dead(nobody_is_alive));
    CHECK(drain(memory.ring) == std::vector<std::int64_t>{4});
    CHECK_FALSE(memory.ring.skip_dead(nobody_is_alive));
  }

  TEST_CASE("a mark goes with the commit, lap after lap") {
    RingInMemory memory(16);
    Ring& ring = memory.ring;
    std::uint64_t position = 0;
    for (std::int64_t step = 0; step < 100; ++step) {
      const auto pid = static_cast<std::uint32_t>(kFirstPid + step % 3);
      std::uint64_t later = 0;
      REQUIRE(ring.try_claim(pid, &position));
      REQUIRE(ring.try_claim(pid + 3, &later));  // which marks the one before
      CHECK((memory.slots[position % 16].sequence >> 63) == 1);
      ring.commit(pid, position, point_of(1, 2 * step), 0, 0);
      ring.commit(pid + 3, later, point_of(1, 2 * step + 1), 0, 0);
      CHECK(drain(ring) == std::vector<std::int64_t>{2 * step, 2 * step + 1});
    }
    CHECK(ring.skipped() == 0);
  }

  TEST_CASE("at the last position the ring is full for good") {
    RingInMemory memory(16);
    memory.state.head.store(kLastPosition - 3);
    memory.state.tail.store(kLastPosition - 3);
    memory.state.tail_seen.store(kLastPosition - 3);
    std::uint64_t pushed = 0;
    for (int i = 0; i < 100; ++i) {
      if (push(memory.ring, 1, 0)) ++pushed;
      const RecordSpan records = memory.ring.committed(100);
      memory.ring.give_back(records.size);
    }
    CHECK(pushed >= 3);
    CHECK(pushed < 16);
    CHECK(memory.ring.head() == kLastPosition - 3 + pushed);
    CHECK(memory.ring.tail() == memory.ring.head());
  }

#if defined(__linux__)
  TEST_CASE("a process whose first thread has ended is alive while another runs" * kNeedsFork) {
    int go_on[2];
    REQUIRE(pipe(go_on) == 0);
    const pid_t child = start_child([&] {
      std::thread([&] {
        char byte;
        if (read(go_on[0], &byte, 1) == 1) syscall(SYS_exit_group, 0);
      }).detach();
      syscall(SYS_exit, 0);  // of this thread
      return 0;
    });
    std::this_thread::sleep_for(50ms);
    CHECK(process_is_alive(static_cast<std::uint32_t>(child)));
    REQUIRE(write(go_on[1], "x", 1) == 1);
    const auto start = steady_clock::now();
    while (process_is_alive(static_cast<std::uint32_t>(child)) &&
           seconds_since(start) < kVeryLong.count()) {
      std::this_thread::sleep_for(1ms);
    }
    CHECK_FALSE(process_is_alive(static_cast<std::uint32_t>(child)));  // a zombie now
    CHECK(end_of_child(child) == 0);
    close(go_on[0]);
    close(go_on[1]);
  }
#endif

  // Threads that pretend to be processes, so that ThreadSanitizer sees the marks and the skipping.
  TEST_CASE("threads that bear pids die inside a push, and no other record is touched") {
    constexpr int kThreads = 4;
    const int lives = testing::repeated(2'000);
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    for (auto& each : is_dead_pid) each.store(false);
    RingInMemory memory(64);
    Ring& ring = memory.ring;
    std::atomic<int> running{kThreads};
    std::atomic<std::uint64_t> committed{0};
    std::atomic<std::uint64_t> died{0};
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937_64 random(seed + static_cast<std::uint64_t>(thread));
        std::int64_t step = 0;
        for (int life = 0; life < lives; ++life) {
          const auto pid = kFirstPid + static_cast<std::uint32_t>(thread * lives + life);
          for (auto pushes = random() % 20; pushes > 0; --pushes) {
            std::uint64_t position = 0;
            while (!ring.try_claim(pid, &position)) std::this_thread::yield();
            if (random() % 8 == 0) std::this_thread::yield();
            ring.commit(pid, position, point_of(static_cast<std::uint32_t>(thread), step), 0, 0);
            ++step;
            committed.fetch_add(1);
          }
          std::uint64_t position = 0;
          while (!ring.try_claim(pid, &position)) std::this_thread::yield();
          if (random() % 2 == 0) std::this_thread::yield();
          died.fetch_add(1);
          is_dead_pid[pid - kFirstPid].store(true);
        }
        running.fetch_sub(1);
      });
    }
    std::vector<std::int64_t> next_step(kThreads, 0);
    std::uint64_t taken = 0;
    std::uint64_t wrong = 0;
    const auto start = steady_clock::now();
    while ((running.load() > 0 || ring.tail() < ring.head()) &&
           seconds_since(start) < 10 * kVeryLong.count()) {
      const RecordSpan records = ring.committed(1000);
      for (const Record& record : records) {
        if (record.kind == RecordKind::kSkipped) continue;
        ++taken;
        if (record.tag_id >= kThreads || !is_whole(record) ||
            record.step != next_step[record.tag_id]++) {
          ++wrong;
        }
      }
      ring.give_back(records.size);
      if (records.size == 0 && !ring.skip_dead(pretends_to_live)) std::this_thread::yield();
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(taken == committed.load());
    CHECK(ring.skipped() == died.load());
    CHECK(ring.tail() == ring.head());
  }

  TEST_CASE("processes killed at random: each push that returned is there once, none stalls" *
            kNeedsFork) {
    constexpr std::uint32_t kChildren = 4;
    const int kills = testing::repeated(400);
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    TempDir dir;
    RingInFile shared = RingInFile::create(dir.file("ring"), 256);
    Ring& ring = shared.ring;
    // How many pushes have returned, child by child: in shared memory, to be read when it is dead.
    const MappedFile counts = MappedFile::create(dir.file("counts"), 4096, 4096);
    auto* returned = reinterpret_cast<std::atomic<std::int64_t>*>(counts.data());
    std::vector<std::int64_t> taken(kChildren, 0);
    std::uint64_t wrong = 0;
    const auto take = [&] {
      const RecordSpan records = ring.committed(1000);
      for (const Record& record : records) {
        if (record.kind == RecordKind::kSkipped) continue;
        if (record.tag_id >= kChildren || !is_whole(record) ||
            record.step != taken[record.tag_id]) {
          ++wrong;
        }
        ++taken[record.tag_id];
      }
      ring.give_back(records.size);
      return records.size > 0 || ring.skip_dead();
    };
    const auto start_one = [&](std::uint32_t tag_id, std::uint64_t child_seed) {
      return start_child([&, tag_id, child_seed] {
        std::mt19937_64 rng(child_seed);
        for (std::int64_t step = returned[tag_id].load();; ++step) {
          std::uint64_t position = 0;
          while (!ring.try_claim(current_pid(), &position)) ring.wait_for_room(1ms);
          if (rng() % 2 == 0) {
            for (auto spins = rng() % 20'000; spins > 0; --spins) {
              std::atomic_signal_fence(std::memory_order_seq_cst);
            }
          }
          ring.commit(
              current_pid(), position,
              {static_cast<double>(step) / 4, step, static_cast<double>(step + tag_id), tag_id,
               tag_id ^ 0x5a5aU, RecordKind::kScalar, static_cast<std::uint16_t>(step & 7)},
              0, 0);
          returned[tag_id].store(step + 1);
        }
        return 0;
      });
    };
    std::vector<pid_t> children(kChildren, 0);
    for (std::uint32_t i = 0; i < kChildren; ++i) children[i] = start_one(i, random());
    for (int kill_number = 0; kill_number < kills; ++kill_number) {
      const auto end = steady_clock::now() + std::chrono::microseconds(random() % 3'000);
      while (steady_clock::now() < end) take();
      const auto victim = static_cast<std::uint32_t>(random() % kChildren);
      kill(children[victim], SIGKILL);
      REQUIRE(end_of_child(children[victim]) == -SIGKILL);
      // All of the victim's: it may have been killed after a commit and before it could count it.
      const auto start = steady_clock::now();
      while (taken[victim] < returned[victim].load() && seconds_since(start) < kVeryLong.count()) {
        take();
      }
      const std::uint64_t end_position = ring.head();
      while (ring.tail() < end_position && seconds_since(start) < kVeryLong.count()) take();
      REQUIRE(ring.tail() >= end_position);
      const std::int64_t surplus = taken[victim] - returned[victim].load();
      CHECK(surplus >= 0);
      CHECK(surplus <= 1);
      returned[victim].store(taken[victim]);
      children[victim] = start_one(victim, random());
    }
    for (const pid_t child : children) {
      kill(child, SIGKILL);
      CHECK(end_of_child(child) == -SIGKILL);
    }
    const auto start = steady_clock::now();
    while (ring.tail() < ring.head() && seconds_since(start) < kVeryLong.count()) take();
    CHECK(ring.tail() == ring.head());
    CHECK(wrong == 0);
    CHECK(ring.skipped() <= static_cast<std::uint64_t>(kills) + kChildren);
    MESSAGE(kills, " kills, ", ring.skipped(), " of them inside a push");
  }

  TEST_CASE("the owner of a ring is dead when its reader knows, whoever has its pid" * kNeedsFork) {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), 64);  // this process is the owner
    std::uint64_t position = 0;
    REQUIRE(file->ring().try_claim(current_pid(), &position));
    CHECK_FALSE(file->skip_dead(false));
    CHECK(file->skip_dead(true));
    const pid_t child = start_child([&] {
      file->ring().try_claim(current_pid(), &position);
      pause();
      return 0;
    });
    const auto start = steady_clock::now();
    while (file->ring().head() < 2 && seconds_since(start) < kVeryLong.count()) {
      std::this_thread::sleep_for(1ms);
    }
    file->ring().give_back(1);
    CHECK_FALSE(file->skip_dead(true));  // a forked child that lives on
    kill(child, SIGKILL);
    CHECK(end_of_child(child) == -SIGKILL);
    CHECK(file->skip_dead(true));
  }

  TEST_CASE("the place of a payload whose producer died is free again" * kNeedsFork) {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), 64);
    const std::size_t size_bytes = file->payloads().size_bytes();
    const std::vector<std::byte> payload(size_bytes);
    Point point;
    point.kind = RecordKind::kEvent;
    auto* header =
        reinterpret_cast<RingFileHeader*>(const_cast<std::byte*>(file->payloads().span().data) -
                                          64 * sizeof(Record) - kRingFileHeaderBytes);
    // What a producer has done that is killed while it copies a payload as large as the arena.
    const pid_t child = start_child([&] {
      std::uint64_t position = 0;
      file->ring().try_claim(current_pid(), &position);
      header->payloads.head.store(size_bytes);
      return 0;
    });
    REQUIRE(end_of_child(child) == 0);
    REQUIRE_FALSE(file->payloads().try_push(file->ring(), point, payload));
    REQUIRE(push(file->ring(), 1, 1));
    const auto give_back = [&] {
      const RecordSpan records = file->ring().committed(64);
      file->payloads().give_back(records);
      file->ring().give_back(records.size);
      file->payloads().reclaim(file->ring());
      return records.size;
    };
    REQUIRE(file->ring().skip_dead());
    CHECK(give_back() == 2);
    CHECK(file->payloads().try_push(file->ring(), point, payload));
    CHECK(give_back() == 1);
  }

  TEST_CASE("the places of living payloads are kept when a dead one is reclaimed" * kNeedsFork) {
    TempDir dir;
    const auto file = RingFile::create(dir.file("ring"), 64);
    const std::vector<std::byte> payload(file->payloads().size_bytes() / 2);
    Point point;
    point.kind = RecordKind::kEvent;
    die_claiming(file->ring(), 1);
    REQUIRE(file->payloads().try_push(file->ring(), point, payload));
    REQUIRE(file->payloads().try_push(file->ring(), point, payload));
    REQUIRE(file->ring().skip_dead());
    const RecordSpan skipped = file->ring().committed(1);
    file->payloads().give_back(skipped);
    file->ring().give_back(1);
    file->payloads().reclaim(file->ring());
    CHECK_FALSE(file->payloads().try_push(file->ring(), point, payload));
    CHECK(file->ring().committed(64).size == 2);
  }
}

}  // namespace
}  // namespace tracelet
