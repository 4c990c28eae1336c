// The ring, the arena and the lock, as they are in cpp/tracelet, under Relacy: what is promised
// must hold for each interleaving that is tried, whatever C++'s memory model lets a load see. Then
// each order is weakened in turn, and the model must find that out: so it is known to look where it
// should.
//
// ring_model [ITERATIONS]: of each scenario; four times as many where an order is weakened. The
// interleavings are those of fixed seeds: the same program gives the same answer.
#include "model.h"
// The core itself.
#include "tracelet/payload_arena.cpp"
#include "tracelet/ring.cpp"

namespace tracelet {
namespace {

constexpr std::uint64_t kPayloadBytes = 8;
constexpr std::chrono::nanoseconds kForEver(0);

// The arena's bytes, for whom reads and writes of plain memory are to be seen.
struct {
  std::byte bytes[2 * kPayloadBytes];
  model::Plain<std::uint64_t>* cells;
} shadow;

model::Plain<std::uint64_t>* cell_of(const void* place) {
  const auto* at = static_cast<const std::byte*>(place);
  if (at < shadow.bytes || at >= shadow.bytes + sizeof(shadow.bytes)) return nullptr;
  return shadow.cells + (at - shadow.bytes) / static_cast<std::ptrdiff_t>(kPayloadBytes);
}

template <typename State>
void clear_ring(State& state) {
  const auto zero = std::memory_order_relaxed;
  state.head.store(0, zero);
  state.tail_seen.store(0, zero);
  state.tail.store(0, zero);
  state.skipped.store(0, zero);
  state.wake_word.store(0, zero);
  state.wake_pending.store(0, zero);
  state.room_word.store(0, zero);
  state.room_waiters.store(0, zero);
}

model::Word<int>* deaths = nullptr;  // whether the process of pid 1 has died

// One for all words: a scenario has sleepers on one alone.
struct Futex {
  rl::mutex lock;
  model::Word<int> wakes;
};
Futex* futex = nullptr;

// A ring, the producers' threads and, as the last one, the consumer's.
template <typename Scenario, int kThreads, int kCapacity>
struct RingTest : rl::test_suite<Scenario, kThreads> {
  RingState state;
  Record slots[kCapacity];
  Ring ring{&state, slots, kCapacity};
  Futex own_futex;
  std::uint64_t next_of[kThreads] = {};  // the consumer's: what comes next of each producer
  int delivered = 0;

  void before() {
    futex = &own_futex;
    own_futex.wakes.store(0, rl::mo_relaxed, $);
    deaths = nullptr;
    clear_ring(state);
    for (Record& slot : slots) slot.sequence.store(0, std::memory_order_relaxed);
  }
  static Point point(unsigned producer, int number) {
    Point point;
    point.tag_id = producer;
    point.step = number;
    point.value = static_cast<double>(producer * 100 + static_cast<unsigned>(number));
    return point;
  }
  // Whole, and in its producer's order.
  void check(const Record& record) {
    const std::uint32_t producer = record.tag_id;
    const auto number = static_cast<std::uint64_t>(std::int64_t{record.step});
    RL_ASSERT(number == next_of[producer]);
    RL_ASSERT(double{record.value} ==
              static_cast<double>(producer * 100 + static_cast<unsigned>(number)));
    RL_ASSERT(std::uint32_t{record.producer_pid} == producer + 1);
    ++next_of[producer];
    ++delivered;
  }
  void take() {
    const RecordSpan records = ring.committed(kCapacity);
    for (std::size_t i = 0; i < records.size; ++i) check(records.data[i]);
    if (records.size != 0) {
      ring.give_back(records.size);
    } else {
      rl::yield(1, $);
    }
  }
};

// Each record arrives once, whole, in order; a slot is not written before it was read.
struct Pushes : RingTest<Pushes, 3, 2> {
  void thread(unsigned index) {
    if (index == 2) {
      while (delivered < 4) take();
      return;
    }
    for (int number = 0; number < 2; ++number) {
      while (!ring.try_push(point(index, number))) rl::yield(1, $);
    }
  }
};

// Who sleeps for room is woken: there is no timeout here.
struct Waits : RingTest<Waits, 3, 2> {
  void thread(unsigned index) {
    if (index == 2) {
      while (delivered < 4) take();
      return;
    }
    for (int number = 0; number < 2; ++number) {
      while (!ring.try_push(point(index, number))) ring.wait_for_room(kForEver);
    }
  }
};

// The one time that room is made is not slept through.
struct WaitsOnce : RingTest<WaitsOnce, 2, 2> {
  void thread(unsigned index) {
    if (index == 0) {
      for (int number = 0; number < 3; ++number) {
        while (!ring.try_push(point(0, number))) ring.wait_for_room(kForEver);
      }
      return;
    }
    while (ring.committed(2).size < 2) rl::yield(1, $);
    take();
    while (delivered < 3) rl::yield(1, $), delivered += static_cast<int>(ring.committed(1).size);
  }
};

// What was accepted before the end is delivered, and nothing after it.
struct Closes : RingTest<Closes, 3, 4> {
  std::model_atomic<int> accepted;
  void before() {
    RingTest::before();
    accepted.store(0, std::memory_order_relaxed);
  }
  void thread(unsigned index) {
    if (index == 2) {
      take();
      ring.close();
      while (ring.tail() < ring.head()) take();
      RL_ASSERT(!ring.try_push(point(2, 0)));
      return;
    }
    for (int number = 0; number < 2; ++number) {
      if (!ring.try_push(point(index, number))) return;
      accepted.fetch_add(1);
    }
  }
  void after() { RL_ASSERT(accepted.load() == delivered); }
};

// A process dies between its claim and its commit: its slot is skipped, and no other.
template <typename Scenario, int kCapacity>
struct Dies : RingTest<Scenario, 3, kCapacity> {
  model::Word<int> is_dead;
  model::Word<int> finished;
  int skips = 0;
  int claims_of_the_dead = 0;

