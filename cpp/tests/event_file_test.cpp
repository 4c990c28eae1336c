// The bytes of single events.
#include "tracelet/event_file.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <string_view>

#include "event_reader.h"
#include "test_support.h"

namespace tracelet {
namespace {

using namespace std::string_literals;
using testing::scalar;

std::string encode(const Record& record, std::string_view tag) {
  std::string out;
  append_scalar_event(record, tag, scalar_summary_prefix(tag), out);
  return out;
}

// The data of the one TFRecord that `record` becomes.
std::string event_data(const Record& record, std::string_view tag) {
  const std::string bytes = encode(record, tag);
  const auto data = testing::tfrecords(bytes);
  REQUIRE(data.size() == 1);
  return std::string(data[0]);
}

// Each expected string was put together by hand from event.proto, summary.proto and tensor.proto:
// a key byte is field number * 8 + wire type. Its pieces stand on a line each.
const std::string kWallTime = "\x09\0\0\0\0\0\0\xf8\x3f"s;  // Event.wall_time, double 1.5

TEST_SUITE("event_file") {
  TEST_CASE("a plain scalar") {
    CHECK(event_data(scalar(1, 1, 0.5, 3), "loss") ==
          kWallTime +
              "\x10\x03"           // Event.step
              "\x2a\x0d"           // Event.summary, 13 bytes
              "\x0a\x0b"           // Summary.value, 11 bytes
              "\x0a\x04loss"       // Value.tag
              "\x15\0\0\0\x3f"s);  // Value.simple_value, float 0.5
    CHECK(event_data(scalar(1, 1, -1.0, 300), "a/b") == kWallTime +
                                                            "\x10\xac\x02"
                                                            "\x2a\x0c"
                                                            "\x0a\x0a"
                                                            "\x0a\x03"
                                                            "a/b"
                                                            "\x15\0\0\x80\xbf"s);
  }

  TEST_CASE("step 0 is left out") {
    CHECK(event_data(scalar(1, 1, 0.5, 0), "loss") == kWallTime +
                                                          "\x2a\x0d"
                                                          "\x0a\x0b"
                                                          "\x0a\x04loss"
                                                          "\x15\0\0\0\x3f"s);
  }

  TEST_CASE("a negative step takes ten bytes") {
    CHECK(event_data(scalar(1, 1, 0.5, -1), "loss") ==
          kWallTime +
              "\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
              "\x2a\x0d"
              "\x0a\x0b"
              "\x0a\x04loss"
              "\x15\0\0\0\x3f"s);
  }

  TEST_CASE("an empty tag is left out") {
    CHECK(event_data(scalar(1, 1, 0.5, 3), "") == kWallTime +
                                                      "\x10\x03"
                                                      "\x2a\x07"
                                                      "\x0a\x05"
                                                      "\x15\0\0\0\x3f"s);
  }

  TEST_CASE("values that float32 does not hold") {
    const std::string start = kWallTime +
                              "\x10\x03"
                              "\x2a\x0a"
                              "\x0a\x08"
                              "\x0a\x01x"
                              "\x15"s;
    CHECK(event_data(scalar(1, 1, 1e39, 3), "x") == start + "\0\0\x80\x7f"s);
    CHECK(event_data(scalar(1, 1, -1e39, 3), "x") == start + "\0\0\x80\xff"s);
    CHECK(event_data(scalar(1, 1, 1e-50, 3), "x") == start + "\0\0\0\0"s);
    CHECK(event_data(scalar(1, 1, -0.0, 3), "x") == start + "\0\0\0\x80"s);
    CHECK(event_data(scalar(1, 1, std::numeric_limits<float>::max(), 3), "x") ==
          start + "\xff\xff\x7f\x7f"s);
    const std::string nan = event_data(scalar(1, 1, std::nan(""), 3), "x");
    CHECK(nan.substr(0, start.size()) == start);
    CHECK(std::isnan(testing::parse_event(nan).simple_value));
  }

  TEST_CASE("the new style: a tensor of float, or of double") {
    Record record = scalar(1, 1, 0.5, 3);
    record.flags = kNewStyle;
    const std::string metadata =
        "\x4a\x0b"           // Value.metadata, 11 bytes
        "\x0a\x09"           // SummaryMetadata.plugin_data, 9 bytes
        "\x0a\x07scalars"s;  // PluginData.plugin_name
    CHECK(event_data(record, "loss") == kWallTime +
                                            "\x10\x03"
                                            "\x2a\x1f"      // Event.summary, 31 bytes
                                            "\x0a\x1d"      // Summary.value, 29 bytes
                                            "\x0a\x04loss"  // Value.tag
                                            "\x42\x08"      // Value.tensor, 8 bytes
                                            "\x08\x01"      // TensorProto.dtype, DT_FLOAT
                                            "\x2a\x04"      // float_val, packed, 4 bytes
                                            "\0\0\0\x3f"s +
                                            metadata);
    record.flags = kNewStyle | kDoublePrecision;
    CHECK(event_data(record, "loss") == kWallTime +
                                            "\x10\x03"
                                            "\x2a\x23"  // 35 bytes
                                            "\x0a\x21"  // 33 bytes
                                            "\x0a\x04loss"
                                            "\x42\x0c"  // 12 bytes
                                            "\x08\x02"  // DT_DOUBLE
                                            "\x32\x08"  // double_val, packed, 8 bytes
                                            "\0\0\0\0\0\0\xe0\x3f"s +
                                            metadata);
    // As in torch, double precision is the new style's alone.
    record.flags = kDoublePrecision;
    CHECK(event_data(record, "loss") == event_data(scalar(1, 1, 0.5, 3), "loss"));
  }

  TEST_CASE("the first event names the format and the writer") {
    const std::string bytes = version_event(1.5);
    const auto data = testing::tfrecords(bytes);
    REQUIRE(data.size() == 1);
    CHECK(data[0] == kWallTime +
                         "\x1a\x0d"  // Event.file_version
                         "brain.Event:2"
                         "\x52\x15"                        // Event.source_metadata, 21 bytes
                         "\x0a\x13tracelet.event_file"s);  // SourceMetadata.writer
  }

  TEST_CASE("the frame: length, its checksum, data, their checksum") {
    // An event of 24 bytes, as its length and the length's checksum stand in TensorFlow's files.
    const std::string bytes = encode(scalar(1, 1, 0.5, 3), "xx");
    CHECK(bytes.substr(0, 12) == "\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22"s);
    CHECK(bytes.size() == 12 + 24 + 4);
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
      CHECK_THROWS(testing::tfrecords(damaged));
    }
  }

