#include "tracelet/ring_file.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>

#include "ring_support.h"
#include "test_support.h"

namespace tracelet {
namespace {

using testing::is_whole;
using testing::push;
using testing::read_bytes;
using testing::TempDir;
using testing::write_bytes;

constexpr std::size_t kCapacity = 64;
constexpr std::size_t kTagsOffset =
    kRingFileHeaderBytes + kCapacity * sizeof(Record) + RingFile::kLeastPayloadBytes;

// Fills a new ring file as a process that logs does.
void log_some(const std::string& path) {
  const auto file = RingFile::create(path, kCapacity);
  const std::uint32_t folder = file->tags().intern("runs/a");
  for (std::int64_t step = 0; step < 40; ++step) push(file->ring(), folder, step);
  file->ring().give_back(10);
  file->tags().intern("loss/" + std::string(3'000, 'x'));
}

// The bytes of a good file with `bytes` written over it at `offset`.
std::string with(std::string file, std::size_t offset, std::string_view bytes) {
  return file.replace(offset, bytes.size(), bytes);
}
template <typename T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

std::string refusal(const std::string& path) {
  try {
    RingFile::open(path);
  } catch (const std::runtime_error& error) {  // system_error is one
    return error.what();
  }
  return "";
}

TEST_SUITE("ring_file") {
  TEST_CASE("create: a file of its own, for the owner alone, with its space allocated") {
    TempDir dir;
    const mode_t old_mask = umask(0);
    const auto file = RingFile::create(dir.file("ring"), 1 << 14);
    umask(old_mask);
    CHECK(file->path() == dir.file("ring"));
    CHECK(file->ring().capacity() == 1 << 14);
    CHECK(file->ring().head() == 0);
    CHECK(file->ring().committed(1).size == 0);
    CHECK(file->tags().size() == 0);

    struct stat status;
    REQUIRE(stat(dir.file("ring").c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
    constexpr off_t kBytes = static_cast<off_t>(kRingFileHeaderBytes + (1 << 14) * sizeof(Record) +
                                                RingFile::kLeastPayloadBytes);
    CHECK(status.st_size == kBytes);
    CHECK(status.st_blocks * 512 >= kBytes);

    file->tags().intern("loss");
    REQUIRE(stat(dir.file("ring").c_str(), &status) == 0);
    CHECK(status.st_size > kBytes);
    CHECK(status.st_blocks * 512 >= status.st_size);
  }

#ifdef __linux__
  TEST_CASE("create without a path: anonymous memory, which works alike") {
    const auto file = RingFile::create("", kCapacity);
    push(file->ring(), file->tags().intern("runs/a"), 7);
    CHECK(file->ring().committed(kCapacity).size == 1);
    CHECK(file->tags().text(1) == "runs/a");
  }
#endif

  TEST_CASE("create refuses a file that exists, and leaves it alone") {
    TempDir dir;
    write_bytes(dir.file("ring"), "somebody's");
    try {
      RingFile::create(dir.file("ring"), 64);
      FAIL("no exception");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::file_exists);
    }
    CHECK(read_bytes(dir.file("ring")) == "somebody's");
  }

  TEST_CASE("create refuses a capacity that is no power of two, too small or beyond any memory") {
    TempDir dir;
    for (const std::uint64_t capacity :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{8}, std::uint64_t{17},
          std::uint64_t{1000}, std::uint64_t{1} << 58, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
      INFO("capacity ", capacity);
      CHECK_THROWS_AS(RingFile::create(dir.file("ring"), capacity), std::invalid_argument);
      CHECK_FALSE(std::filesystem::exists(dir.file("ring")));
    }
    RingFile::create(dir.file("ring"), 16);
  }

  TEST_CASE("create on a file system without room leaves nothing behind") {
    TempDir dir;
    const testing::FileSizeLimit limit(kTagsOffset - 1);
    CHECK_THROWS_AS(RingFile::create(dir.file("ring"), kCapacity), std::system_error);
    CHECK_FALSE(std::filesystem::exists(dir.file("ring")));
  }

  TEST_CASE("open reads the records and strings of a process that is gone") {
    TempDir dir;
    if (testing::kThreadSanitizer) {
      log_some(dir.file("ring"));
    } else {
      const pid_t child = testing::start_child([&] {
        log_some(dir.file("ring"));
        kill(getpid(), SIGKILL);
        return 1;
      });
      REQUIRE(testing::end_of_child(child) == -SIGKILL);
    }
    const auto file = RingFile::open(dir.file("ring"));
    CHECK(file->ring().capacity() == kCapacity);
    CHECK(file->ring().head() == 40);
    CHECK(file->ring().tail() == 10);
    const RecordSpan records = file->ring().committed(100);
    REQUIRE(records.size == 30);
    for (std::size_t i = 0; i < records.size; ++i) {
      CHECK(is_whole(records.data[i]));
      CHECK(records.data[i].step == static_cast<std::int64_t>(i) + 10);
      CHECK(records.data[i].tag_id == 1);
    }
    CHECK(file->tags().size() == 2);
    CHECK(file->tags().text(1) == "runs/a");
    CHECK((file->tags().text(2) == "loss/" + std::string(3'000, 'x')));

    // And may go on with it, while another one looks.
    const auto other = RingFile::open(dir.file("ring"));
    CHECK(push(other->ring(), 1, 40));
    CHECK(file->ring().committed(100).size == 31);
    CHECK(other->tags().intern("lr") == 3);
    CHECK(file->tags().text(3) == "lr");
  }

  TEST_CASE("open refuses what is no ring file, and says why") {
    TempDir dir;
    const std::string path = dir.file("ring");
    log_some(dir.file("good"));
    const std::string good = read_bytes(dir.file("good"));
    const auto refusal_of = [&](std::string_view bytes) {
      write_bytes(path, bytes);
      const std::string why = refusal(path);
      CHECK(why.find(path) != std::string::npos);
      return why;
    };
    const auto says = [](const std::string& why, std::string_view what) {
      INFO(why);
      CHECK(why.find(what) != std::string::npos);
    };

    CHECK(refusal(dir.file("nothing")).find("No such file") != std::string::npos);
    CHECK(refusal(dir.file("")).find(dir.file("")) != std::string::npos);
    says(refusal_of(std::string(100'000, 'x')), "not the ring");
    says(refusal_of(std::string(100'000, '\0')), "not the ring");
    says(refusal_of(with(good, 7, "X")), "not the ring");
    // Shorter than the header: the mapping has no page, or only part of one, behind it.
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8},
                                   std::size_t{12}, kRingFileHeaderBytes - 1}) {
      INFO("size ", size);
      says(refusal_of(good.substr(0, size)), "not the ring");
    }
    const std::uint32_t version = kRecordVersion + 1;
    says(refusal_of(with(good, 8, bytes_of(version))), "record version " + std::to_string(version));
    for (const std::size_t size : {kRingFileHeaderBytes, kRingFileHeaderBytes + 1,
                                   kTagsOffset - sizeof(Record), kTagsOffset - 1}) {
      INFO("size ", size);
      says(refusal_of(good.substr(0, size)), "shorter than its header says");
    }
    // Capacities whose size in bytes is none, or wraps around to a small one.
    for (const std::uint64_t capacity :
         {std::uint64_t{0}, std::uint64_t{63}, std::uint64_t{65}, std::uint64_t{1} << 40,
          std::uint64_t{1} << 58, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
      INFO("capacity ", capacity);
      says(refusal_of(with(good, 16, bytes_of(capacity))), "shorter than its header says");
    }
  }

  // As a copy of a file that was not copied whole. Reading the strings would be a SIGBUS.
  TEST_CASE("open refuses a file that is cut off within its strings") {
    TempDir dir;
    log_some(dir.file("good"));
    const std::string good = read_bytes(dir.file("good"));
    const std::size_t strings_end = kTagsOffset + 4 + 8 + 4 + 3'008;
    REQUIRE(good.size() >= strings_end);
    for (const std::size_t size : {kTagsOffset, kTagsOffset + 1, strings_end - 1}) {
      INFO("size ", size);
      write_bytes(dir.file("ring"), good.substr(0, size));
      CHECK(refusal(dir.file("ring")).find("shorter than its header says") != std::string::npos);
    }
    write_bytes(dir.file("ring"), good.substr(0, strings_end));
    const auto file = RingFile::open(dir.file("ring"));
    CHECK(file->tags().size() == 2);
    CHECK(file->tags().intern("lr") == 3);
  }

  // As after a power failure that let the header reach the disk, and not the strings.
  TEST_CASE("a string whose length can't be right ends the table") {
    TempDir dir;
    log_some(dir.file("ring"));
    const std::string good = read_bytes(dir.file("ring"));
    for (const std::uint32_t length : {3'009U, 100'000U, UINT32_MAX}) {
      INFO("length ", length);
      write_bytes(dir.file("ring"), with(good, kTagsOffset + 12, bytes_of(length)));
      const auto file = RingFile::open(dir.file("ring"));
      CHECK(file->tags().size() == 1);
      CHECK(file->tags().text(1) == "runs/a");
      CHECK(file->tags().text(2).empty());
      CHECK(file->tags().intern("runs/a") == 1);
      CHECK(file->tags().intern("new") == 0);
    }
  }
}

}  // namespace
}  // namespace tracelet