  void before() {
    RingTest<Scenario, 3, kCapacity>::before();
    is_dead.store(0, rl::mo_relaxed, $);
    finished.store(0, rl::mo_relaxed, $);
    deaths = &is_dead;
  }
  void thread(unsigned index) {
    if (index == 2) return consume();
    if (index == 1) {
      for (int number = 0; number < 2; ++number) {
        while (!this->ring.try_push(this->point(1, number))) rl::yield(1, $);
      }
    } else {
      const unsigned how = rl::rand(3);
      if (how > 0) {
        while (!this->ring.try_push(this->point(0, 0))) rl::yield(1, $);
      }
      if (how < 2) {
        std::uint64_t position;
        while (!this->ring.try_claim(current_pid(), &position)) rl::yield(1, $);
        ++claims_of_the_dead;
      }
      is_dead.store(1, rl::mo_seq_cst, $);
    }
    finished.fetch_add(1, rl::mo_seq_cst, $);
  }
  void consume() {
    while (finished.load(rl::mo_seq_cst, $) < 2 || this->ring.tail() < this->ring.head()) {
      const RecordSpan records = this->ring.committed(1);
      if (records.size == 0) {
        if (!this->ring.skip_dead(process_is_alive)) rl::yield(1, $);
        continue;
      }
      if (RecordKind{records.data->kind} == RecordKind::kSkipped) {
        ++skips;
      } else {
        this->check(*records.data);
      }
      this->ring.give_back(1);
    }
  }
  void after() {
    RL_ASSERT(skips == claims_of_the_dead);
    RL_ASSERT(this->next_of[1] == 2);
  }
};
struct DiesInALargeRing : Dies<DiesInALargeRing, 4> {};
struct DiesInASmallRing : Dies<DiesInASmallRing, 2> {};

// Payloads: each whole when its record is there, its place not written before it was read.
struct Payloads : RingTest<Payloads, 3, 4> {
  PayloadArenaState arena_state;
  PayloadArena arena{&arena_state, shadow.bytes, sizeof(shadow.bytes)};
  model::Plain<std::uint64_t> cells[2];

