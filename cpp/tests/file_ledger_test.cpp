#include "tracelet/file_ledger.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

#include "test_support.h"
#include "tracelet/event_file.h"
#include "tracelet/event_file_set.h"
#include "tracelet/ring_file.h"

namespace tracelet {
namespace {

using testing::FileSizeLimit;
using testing::read_bytes;
using testing::scalar;
using testing::span_of;
using testing::TempDir;
using testing::write_bytes;

TEST_SUITE("file_ledger") {
  TEST_CASE("a ledger gives back what was acknowledged last") {
    TempDir dir;
    {
      const auto ledger = FileLedger::create(dir.file("ledger"));
      const std::size_t a = ledger->add(7, "/logs/a", 0);
      const std::size_t b = ledger->add(8, "/logs/a folder with a long name/b", 41);
      ledger->acknowledge(a, 100, 3);
      ledger->acknowledge(a, 250, 9);
      ledger->acknowledge(b, 60, 44);
      ledger->acknowledge(b, 61, 45);
      ledger->acknowledge(b, 62, 46);
      ledger->add(9, "", 5);
    }
    const auto entries = FileLedger::open(dir.file("ledger"))->entries();
    REQUIRE(entries.size() == 3);
    CHECK(entries[0].writer_id == 7);
    CHECK(entries[0].path == "/logs/a");
    CHECK(entries[0].size_bytes == 250);
    CHECK(entries[0].sequence == 9);
    CHECK(entries[1].path == "/logs/a folder with a long name/b");
    CHECK(entries[1].size_bytes == 62);
    CHECK(entries[1].sequence == 46);
    CHECK(entries[2].path.empty());
    CHECK(entries[2].size_bytes == 0);
    CHECK(entries[2].sequence == 5);
  }

  TEST_CASE("a ledger grows, and is gone on with by another process") {
    TempDir dir;
    const std::string path = dir.file("ledger");
    const std::string name(300, 'x');
    for (int round = 0; round < 2; ++round) {
      const auto ledger = round == 0 ? FileLedger::create(path) : FileLedger::open(path);
      for (std::uint32_t i = 0; i < 1000; ++i) {
        ledger->acknowledge(ledger->add(i, name + std::to_string(i), 0), i, 2 * i);
      }
    }
    const auto entries = FileLedger::open(path)->entries();
    REQUIRE(entries.size() == 2000);
    CHECK(entries[1999].path == name + "999");
    CHECK(entries[1999].sequence == 1998);
  }

  TEST_CASE("a full file system is an error of the call, and what was there stays") {
    TempDir dir;
    const auto ledger = FileLedger::create(dir.file("ledger"));
    ledger->add(1, "first", 0);
    {
      const FileSizeLimit limit(1 << 16);
      CHECK_THROWS_AS(ledger->add(2, std::string(1 << 16, 'x'), 0), std::system_error);
    }
    CHECK(ledger->entries().size() == 1);
  }

  TEST_CASE("no ledger is refused, a damaged one is read as far as it makes sense") {
    TempDir dir;
    const std::string path = dir.file("ledger");
    {
      const auto ledger = FileLedger::create(path);
      ledger->add(1, "first", 0);
      ledger->add(2, "second", 0);
    }
    std::string bytes = read_bytes(path);
    CHECK(!FileLedger::open(path)->is_damaged());
    // path_bytes of the second entry: behind the header (24), an entry (80), its path (8), an id.
    bytes.replace(24 + 80 + 8 + 4, 4, "\xff\xff\xff\x7f");
    write_bytes(path, bytes);
    CHECK(FileLedger::open(path)->entries().size() == 1);
    CHECK(FileLedger::open(path)->is_damaged());
    bytes.replace(0, 8, "SOMETHIN");
    write_bytes(path, bytes);
    CHECK(FileLedger::open(path)->entries().size() == 1);  // it has a checksum of its own
    write_bytes(path, "SOMETHING ELSE, AND LONGER THAN A HEADER");
    CHECK_THROWS_AS(FileLedger::open(path), DamagedLedgerError);
    write_bytes(path, "");
    CHECK_THROWS(FileLedger::open(path));
  }

  TEST_CASE("a flipped bit costs an acknowledgement or an entry, and makes no other of it") {
    TempDir dir;
    const std::string path = dir.file("ledger");
    {
      const auto ledger = FileLedger::create(path);
      const std::size_t a = ledger->add(1, "/first", 0);
      const std::size_t b = ledger->add(2, "/second", 7);
      ledger->acknowledge(a, 100, 10);
      ledger->acknowledge(a, 200, 20);
      ledger->acknowledge(b, 300, 30);
    }
    const std::string good = read_bytes(path);
    for (std::size_t bit = 12 * 8; bit < (24 + 2 * 88) * 8; ++bit) {
      std::string bytes = good;
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
      write_bytes(path, bytes);
      const auto ledger = FileLedger::open(path);
      const auto entries = ledger->entries();
      CAPTURE(bit);
      CHECK(entries.size() + (ledger->is_damaged() ? 1 : 0) >= 2);
      for (const auto& entry : entries) {
        const bool is_first = entry.writer_id == 1 && entry.path == "/first";
        const bool is_second = entry.writer_id == 2 && entry.path == "/second";
        CHECK((is_first || is_second));
        const bool is_state = is_first ? (entry.size_bytes == 200 && entry.sequence == 20) ||
                                             (entry.size_bytes == 100 && entry.sequence == 10)
                                       : (entry.size_bytes == 300 && entry.sequence == 30) ||
                                             (entry.size_bytes == 0 && entry.sequence == 7);
        CHECK(is_state);
      }
    }
  }

  TEST_CASE("an entry both of whose states are damaged is of unknown size, none of no size") {
    TempDir dir;
    const std::string path = dir.file("ledger");
    {
      const auto ledger = FileLedger::create(path);
      const std::size_t a = ledger->add(1, "/first", 0);
      ledger->acknowledge(a, 100, 10);
    }
    std::string bytes = read_bytes(path);
    bytes[24 + 16] ^= 1;
    bytes[24 + 16 + 32] ^= 1;
    write_bytes(path, bytes);
    const auto ledger = FileLedger::open(path);
    REQUIRE(ledger->entries().size() == 1);
    CHECK(ledger->entries()[0].size_bytes == FileLedger::kUnknownSize);
    CHECK(ledger->entries()[0].sequence == 0);
    CHECK(ledger->is_damaged());
    ledger->acknowledge(ledger->entries()[0].place, 5, 6);
    CHECK(ledger->entries()[0].size_bytes == 5);
  }

  TEST_CASE("a ledger whose number of used bytes is damaged is gone on with behind its entries") {
    TempDir dir;
    const std::string path = dir.file("ledger");
    {
      const auto ledger = FileLedger::create(path);
      ledger->acknowledge(ledger->add(1, "one", 0), 10, 1);
      ledger->acknowledge(ledger->add(2, "two", 0), 20, 2);
    }
    const std::string good = read_bytes(path);
    // None, too few, not a multiple of 8, behind the file's end, and such that adding wraps.
    for (const std::uint64_t used :
         {std::uint64_t{0}, std::uint64_t{24}, std::uint64_t{0x247c4}, std::uint64_t{1} << 40,
          ~std::uint64_t{0} - 7, ~std::uint64_t{0}}) {
      CAPTURE(used);
      std::string bad = good;
      std::memcpy(bad.data() + 16, &used, sizeof(used));
      write_bytes(path, bad);
      {
        const auto ledger = FileLedger::open(path);
        CHECK(ledger->is_damaged());
        ledger->acknowledge(ledger->add(3, "three", 0), 30, 3);
      }
      const auto entries = FileLedger::open(path)->entries();
      REQUIRE(entries.size() == 3);
      for (std::size_t n = 0; n < 3; ++n) CHECK(entries[n].size_bytes == 10 * (n + 1));
      CHECK(entries[2].path == "three");
      CHECK(!FileLedger::open(path)->is_damaged());
    }
  }

  TEST_CASE("a ledger of version 1 is read and gone on with, one of a later version refused") {
    TempDir dir;
    const std::string path = dir.file("ledger");
    std::string bytes("TRCLLDGR\1\0\0\0\0\0\0\0", 16);
    const auto put = [&](auto value) {
      bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    put(std::uint64_t{24 + 48 + 8});
    put(std::uint32_t{7});
    put(std::uint32_t{2});
    for (const std::uint64_t word : {1, 100, 10, 200, 20}) put(word);
    bytes += std::string("/a\0\0\0\0\0\0", 8) + std::string(100, '\0');
    write_bytes(path, bytes);
    for (int round = 0; round < 2; ++round) {
      const auto ledger = FileLedger::open(path);
      REQUIRE(ledger->entries().size() == 1);
      const auto entry = ledger->entries()[0];
      CHECK(entry.writer_id == 7);
      CHECK(entry.path == "/a");
      CHECK(entry.size_bytes == 200U + static_cast<unsigned>(round));
      ledger->acknowledge(entry.place, 201, 21);
    }
    bytes[8] = 4;
    write_bytes(path, bytes);
    CHECK_THROWS_WITH_AS(FileLedger::open(path), doctest::Contains("newer version"),
                         std::runtime_error);
  }

  TEST_CASE("counts, and what is not certain because a state is damaged") {
    TempDir dir;
    const std::string path = dir.file("ledger");
    {
      const auto ledger = FileLedger::create(path);
      const std::size_t a = ledger->add(1, "/first", 0);
      ledger->acknowledge(a, 100, 10, 7);
      ledger->acknowledge(a, 200, 20, 13);
      ledger->sync();
    }
    const std::string good = read_bytes(path);
    {
      const auto entry = FileLedger::open(path)->entries().at(0);
      CHECK(entry.count == 13);
      CHECK(entry.is_certain);
    }
    for (const std::size_t state : {std::size_t{0}, std::size_t{1}}) {
      std::string bytes = good;
      bytes[24 + 16 + 32 * state + 28] ^= 1;  // its count
      write_bytes(path, bytes);
      const auto entry = FileLedger::open(path)->entries().at(0);
      CHECK(!entry.is_certain);
      CHECK((entry.count == 7 || entry.count == 13));
    }
  }

  TEST_CASE("whole entries are read under a header that is damaged; else a new ledger is made") {
    TempDir dir;
    const std::string path = dir.file("ledger");
    {
      const auto ledger = FileLedger::create(path);
      ledger->acknowledge(ledger->add(1, "/first", 0), 100, 10, 7);
    }
    const std::string good = read_bytes(path);
    write_bytes(path, std::string(24, '\0') + good.substr(24));
    {
      const auto ledger = FileLedger::open(path);
      CHECK(ledger->is_damaged());
      CHECK(ledger->entries().at(0).size_bytes == 100);
    }
    CHECK(!FileLedger::open(path)->is_damaged());  // mended
    for (const std::string& bad : {std::string(), std::string(10, '\0'), std::string(70000, '\0'),
                                   std::string("TRCLLDGR")}) {
      write_bytes(path, bad);
      CHECK_THROWS_AS(FileLedger::open(path), DamagedLedgerError);
      CHECK(FileLedger::recover(path)->is_damaged());
      CHECK(FileLedger::recover(path)->entries().empty());
      CHECK(read_bytes(path + ".damaged") == bad);
      std::filesystem::remove(path + ".damaged");
    }
    std::filesystem::remove(path);
    CHECK(FileLedger::recover(path)->is_damaged());
    std::string newer = good;
    newer[8] = 4;
    std::memset(newer.data() + 12, 0, 4);
    write_bytes(path, newer);
    CHECK_THROWS_WITH_AS(FileLedger::recover(path), doctest::Contains("newer version"),
                         std::runtime_error);
  }

  TEST_CASE("an event file is in the ledger before it is there, and its size with each write") {
    TempDir dir;
    const auto ring = RingFile::create(dir.file("ring"), 16);
    const auto ledger = FileLedger::create(dir.file("ledger"));
    EventFileSet set(&ring->tags(), ledger.get());
    const std::string path = dir.file("no folder/events");
    const std::uint32_t tag = ring->tags().intern("a");
    CHECK_THROWS_AS(set.open(1, path, 1.5), std::system_error);
    CHECK_THROWS_AS(set.open(1, path, 1.5), std::system_error);
    REQUIRE(ledger->entries().size() == 1);
    std::filesystem::create_directory(dir.file("no folder"));
    set.open(1, path, 1.5, 3);
    REQUIRE(ledger->entries().size() == 1);
    CHECK(ledger->entries()[0].size_bytes == 0);
    const Record records[] = {scalar(2, tag, 1), scalar(3, tag, 1), scalar(4, tag, 1)};
    CHECK(set.write(span_of(records), {}).count == 3);
    const auto entry = ledger->entries()[0];
    CHECK(entry.sequence == 4);
    CHECK(entry.size_bytes == std::filesystem::file_size(path));
    // Those up to 3 lie in other files.
    std::string expected = version_event(1.5);
    append_scalar_event(records[2], "a", scalar_summary_prefix("a"), expected);
    CHECK(read_bytes(path) == expected);
  }
}

}  // namespace
}  // namespace tracelet
