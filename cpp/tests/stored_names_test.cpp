#include "tracelet/stored_names.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "test_support.h"
#include "tracelet/crc32c.h"

namespace tracelet {
namespace {

std::string raw(std::uint32_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
std::string header(std::uint32_t version = 1) {
  const std::string head = "TRCLNAME" + raw(version);
  return head + raw(crc32c(head.data(), head.size()));
}
std::string block(std::uint32_t first, const std::vector<std::string>& texts) {
  std::string content;
  for (const std::string& text : texts) {
    content += raw(static_cast<std::uint32_t>(text.size())) + text;
  }
  const std::string head = "NBLK" + raw(first) + raw(static_cast<std::uint32_t>(texts.size())) +
                           raw(static_cast<std::uint32_t>(content.size())) +
                           raw(crc32c(content.data(), content.size()));
  return head + raw(crc32c(head.data(), head.size())) + content;
}
StoredNames names_of(const std::string& bytes) {
  return StoredNames::of_names_file(StoredFile::of_bytes("names.bin", bytes));
}

TEST_SUITE("stored_names") {
  TEST_CASE("damage costs its own block's strings: later ids keep theirs") {
    const std::string first = header() + block(1, {"a", "b"});
    const std::string second = block(3, {"c"});
    const std::string third = block(4, {"", "d\xc3\xa9"});
    const std::string whole = first + second + third;
    StoredNames good = names_of(whole);
    CHECK(good.size() == 5);
    CHECK(good.text(5) == "d\xc3\xa9");
    CHECK(good.knows(4));
    CHECK(good.text(4).empty());
    CHECK(!good.knows(6));
    CHECK(!good.knows(0));
    CHECK(good.problem().empty());
    CHECK(good.whole_bytes() == whole.size());
    for (std::size_t place = first.size(); place < first.size() + second.size(); ++place) {
      std::string bytes = whole;
      bytes[place] = static_cast<char>(bytes[place] ^ 8);
      StoredNames names = names_of(bytes);
      CHECK(names.text(1) == "a");
      CHECK(!names.knows(3));
      CHECK(names.knows(4));
      CHECK(names.text(5) == "d\xc3\xa9");
      CHECK(names.problem().find("damaged") != std::string::npos);
    }
  }

  TEST_CASE("a torn end is no damage, a damaged header costs no string") {
    const std::string whole = header() + block(1, {"a", "b"}) + block(3, {"c"});
    for (std::size_t size = 0; size < whole.size(); ++size) {
      StoredNames names = names_of(whole.substr(0, size));
      CHECK(names.problem().empty());
      CHECK(names.size() <= 2);
    }
    std::string bytes = whole;
    bytes[1] = 'x';
    StoredNames names = names_of(bytes);
    CHECK(names.size() == 3);
    CHECK(!names.problem().empty());
    CHECK_THROWS_AS(names_of(header(2) + block(1, {"a"})), StoredFileError);
  }

  TEST_CASE("strings that are no UTF-8, and ids beyond all bounds, are not known") {
    StoredNames names = names_of(header() + block(1, {"\xff", "\xc0\x80", "\xed\xa0\x80", "ok"}) +
                                 block(0xfffffff0, {"far"}));
    CHECK(!names.knows(1));
    CHECK(!names.knows(2));
    CHECK(!names.knows(3));
    CHECK(names.text(4) == "ok");
    CHECK(names.size() == 4);
  }

  TEST_CASE("a tag table is read up to what makes no sense") {
    const std::string table = raw(1) + std::string("a\0\0\0", 4) + raw(4) + "bbbb" + raw(0) +
                              raw(2) + std::string("cc\0\0", 4);
    StoredNames whole = StoredNames::of_tag_table(table, table.size());
    CHECK(whole.size() == 4);
    CHECK(whole.text(2) == "bbbb");
    CHECK(whole.text(4) == "cc");
    CHECK(whole.problem().empty());
    std::string longer = table;
    longer[8] = 3;  // what pads it is not zero
    StoredNames damaged = StoredNames::of_tag_table(longer, longer.size());
    CHECK(damaged.size() == 1);
    CHECK(!damaged.problem().empty());
    StoredNames beyond = StoredNames::of_tag_table(table + std::string(64, '\0'), 1 << 30);
    CHECK(beyond.size() == 2);
    CHECK(!beyond.problem().empty());
  }

  TEST_CASE("of two sources the one with checksums counts") {
    StoredNames names = names_of(header() + block(1, {"a"}));
    StoredNames other;
    other.add(1, "damaged");
    other.add(2, "b");
    names.add_missing(other);
    CHECK(names.text(1) == "a");
    CHECK(names.text(2) == "b");
  }
}

}  // namespace
}  // namespace tracelet
