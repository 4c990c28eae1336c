#include "tracelet/wall_clock.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace tracelet {
namespace {

using namespace std::chrono_literals;

double system_clock_s() { return static_cast<double>(system_clock_ns()) * 1e-9; }
double steady_clock_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of a few looks the one during which the thread was surely not set aside.
double system_less_steady_s() {
  double shortest_s = 1e9;
  double offset_s = 0;
  for (int i = 0; i < 20; ++i) {
    const double before = steady_clock_s();
    const double system = system_clock_s();
    const double look_s = steady_clock_s() - before;
    if (look_s >= shortest_s) continue;
    shortest_s = look_s;
    offset_s = system - before;
  }
  return offset_s;
}

struct Deviations {
  double lead_s = 0;
  double lag_s = 0;
  double jump_back_s = 0;
  std::uint64_t calls = 0;
  // Somebody set the system's clock meanwhile (as after a virtual machine was moved): the clock may
  // follow a second later, so nothing can be said.
  bool system_clock_was_set = false;
};

// Holds a new clock against the system's for `duration_s`, asking it after each `pause`.
Deviations observe_once(double duration_s, std::chrono::milliseconds pause) {
  constexpr double kSetS = 0.5e-3;
  WallClock clock;
  Deviations found;
  const double offset_s = system_less_steady_s();
  const double end = steady_clock_s() + duration_s;
  double last = 0;
  for (double steady_after = 0; steady_after < end;) {
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
    const double steady_before = steady_clock_s();
    const double before = system_clock_s();
    const double now = clock.now_s();
    const double after = system_clock_s();
    steady_after = steady_clock_s();
    found.jump_back_s = std::max(found.jump_back_s, last - now);
    found.lead_s = std::max(found.lead_s, now - after);
    found.lag_s = std::max(found.lag_s, before - now);
    last = now;
    ++found.calls;
    if (before < steady_before + offset_s - kSetS || after > steady_after + offset_s + kSetS) {
      found.system_clock_was_set = true;
    }
  }
  return found;
}

Deviations observe(double duration_s, std::chrono::milliseconds pause) {
  Deviations found = observe_once(duration_s, pause);
  for (int tries = 1; found.system_clock_was_set && tries < 5; ++tries) {
    found = observe_once(duration_s, pause);
  }
  CHECK_FALSE(found.system_clock_was_set);
  return found;
}

TEST_SUITE("wall_clock") {
  // Three seconds cross the first pair of anchors (10 ms) and the later ones (1 s each).
  TEST_CASE("the clock keeps to the system's, and does not jump back") {
    const Deviations found = observe(3.0, 0ms);
    INFO(found.calls, " calls");
    CHECK(found.lead_s < 2e-3);
    CHECK(found.lag_s < 2e-3);
    CHECK(found.jump_back_s < 1e-3);
    CHECK(found.calls > 1000);
  }

  // With more threads than cores this one is set aside between any two of its reads.
  TEST_CASE("so it does when the machine is busy") {
    std::atomic<bool> done{false};
    std::vector<std::thread> others;
    for (unsigned i = 0; i < 4 * std::thread::hardware_concurrency(); ++i) {
      others.emplace_back([&done] {
        while (!done.load(std::memory_order_relaxed)) {
        }
      });
    }
    for (int i = 0; i < 20; ++i) {
      const Deviations found = observe(0.1, 0ms);
      CHECK(found.lead_s < 2e-3);
      CHECK(found.lag_s < 2e-3);
    }
    done.store(true, std::memory_order_relaxed);
    for (std::thread& other : others) other.join();
  }

  TEST_CASE("a clock that is asked now and then") {
    for (const std::chrono::milliseconds pause : {1ms, 8ms, 12ms, 60ms}) {
      const Deviations found = observe(0.15, pause);
      INFO("pause ", pause.count(), " ms");
      CHECK(found.lead_s < 2e-3);
      CHECK(found.lag_s < 2e-3);
      CHECK(found.jump_back_s < 1e-3);
    }
  }

  TEST_CASE("the counter counts up" * doctest::skip(!counter_is_invariant())) {
    const std::uint64_t first = read_counter();
    std::this_thread::sleep_for(1ms);
    CHECK(read_counter() > first);
  }
}

}  // namespace
}  // namespace tracelet
