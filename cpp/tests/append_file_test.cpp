#include "tracelet/append_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <system_error>
#include <thread>

#include "test_support.h"

namespace tracelet {
namespace {

using testing::FileSizeLimit;
using testing::read_bytes;
using testing::TempDir;
using testing::write_bytes;

TEST_SUITE("append_file") {
  TEST_CASE("pieces are appended to what the file holds") {
    TempDir dir;
    write_bytes(dir.file("log"), "old ");
    {
      AppendFile file(dir.file("log"));
      file.append("one ");
      file.append("");
      file.append("two ");
      AppendFile moved(std::move(file));
      CHECK(moved.path() == dir.file("log"));
      moved.append("three");
    }
    CHECK(read_bytes(dir.file("log")) == "old one two three");
  }

  TEST_CASE("two writers of one file land behind each other, never on each other") {
    TempDir dir;
    AppendFile first(dir.file("log"));
    AppendFile second(dir.file("log"));
    first.append("a\n");
    second.append("b\n");
    first.append("c\n");
    CHECK(read_bytes(dir.file("log")) == "a\nb\nc\n");
  }

  TEST_CASE("a file that can't be opened is an error that names it") {
    TempDir dir;
    const std::string path = dir.file("no/such/folder");
    try {
      AppendFile file(path);
      FAIL("no exception");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::no_such_file_or_directory);
      CHECK(std::string(error.what()).find(path) != std::string::npos);
    }
  }

  TEST_CASE("a piece that can't be written whole is taken back, and may be tried again") {
    TempDir dir;
    AppendFile file(dir.file("log"));
    const std::string piece(1000, 'x');
    file.append(piece);
    {
      // The system takes 500 bytes of the piece before it refuses the rest.
      const FileSizeLimit limit(1500);
      try {
        file.append(piece);
        FAIL("no exception");
      } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::file_too_large);
        CHECK(std::string(error.what()).find(file.path()) != std::string::npos);
      }
      CHECK(read_bytes(file.path()) == piece);
    }
    file.append(piece);
    CHECK(read_bytes(file.path()) == piece + piece);
  }

#if defined(__linux__)
  TEST_CASE("nothing is appended behind a torn piece that can't be taken back") {
    // A file that nobody may cut.
    const int fd = memfd_create("log", MFD_ALLOW_SEALING);
    REQUIRE(fd >= 0);
    REQUIRE(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    AppendFile file(path);
    file.append(std::string(999, 'x') + "\n");
    const std::string piece = std::string(999, 'y') + "\n";
    const FileSizeLimit unlimited(1 << 20);
    {
      const FileSizeLimit limit(1500);
      CHECK_THROWS_AS(file.append(piece), std::system_error);
    }
    CHECK(read_bytes(path).size() == 1500);
    CHECK_THROWS_AS(file.append(piece), std::system_error);
    CHECK(read_bytes(path).size() == 1500);
    // Once another writer has a line behind it, blanks take its place.
    AppendFile(path).append("{}\n");
    file.append(piece);
    const std::string blanks(500, ' ');
    CHECK(read_bytes(path) == std::string(999, 'x') + "\n" + blanks + "{}\n" + piece);
    close(fd);
  }
#endif

  TEST_CASE("a piece ends where it was written, whoever appended behind it") {
    TempDir dir;
    AppendFile first(dir.file("log"));
    AppendFile second(dir.file("log"));
    CHECK(second.append("bb\n") == 3);
    CHECK(first.append("a\n") == 5);
    CHECK(second.append("b\n") == 7);
    CHECK(first.append("") == 7);
  }

  TEST_CASE("a device that is full") {
    AppendFile file("/dev/full");
    try {
      file.append("x");
      FAIL("no exception");
    } catch (const std::system_error& error) {
      CHECK(error.code() == std::errc::no_space_on_device);
    }
  }

  TEST_CASE("a line behind one that a death has torn is a line of its own") {
    TempDir dir;
    const std::string whole = "[{\"iter\":1}]\n";
    const std::string torn(200'000, 'x');  // more than is looked at at once
    for (const std::string& before : {std::string(), whole}) {
      write_bytes(dir.file("log"), before + torn);
      AppendFile file(dir.file("log"));
      const std::size_t end = before.size() + torn.size() + whole.size();
      CHECK(file.append_line(whole) == end);
      CHECK(read_bytes(dir.file("log")) == before + std::string(torn.size(), ' ') + whole);
      CHECK(file.append_line(whole) == end + whole.size());
      CHECK(read_bytes(dir.file("log")).substr(end) == whole);
    }
  }

  TEST_CASE("of a shared file nothing is cut off: what is torn becomes blanks") {
    TempDir dir;
    AppendFile file(dir.file("log"));
    const std::string line = std::string(999, 'x') + "\n";
    file.append_line(line);
    {
      const FileSizeLimit limit(1500);
      CHECK_THROWS_AS(file.append_line(line), std::system_error);
    }
    CHECK(read_bytes(file.path()) == line + std::string(500, ' '));
    file.append_line(line);
    CHECK(read_bytes(file.path()) == line + std::string(500, ' ') + line);
  }

  TEST_CASE("wait_for_whole_line waits for another writer's line end, but not for ever") {
    TempDir dir;
    AppendFile file(dir.file("log"));
    using std::chrono::steady_clock;

    auto start = steady_clock::now();
    file.wait_for_whole_line();  // an empty file
    file.append("whole\n");
    file.wait_for_whole_line();
    CHECK(testing::seconds_since(start) < 0.005);

    file.append("torn");
    start = steady_clock::now();
    file.wait_for_whole_line();
    CHECK(testing::seconds_since(start) > 0.009);
    CHECK(testing::seconds_since(start) < testing::kVeryLong.count());

    // The other writer ends its line in the meantime.
    bool line_was_whole = false;
    for (int tries = 0; tries < 50 && !line_was_whole; ++tries) {
      std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        AppendFile(file.path()).append("\n");
      });
      file.wait_for_whole_line();
      line_was_whole = read_bytes(file.path()).back() == '\n';
      other.join();
      if (!line_was_whole) file.append("torn");  // this machine was too slow: once more
    }
    CHECK(line_was_whole);
  }
}

}  // namespace
}  // namespace tracelet
