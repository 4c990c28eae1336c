#include "tracelet/run_view.h"

#include <doctest/doctest.h>

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "test_support.h"

namespace tracelet {
namespace {

using testing::repeated;

std::shared_ptr<LoggedRun> make_run(std::uint64_t capacity = 1 << 12) {
  auto run = std::make_shared<LoggedRun>();
  run->file = RingFile::create("", capacity);
  return run;
}

std::string tag_of(int number) { return "tag " + std::to_string(number); }

// Logs a point under its name. False without a run; a closed or full ring counts as late.
template <typename View>
bool log_point(View& view, int number) {
  const std::string tag = tag_of(number);
  std::shared_ptr<LoggedRun> run;
  {
    typename View::Use use(view);
    if (!use) return false;
    Point point;
    point.kind = RecordKind::kScalar;
    point.tag_id = use.intern(static_cast<std::int64_t>(std::hash<std::string>{}(tag)), tag);
    point.value = number;
    if (use.ring().try_push(point)) return true;
    run = use.share();
  }
  run->count_after_end();
  return true;
}

// Whether each record of an ended run stands under the tag that it was logged with.
bool has_own_tags(LoggedRun& run, std::uint64_t* count) {
  const RecordSpan records = run.file->ring().committed(run.file->ring().capacity());
  *count += records.size;
  for (const Record& record : records) {
    if (run.file->tags().text(record.tag_id) != tag_of(static_cast<int>(record.value))) {
      return false;
    }
  }
  return true;
}

template <typename View, typename Mutex>
void check_runs_that_end_beside_calls(bool one_view_for_all) {
  const int threads = 6;
  const int runs = repeated(40);
  std::atomic<bool> is_over{false};
  std::atomic<std::uint64_t> logged{0};
  Mutex gil;  // of the views that one serves all threads
  View shared;
  std::vector<std::thread> loggers;
  for (int thread = 0; thread < threads; ++thread) {
    loggers.emplace_back([&, thread] {
      View own;
      View& view = one_view_for_all ? shared : own;
      for (int i = thread; !is_over; i = (i + threads) % 600) {
        const std::lock_guard lock(gil);
        if (log_point(view, i)) ++logged;
      }
    });
  }
  std::uint64_t accounted = 0;
  bool are_right = true;
  std::uint64_t late_before = 0;
  std::vector<std::shared_ptr<std::atomic<std::uint64_t>>> late;
  for (int i = 0; i < runs; ++i) {
    auto run = make_run();
    late.push_back(run->late_points);
    {
      const std::lock_guard lock(gil);
      set_logged_run(run);
    }
    while (run->file->ring().head() < 200) std::this_thread::yield();
    {
      const std::lock_guard lock(gil);
      set_logged_run(nullptr);
    }
    run->file->ring().close();
    // A thread that has it in use lets go at the end of that.
    while (run.use_count() > 1) std::this_thread::yield();
    are_right &= has_own_tags(*run, &accounted);
  }
  is_over = true;
  for (std::thread& logger : loggers) logger.join();
  for (const auto& each : late) late_before += *each;
  CHECK(are_right);
  CHECK(accounted + late_before == logged);
}

struct NoMutex {
  void lock() {}
  void unlock() {}
};

TEST_SUITE("run_view") {
  TEST_CASE("without a GIL: runs end beside calls, each point is in its run or counted") {
    check_runs_that_end_beside_calls<RunView<false>, NoMutex>(false);
  }

  TEST_CASE("with a GIL: one view serves all threads") {
    check_runs_that_end_beside_calls<RunView<true>, std::mutex>(true);
  }

  TEST_CASE("a thread that logs no more keeps no run that has ended") {
    auto run = make_run();
    set_logged_run(run);
    std::atomic<int> logged{0};
    std::atomic<bool> is_over{false};
    std::vector<std::thread> idle;
    for (int i = 0; i < 4; ++i) {
      idle.emplace_back([&] {
        RunView<false> view;
        log_point(view, 1);
        ++logged;
        while (!is_over) std::this_thread::yield();
        CHECK_FALSE(view.has_run());
      });
    }
    while (logged < 4) std::this_thread::yield();
    set_logged_run(nullptr);
    CHECK(run.use_count() == 1);
    is_over = true;
    for (std::thread& thread : idle) thread.join();
  }

  TEST_CASE("what was known of a run is void in the next one") {
    RunView<true> view;
    const int writer = 0;
    auto first = make_run();
    set_logged_run(first);
    {
      RunView<true>::Use use(view);
      CHECK(use.intern(5, "one") == 1);
      CHECK(use.intern(6, "two") == 2);
      use.add_writer(&writer, 2);
      CHECK(use.known_writer(&writer) == 2);
      CHECK(use.known_text(6, "two", 3) == 2);
      CHECK(use.known_text(6, "twi", 3) == 0);
    }
    auto second = make_run();
    set_logged_run(second);
    {
      RunView<true>::Use use(view);
      CHECK(use.known_writer(&writer) == 0);
      CHECK(use.known_text(6, "two", 3) == 0);
      CHECK(use.intern(6, "two") == 1);
      use.add_writer(&writer, 1);
    }
    forget_logged_writers();
    {
      RunView<true>::Use use(view);
      CHECK(use.known_writer(&writer) == 0);
      CHECK(use.known_text(6, "two", 3) == 1);
      CHECK(use.known_text(0, "", 0) == 0);
    }
    set_logged_run(nullptr);
    CHECK(second.use_count() == 1);
  }

  TEST_CASE("any number of writers is found, wherever they lie") {
    AddressIds ids;
    for (const std::size_t distance : {16, 64, 1024, 4096, 1 << 20}) {
      ids.clear();
      for (std::uint32_t i = 1; i <= 1000; ++i) {
        ids.add(reinterpret_cast<const void*>(i * distance), i);
      }
      bool are_found = true;
      for (std::uint32_t i = 1; i <= 1000; ++i) {
        are_found &= ids.find(reinterpret_cast<const void*>(i * distance)) == i;
      }
      CHECK(are_found);
      CHECK(ids.find(reinterpret_cast<const void*>(1001 * distance)) == 0);
    }
    ids.clear();
    CHECK(ids.find(reinterpret_cast<const void*>(16)) == 0);
  }
}

}  // namespace
}  // namespace tracelet