  TEST_CASE("any record reads back as it was") {
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    for (int tries = 0; tries < testing::repeated(20'000); ++tries) {
      INFO("try ", tries);
      Record record = scalar(1, 1, 0);
      // Bit patterns: every magnitude, infinities and NaN among them.
      const std::uint64_t value_bits = random() >> (random() % 2 * (random() % 64));
      std::memcpy(&record.value, &value_bits, sizeof(record.value));
      record.step = static_cast<std::int64_t>(random()) >> (random() % 64);
      record.wall_time_s = static_cast<double>(random() % 4'000'000'000'000) * 1e-3;
      record.flags = static_cast<std::uint16_t>(random() % 8);
      // Lengths around those at which a varint grows by a byte.
      std::string tag(random() % 300, '\0');
      if (random() % 50 == 0) tag.resize(16'300 + random() % 200);
      for (char& byte : tag) byte = static_cast<char>(random());

      const std::string data = event_data(record, tag);
      const testing::Event event = testing::parse_event(data);
      REQUIRE(event.wall_time_s == record.wall_time_s);
      REQUIRE(event.step == record.step);
      REQUIRE(event.tag == tag);
      REQUIRE(event.has_simple_value == ((record.flags & kNewStyle) == 0));
      if (event.has_simple_value) {
        const auto expected = static_cast<float>(record.value);
        REQUIRE((std::isnan(expected) ? std::isnan(event.simple_value)
                                      : event.simple_value == expected));
        REQUIRE(event.tensor.empty());
        REQUIRE(event.summary_metadata.empty());
      } else {
        REQUIRE(event.tensor.size() == ((record.flags & kDoublePrecision) != 0 ? 12 : 8));
        REQUIRE(event.summary_metadata == "\x0a\x09\x0a\x07scalars");
      }
    }
  }
}

}  // namespace
}  // namespace tracelet
