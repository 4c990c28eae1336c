#include "tracelet/wall_clock.h"

#include <chrono>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tracelet {

bool counter_is_invariant() {
#if defined(__x86_64__)
  unsigned eax, ebx, ecx, edx;
  // CPUID 0x80000007, EDX bit 8: invariant TSC (Intel SDM vol. 3, 18.17.1; AMD APM vol. 3, E.4.5).
  return __get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) != 0 && (edx & (1U << 8)) != 0;
#elif defined(__aarch64__)
  return true;  // the generic timer's rate is fixed by the architecture
#else
  return false;
#endif
}

std::int64_t system_clock_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

namespace {

struct Reading {
  std::uint64_t ticks;
  std::int64_t system_ns;
};

// Counter and system clock of one moment. A thread that is set aside between the two reads would
// give an anchor that is off by that time, and a rate that is off with it: of a few readings the
// one with the closest counts around it is taken.
Reading read_both() {
  constexpr int kReadings = 4;
  Reading closest{};
  std::uint64_t closest_span = UINT64_MAX;
  for (int i = 0; i < kReadings; ++i) {
    const std::uint64_t before = read_counter();
    const std::int64_t system_ns = system_clock_ns();
    const std::uint64_t span = read_counter() - before;
    if (span < closest_span) {
      closest_span = span;
      closest = {before + span / 2, system_ns};
    }
  }
  return closest;
}

}  // namespace

double WallClock::anchor_now() {
  static const bool usable = counter_is_invariant();
  if (!usable) return static_cast<double>(system_clock_ns()) * 1e-9;

  const auto [now_ticks, now_ns] = read_both();
  const double now_s = static_cast<double>(now_ns) * 1e-9;
  const std::int64_t span_ns = now_ns - anchor_ns_;
  const bool anchor_is_young = anchor_ns_ != 0 && span_ns >= 0 && span_ns < kFirstSpanNs;
  if (anchor_is_young && anchor_valid_ticks_ == 0) return now_s;

  const std::uint64_t span_ticks = now_ticks - anchor_ticks_;
  const double s_per_tick = static_cast<double>(span_ns) * 1e-9 / static_cast<double>(span_ticks);
  const bool span_is_sound = anchor_ns_ != 0 && span_ns >= kFirstSpanNs && span_ns < kLongestSpanNs;
  // A counter that was reset, or a clock that was set, gives a rate that no processor has.
  const bool rate_is_plausible = s_per_tick > 1e-10 && s_per_tick < 1e-6;
  if (span_is_sound && rate_is_plausible) {
    s_per_tick_ = s_per_tick;
    anchor_valid_ticks_ = static_cast<std::uint64_t>(kAnchorAgeS / s_per_tick);
  } else {
    anchor_valid_ticks_ = 0;
  }
  anchor_ticks_ = now_ticks;
  anchor_ns_ = now_ns;
  anchor_s_ = now_s;
  return now_s;
}

}  // namespace tracelet
