// EVENT records in an EventFileSet: events built elsewhere, in the arena or in files; very many
// writers.
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "event_reader.h"
#include "test_support.h"
#include "tracelet/event_file.h"
#include "tracelet/event_file_set.h"
#include "tracelet/ring_file.h"

namespace tracelet {
namespace {

using testing::read_bytes;
using testing::span_of;
using testing::TempDir;
using testing::write_bytes;

// Records with their payloads, as a lease of the ring has them.
struct Batch {
  std::vector<Record> records;
  std::string payloads;

  void add(std::string_view payload, std::uint16_t flags = 0, std::uint32_t writer_id = 1) {
    Record record = testing::scalar(records.size() + 1, 1, 0);
    record.kind = RecordKind::kEvent;
    record.flags = flags;
    record.writer_id = writer_id;
    record.payload_offset = payloads.size();
    record.payload_size = payload.size();
    payloads.append(payload);
    records.push_back(record);
  }
  EventFileSet::Written write_to(EventFileSet& set) const {
    return set.write(span_of(records),
                     {reinterpret_cast<const std::byte*>(payloads.data()), payloads.size()});
  }
};

struct Run {
  TempDir dir;
  std::unique_ptr<RingFile> file = RingFile::create(dir.file("ring"), 16);
  EventFileSet set{&file->tags()};

  std::string path(std::uint32_t writer_id) const {
    return dir.file("events." + std::to_string(writer_id));
  }
  void open(std::uint32_t writer_id) { set.open(writer_id, path(writer_id), 1.5); }
  // What the records of a writer's file hold, behind the version's.
  std::vector<std::string> data(std::uint32_t writer_id) const {
    const std::string bytes = read_bytes(path(writer_id));
    const auto records = testing::tfrecords(bytes);
    REQUIRE(!records.empty());
    return {records.begin() + 1, records.end()};
  }
};

std::size_t open_file_count() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    count += entry.path().empty() ? 0 : 1;
  }
  return count;
}

using Data = std::vector<std::string>;