  void before() {
    RingTest::before();
    arena_state.head.store(0, std::memory_order_relaxed);
    arena_state.tail.store(0, std::memory_order_relaxed);
    arena_state.lock_pid.store(0, std::memory_order_relaxed);
    shadow.cells = cells;
  }
  void thread(unsigned index) {
    if (index < 2) return push(index);
    while (delivered < 4) {
      const RecordSpan records = ring.committed(4);
      for (std::size_t i = 0; i < records.size; ++i) {
        const Record& record = records.data[i];
        RL_ASSERT(std::uint64_t{record.payload_size} == kPayloadBytes);
        std::uint64_t content;
        std::memcpy(&content, arena.span().data + std::uint64_t{record.payload_offset},
                    sizeof(content));
        RL_ASSERT(content == static_cast<std::uint64_t>(double{record.value}));
        check(record);
      }
      if (records.size != 0) {
        arena.give_back(records);
        ring.give_back(records.size);
      } else {
        rl::yield(1, $);
      }
    }
  }
  void push(unsigned index) {
    for (int number = 0; number < 2; ++number) {
      const Point next = point(index, number);
      const auto content = static_cast<std::uint64_t>(next.value);
      while (!arena.try_push(ring, next, std::as_bytes(std::span(&content, 1)))) {
        arena.wait_for_room(ring, kPayloadBytes, kForEver);
      }
    }
  }
};

// Orders that the scenarios hold without: each with why.
struct Spare {
  const char* function;
  const char* operation;
  const char* reason;
};
constexpr Spare kSpares[] = {
    {"Ring::wake", "", "a lost wake of the drainer costs its interval: its sleep has a limit"},
    {"Ring::head", "load", "claims read it for a number alone"},
    {"Ring::tail", "load", "producers read it for a number alone"},
    {"Ring::close", "fetch_or", "the consumer is the one that closes"},
    {"HasRoom)", "load", "the kernel compares the word again, under its lock"},
    {"HasRoom)", "fetch_sub", "a count that is too high costs the consumer a call"},
    {"Ring::give_back", "fetch_add", "the kernel compares the word again, under its lock"},
    {"Ring::close", "fetch_add", "sleepers at the end have a limit, too"},
};

class Nowhere : public std::streambuf {
  int overflow(int character) override { return character; }
};

template <typename Scenario>
bool holds(rl::iteration_t iterations, std::ostream& out) {
  rl::test_params params;
  params.iteration_count = iterations;
  params.execution_depth_limit = 4000;
  params.output_stream = &out;
  params.progress_stream = &out;
  params.progress_output_period = 1'000'000;
  return rl::simulate<Scenario>(params);
}

bool all_hold(rl::iteration_t iterations, std::ostream& out) {
  return holds<Pushes>(iterations, out) && holds<DiesInALargeRing>(iterations, out) &&
         holds<DiesInASmallRing>(iterations, out) && holds<Payloads>(iterations, out) &&
         holds<Waits>(iterations, out) && holds<WaitsOnce>(iterations, out) &&
         holds<Closes>(iterations, out);
}

const char* spare(const model::Site& site) {
  for (const Spare& each : kSpares) {
    if (std::strstr(site.function, each.function) != nullptr &&
        std::strstr(site.operation, each.operation) != nullptr) {
      return each.reason;
    }
  }
  return nullptr;
}

const char* name_of(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

// How many weakened orders went unnoticed that should not.
int unnoticed(rl::iteration_t iterations, bool to_relaxed, std::ostream& nowhere) {
  int failures = 0;
  model::is_weakened_to_relaxed = to_relaxed;
  for (int at = 0; at < model::site_count; ++at) {
    const model::Site& site = model::sites[at];
    if (std::strstr(name_of(site.file), "model") != nullptr) continue;
    if (site.order == std::memory_order_relaxed) continue;
    if (!to_relaxed && site.order != std::memory_order_seq_cst) continue;
    const char* reason = spare(site);
    model::weakened_site = at;
    const bool is_noticed = !all_hold(reason != nullptr ? iterations : 4 * iterations, nowhere);
    model::weakened_site = -1;
    std::cout << (to_relaxed ? "relaxed          " : "acquire/release  ")
              << (is_noticed          ? "noticed  "
                  : reason != nullptr ? "spare    "
                                      : "UNNOTICED ")
              << name_of(site.file) << ":" << site.line << " " << site.operation << "  "
              << site.function;
    if (!is_noticed && reason != nullptr) std::cout << "  (" << reason << ")";
    std::cout << std::endl;
    if (!is_noticed && reason == nullptr) ++failures;
  }
  return failures;
}

}  // namespace

bool process_is_alive(std::uint32_t pid) {
  return pid != 1 || deaths == nullptr || deaths->load(rl::mo_seq_cst, $) == 0;
}

void wait_on(std::model_atomic<std::uint32_t>& word, std::uint32_t expected,
             std::chrono::nanoseconds) {
  futex->lock.lock($);
  const bool sleeps = word.load(std::memory_order_relaxed) == expected;
  const int wakes = futex->wakes.load(rl::mo_relaxed, $);
  futex->lock.unlock($);
  // Not the checker's condition variable: that one wakes at times for no reason.
  while (sleeps && futex->wakes.load(rl::mo_seq_cst, $) == wakes) rl::yield(1, $);
}
void wake_all(std::model_atomic<std::uint32_t>&) {
  futex->lock.lock($);
  futex->wakes.fetch_add(1, rl::mo_seq_cst, $);
  futex->lock.unlock($);
}

}  // namespace tracelet

void* std::model_memcpy(void* to, const void* from, std::size_t size_bytes) {
  (void)size_bytes;
  if (auto* cell = tracelet::cell_of(to)) {
    *cell = *static_cast<const std::uint64_t*>(from);
  } else if (const auto* source = tracelet::cell_of(from)) {
    *static_cast<std::uint64_t*>(to) = *source;
  }
  return to;
}

int main(int argc, char** argv) {
  using namespace tracelet;
  const auto iterations = static_cast<rl::iteration_t>(argc > 1 ? std::atoll(argv[1]) : 4'000);
  if (!all_hold(iterations, std::cout)) return 1;
  Nowhere buffer;
  std::ostream nowhere(&buffer);
  const int failures = unnoticed(iterations, true, nowhere) + unnoticed(iterations, false, nowhere);
  std::cout << failures << " orders are weaker than the model can tell" << std::endl;
  return failures == 0 ? 0 : 1;
}
