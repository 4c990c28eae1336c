#include "tracelet/tag_table.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "test_support.h"

namespace tracelet {
namespace {

using namespace std::chrono_literals;
using namespace std::string_view_literals;
using std::chrono::steady_clock;
using testing::end_of_child;
using testing::kVeryLong;
using testing::seconds_since;
using testing::start_child;
using testing::TempDir;

constexpr std::size_t kOffsetBytes = 4096;
constexpr std::size_t kMiB = std::size_t{1} << 20;

// One mapping of a file with a table in it, as a process has it.
struct Table {
  explicit Table(MappedFile mapped)
      : file(std::move(mapped)),
        state(reinterpret_cast<TagTableState*>(file.data())),
        tags(state, &file, kOffsetBytes) {}
  static std::unique_ptr<Table> create(const TempDir& dir, std::size_t reserved = 256 * kMiB) {
    return std::make_unique<Table>(MappedFile::create(dir.file("tags"), kOffsetBytes, reserved));
  }
  static std::unique_ptr<Table> open(const TempDir& dir, std::size_t reserved = 256 * kMiB) {
    return std::make_unique<Table>(MappedFile::open(dir.file("tags"), reserved));
  }

  MappedFile file;
  TagTableState* state;
  TagTable tags;
};

std::string random_text(std::mt19937_64& random, std::size_t longest) {
  std::string text(random() % (longest + 1), '\0');
  for (char& byte : text) byte = static_cast<char>(random());
  return text;
}

TEST_SUITE("tag_table") {
  TEST_CASE("ids count up from 1, and a string keeps its id") {
    TempDir dir;
    const auto table = Table::create(dir);
    TagTable& tags = table->tags;
    CHECK(tags.size() == 0);
    CHECK(tags.intern("loss") == 1);
    CHECK(tags.intern("") == 2);
    CHECK(tags.intern("loss") == 1);
    CHECK(tags.intern("los") == 3);
    CHECK(tags.intern("losses") == 4);
    CHECK(tags.intern("") == 2);
    CHECK(tags.size() == 4);
    CHECK(tags.text(1) == "loss");
    CHECK(tags.text(2) == "");
    CHECK(tags.text(3) == "los");
    CHECK(tags.text(4) == "losses");
    CHECK(tags.text(0) == "");
    CHECK(tags.text(5) == "");
    CHECK(tags.text(UINT32_MAX) == "");
  }

  TEST_CASE("any bytes: NUL, UTF-8, what is no UTF-8, 40,000 characters") {
    TempDir dir;
    const auto table = Table::create(dir);
    const std::string long_text(40'000, 'x');
    const std::vector<std::string_view> texts = {"a\0b"sv,          "a"sv,        "a\0"sv,  "\0"sv,
                                                 "größe/损失/🙂"sv, "\xff\xfe"sv, long_text};
    for (std::uint32_t i = 0; i < texts.size(); ++i) CHECK(table->tags.intern(texts[i]) == i + 1);
    for (std::uint32_t i = 0; i < texts.size(); ++i) {
      CHECK(table->tags.text(i + 1) == texts[i]);
      CHECK(table->tags.intern(texts[i]) == i + 1);
    }
  }

  TEST_CASE("the format: a 32-bit length, the bytes, padded to 4") {
    TempDir dir;
    const auto table = Table::create(dir);
    table->tags.intern("abcde");
    table->tags.intern("");
    table->tags.intern("wxyz");
    const std::string_view bytes(reinterpret_cast<char*>(table->file.data() + kOffsetBytes), 24);
    CHECK(bytes == "\x05\0\0\0abcde\0\0\0\0\0\0\0\x04\0\0\0wxyz"sv);
    CHECK(table->state->used_bytes.load() == 24);
  }

  TEST_CASE("100,000 strings: the file grows, and no string moves") {
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    TempDir dir;
    const auto table = Table::create(dir);
    std::vector<std::string> texts;
    std::vector<const char*> places;
    for (std::uint32_t i = 0; i < 100'000; ++i) {
      texts.push_back(std::to_string(i) + "/" + random_text(random, 60));
      REQUIRE(table->tags.intern(texts.back()) == i + 1);
      places.push_back(table->tags.text(i + 1).data());
    }
    CHECK(table->tags.size() == 100'000);
    CHECK(table->file.size_bytes() > 3 * kMiB);
    CHECK(table->file.size_bytes() < 8 * kMiB);
    const auto other = Table::open(dir);
    for (std::uint32_t i = 0; i < 100'000; ++i) {
      REQUIRE(table->tags.text(i + 1) == texts[i]);
      REQUIRE(table->tags.text(i + 1).data() == places[i]);
      REQUIRE(other->tags.text(i + 1) == texts[i]);
      REQUIRE(other->tags.intern(texts[i]) == i + 1);
    }
  }

  TEST_CASE("any strings, interned through either of two mappings: as a map") {
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    TempDir dir;
    const std::unique_ptr<Table> tables[] = {Table::create(dir), Table::open(dir)};
    std::map<std::string, std::uint32_t> ids;
    std::vector<std::string> texts;
    for (int tries = 0; tries < testing::repeated(30'000); ++tries) {
      TagTable& tags = tables[random() % 2]->tags;
      const std::string text =
          random() % 100 == 0 ? random_text(random, 5'000) : random_text(random, 2);
      const auto [known, is_new] = ids.emplace(text, texts.size() + 1);
      if (is_new) texts.push_back(text);
      REQUIRE(tags.intern(text) == known->second);
      const std::size_t any = random() % texts.size();
      REQUIRE(tables[random() % 2]->tags.text(static_cast<std::uint32_t>(any + 1)) == texts[any]);
    }
    for (const auto& table : tables) CHECK(table->tags.size() == texts.size());
  }

  TEST_CASE("eight threads, two mappings: each string gets one id, and ids stay dense") {
    constexpr std::size_t kStrings = 3'000;
    TempDir dir;
    const std::unique_ptr<Table> tables[] = {Table::create(dir), Table::open(dir)};
    std::vector<std::vector<std::uint32_t>> ids(8, std::vector<std::uint32_t>(kStrings));
    std::vector<std::thread> threads;
    std::atomic<std::uint64_t> wrong = 0;
    for (std::size_t thread = 0; thread < 8; ++thread) {
      threads.emplace_back([&, thread] {
        TagTable& tags = tables[thread % 2]->tags;
        std::vector<std::size_t> order(kStrings);
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::shuffle(order.begin(), order.end(), std::mt19937_64(thread));
        for (const std::size_t i : order) {
          const std::string text = "tag/" + std::to_string(i);
          ids[thread][i] = tags.intern(text);
          if (tags.text(ids[thread][i]) != text) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong.load() == 0);
    for (std::size_t thread = 1; thread < 8; ++thread) CHECK(ids[thread] == ids[0]);
    std::sort(ids[0].begin(), ids[0].end());
    for (std::size_t i = 0; i < kStrings; ++i) REQUIRE(ids[0][i] == i + 1);
    for (const auto& table : tables) CHECK(table->tags.size() == kStrings);
  }
}

// ThreadSanitizer knows one process.
const auto kNeedsFork = doctest::skip(testing::kThreadSanitizer);

TEST_SUITE("tag_table") {
  TEST_CASE("parent and children see each other's strings" * kNeedsFork) {
    TempDir dir;
    const auto table = Table::create(dir);
    REQUIRE(table->tags.intern("parent") == 1);
    const pid_t child = start_child([&] {
      table->tags.after_fork_in_child();
      const bool good = table->tags.text(1) == "parent" && table->tags.intern("child") == 2 &&
                        table->tags.intern("parent") == 1 && table->tags.size() == 2;
      return good ? 0 : 1;
    });
    REQUIRE(end_of_child(child) == 0);
    CHECK(table->tags.text(2) == "child");
    CHECK(table->tags.intern("child") == 2);
    CHECK(table->tags.intern("next") == 3);

    std::vector<pid_t> children;
    for (int number = 0; number < 4; ++number) {
      children.push_back(start_child([&] {
        table->tags.after_fork_in_child();
        for (int i = 0; i < 2'000; ++i) table->tags.intern("tag/" + std::to_string(i));
        return 0;
      }));
    }
    for (int i = 2'000; i-- > 0;) table->tags.intern("tag/" + std::to_string(i));
    for (const pid_t each : children) CHECK(end_of_child(each) == 0);
    CHECK(table->tags.size() == 2'003);
  }

  TEST_CASE("the lock of a process that died is taken over" * kNeedsFork) {
    TempDir dir;
    const auto table = Table::create(dir);
    table->tags.intern("before");
    SUBCASE("and was waited for") {
      const pid_t child = start_child([] { return 0; });
      REQUIRE(end_of_child(child) == 0);
      table->state->lock_pid = static_cast<std::uint32_t>(child);
    }
    SUBCASE("and was not waited for yet") {
      // A worker that the kernel killed, while the parent's main thread logs: nobody reaps it.
      const pid_t child = start_child([] { return 0; });
      siginfo_t ended{};
      REQUIRE(waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT) == 0);
      table->state->lock_pid = static_cast<std::uint32_t>(child);
    }
    const pid_t dead = static_cast<pid_t>(table->state->lock_pid.load());
    std::atomic<bool> is_done = false;
    std::thread user([&] {
      CHECK(table->tags.intern("after") == 2);
      is_done = true;
    });
    const auto start = steady_clock::now();
    while (!is_done && seconds_since(start) < kVeryLong.count() / 2) {
      std::this_thread::sleep_for(1ms);
    }
    CHECK(is_done.load());
    waitpid(dead, nullptr, WNOHANG);  // a zombie's pid is free now: the thread ends in any case
    user.join();
    CHECK(table->state->lock_pid.load() == 0);
  }

  TEST_CASE("the lock of a living process is waited for") {
    TempDir dir;
    const auto table = Table::create(dir);
    table->state->lock_pid = static_cast<std::uint32_t>(getpid());
    std::atomic<std::uint32_t> id = 0;
    std::thread user([&] { id = table->tags.intern("loss"); });
    std::this_thread::sleep_for(50ms);
    CHECK(id.load() == 0);
    table->state->lock_pid = 0;
    user.join();
    CHECK(id.load() == 1);
  }

  TEST_CASE("no room in the address space: 0, and what is there stays") {
    TempDir dir;
    const auto table = Table::create(dir, 2 * kMiB);
    const std::string long_text(kMiB - 100, 'x');
    CHECK(table->tags.intern("loss") == 1);
    CHECK(table->tags.intern(long_text + "1") == 2);
    CHECK(table->tags.intern(long_text + "2") == 0);
    CHECK(table->tags.intern(std::string(3 * kMiB, 'y')) == 0);
    CHECK(table->tags.size() == 2);
    CHECK(table->tags.text(2) == long_text + "1");
    CHECK(table->tags.intern("loss") == 1);
    CHECK(table->tags.intern("a short one") == 3);
    CHECK(table->file.size_bytes() <= 2 * kMiB);
    // To the brim.
    std::uint32_t last = 3;
    for (std::uint32_t id; (id = table->tags.intern(std::to_string(last))) != 0;) {
      REQUIRE(id == ++last);
    }
    CHECK(table->tags.size() == last);
    CHECK(kOffsetBytes + table->state->used_bytes <= 2 * kMiB);
    CHECK(kOffsetBytes + table->state->used_bytes > 2 * kMiB - 16);
  }

  TEST_CASE("no room on the file system: 0, and a string fits again when there is") {
    TempDir dir;
    const auto table = Table::create(dir);
    CHECK(table->tags.intern("loss") == 1);
    const std::string long_text(2 * kMiB, 'x');
    {
      const testing::FileSizeLimit limit(2 * kMiB);
      CHECK(table->tags.intern(long_text) == 0);
      CHECK(table->tags.intern("lr") == 2);
    }
    CHECK(table->tags.size() == 2);
    CHECK(table->tags.intern(long_text) == 3);
    CHECK(table->tags.text(3) == long_text);
  }
}

}  // namespace
}  // namespace tracelet