// Makes a socket: opening it fails with ENXIO, like a device that is away for a moment.
void listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  REQUIRE(path.size() < sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  REQUIRE(fd >= 0);
  REQUIRE(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  close(fd);
}

TEST_SUITE("event_file_events") {
  TEST_CASE("an event's bytes are written as they are, whatever they are") {
    Run run;
    run.open(1);
    const std::string zeros(1000, '\0');
    Batch batch;
    for (const std::string_view payload : {std::string_view("any"), std::string_view(zeros)})
      batch.add(payload);
    const auto written = batch.write_to(run.set);
    CHECK(written.count == 2);
    CHECK(written.unreadable == 0);
    CHECK(run.data(1) == Data{"any", zeros});
  }

  TEST_CASE("an event in a file, of any size, between others") {
    Run run;
    run.open(1);
    Batch batch;
    Data expected;
    // Sizes about that of the buffer, 256 KiB.
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{262'144 - 16},
                                   std::size_t{262'144}, std::size_t{3'000'000}}) {
      const std::string path = run.dir.file("event-" + std::to_string(size));
      std::string bytes(size, 'x');
      for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + i / 251);
      write_bytes(path, bytes);
      batch.add("before " + std::to_string(size));
      batch.add(path, kPayloadInFile);
      expected.insert(expected.end(), {"before " + std::to_string(size), bytes});
    }
    batch.add("last");
    expected.emplace_back("last");
    CHECK(batch.write_to(run.set).count == expected.size());
    CHECK(run.data(1) == expected);
  }

  TEST_CASE("an event whose file is gone is counted, and the others are whole") {
    Run run;
    run.open(1);
    write_bytes(run.dir.file("there"), "there");
    Batch batch;
    batch.add("first");
    batch.add(run.dir.file("gone"), kPayloadInFile);
    batch.add(run.dir.file(""), kPayloadInFile);  // a folder
    batch.add(run.dir.file("there"), kPayloadInFile);
    batch.add("");
    batch.add("last");
    batch.records[5].payload_offset += 1;  // beyond what there is, by a byte
    batch.add("");
    const auto written = batch.write_to(run.set);
    CHECK(written.unreadable == 3);
    CHECK(written.count == 4);
    CHECK(run.data(1) == Data{"first", "there", "", ""});
  }

  TEST_CASE("an event whose file can't be opened now is given again, and none behind it is lost") {
    Run run;
    run.open(1);
    const std::string path = run.dir.file("there");
    listen_at(path);  // which can be opened by no one
    Batch batch;
    batch.add("first");
    batch.add(path, kPayloadInFile);
    batch.add("last");
    for (int tries = 0; tries < 7; ++tries) {
      CHECK_THROWS_AS(batch.write_to(run.set), std::system_error);
    }
    std::filesystem::remove(path);
    write_bytes(path, "there");
    CHECK(run.data(1) == Data{"first"});
    const auto written = batch.write_to(run.set);
    CHECK(written.unreadable == 0);
    CHECK(written.count == 3);
    CHECK(run.data(1) == Data{"first", "there", "last"});
  }

  TEST_CASE("a path is only what is marked as one") {
    Run run;
    run.open(1);
    write_bytes(run.dir.file("event"), "the file's");
    Batch batch;
    batch.add(run.dir.file("event"));
    CHECK(batch.write_to(run.set).count == 1);
    CHECK(run.data(1) == Data{run.dir.file("event")});
  }

  TEST_CASE("a full disk takes back an event of a file as well") {
    Run run;
    run.open(1);
    const std::string bytes(500'000, 'x');
    write_bytes(run.dir.file("event"), bytes);
    Batch batch;
    batch.add("first");
    batch.add(run.dir.file("event"), kPayloadInFile);
    batch.add("last");
    {
      const testing::FileSizeLimit limit(300'000);
      CHECK_THROWS_AS(batch.write_to(run.set), std::system_error);
    }
    CHECK(run.data(1).size() <= 1);
    CHECK(batch.write_to(run.set).count == 3);
    CHECK(run.data(1) == Data{"first", bytes, "last"});
  }

  TEST_CASE("a file that can't be written holds back no other, before or after it") {
    Run run;
    for (const std::uint32_t id : {1U, 2U, 3U}) run.open(id);
    const std::string large(200'000, 'x');
    Batch batch;
    for (int i = 0; i < 4; ++i) {  // of several buffers
      batch.add("small " + std::to_string(i), 0, 1);
      batch.add(large, 0, 2);
      batch.add("small " + std::to_string(i), 0, 3);
    }
    const Data small{"small 0", "small 1", "small 2", "small 3"};
    for (int tries = 0; tries < 2; ++tries) {
      const testing::FileSizeLimit limit(100'000);
      CHECK_THROWS_AS(batch.write_to(run.set), std::system_error);
      CHECK(run.data(1) == small);
      CHECK(run.data(2).empty());
      CHECK(run.data(3) == small);
    }
    CHECK(batch.write_to(run.set).count == 12);
    CHECK(run.data(1) == small);
    CHECK(run.data(2) == Data(4, large));
    CHECK(run.data(3) == small);
  }

  TEST_CASE("more writers than files may be open") {
    constexpr std::uint32_t kWriters = 3 * EventFileSet::kMostOpenFiles + 7;
    Run run;
    const std::size_t before = open_file_count();
    for (std::uint32_t id = 1; id <= kWriters; ++id) run.open(id);
    CHECK(open_file_count() - before == EventFileSet::kMostOpenFiles);
    Batch batch;
    std::vector<Data> expected(kWriters + 1);
    for (int round = 0; round < 3; ++round) {
      for (std::uint32_t id = 1; id <= kWriters; ++id) {
        // Not each in each round, so that the order of use differs from that of the ids.
        if ((id + static_cast<std::uint32_t>(round)) % 3 == 0) continue;
        expected[id].push_back(std::to_string(id) + " in " + std::to_string(round));
        batch.add(expected[id].back(), 0, id);
      }
      CHECK(batch.write_to(run.set).count == batch.records.size());
      CHECK(open_file_count() - before == EventFileSet::kMostOpenFiles);
    }
    for (std::uint32_t id = 1; id <= kWriters; ++id) REQUIRE(run.data(id) == expected[id]);
    run.set.close();
    CHECK(open_file_count() == before);
  }

  TEST_CASE("a file that was removed while it was closed begins anew, with its folder") {
    constexpr std::uint32_t kWriters = EventFileSet::kMostOpenFiles + 1;
    Run run;
    std::filesystem::create_directories(run.dir.file("removed"));
    const std::string path = run.dir.file("removed/events");
    run.set.open(1, path, 1.5);
    for (std::uint32_t id = 2; id <= kWriters; ++id) run.open(id);  // the first is closed
    std::filesystem::remove_all(run.dir.file("removed"));
    Batch batch;
    batch.add("later", 0, 1);
    batch.add("other", 0, 2);
    CHECK(batch.write_to(run.set).count == 2);
    CHECK(read_bytes(path).starts_with(version_event(1.5)));
    CHECK(testing::tfrecords(read_bytes(path)).size() == 2);
    CHECK(run.data(2) == Data{"other"});
  }

  TEST_CASE("a header that finds no room comes first once there is some") {
    Run run;
    {
      const testing::FileSizeLimit limit(10);
      CHECK_THROWS_AS(run.open(1), std::system_error);
    }
    CHECK(read_bytes(run.path(1)).empty());
    run.open(1);
    CHECK(read_bytes(run.path(1)) == version_event(1.5));
  }

  TEST_CASE("files that can't be opened don't use up the room for open ones") {
    Run run;
    const std::size_t before = open_file_count();
    for (std::uint32_t id = 1; id <= 2 * EventFileSet::kMostOpenFiles; ++id) {
      CHECK_THROWS_AS(run.set.open(id, "/dev/full", 1.5), std::system_error);
      CHECK_THROWS_AS(run.set.open(id, run.dir.file("no/folder"), 1.5), std::system_error);
    }
    CHECK(open_file_count() == before);
    run.open(1);
    Batch batch;
    batch.add("event");
    CHECK(batch.write_to(run.set).count == 1);
  }

  TEST_CASE("a file's content is appended, or nothing is") {
    TempDir dir;
    write_bytes(dir.file("event"), "content");
    std::string out = "before";
    CHECK(append_event_from_file(dir.file("event"), out));
    CHECK(out.starts_with("before"));
    CHECK(testing::tfrecords(std::string_view(out).substr(6)) ==
          std::vector<std::string_view>{"content"});
    const std::string kept = out;
    CHECK_FALSE(append_event_from_file(dir.file("gone"), out));
    CHECK(out == kept);
  }
}

}  // namespace
}  // namespace tracelet
