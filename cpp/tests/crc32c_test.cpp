#include "tracelet/crc32c.h"

#include <doctest/doctest.h>
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "test_support.h"
#include "tracelet/platform.h"

namespace tracelet {
namespace {

using Checksum = std::uint32_t (*)(const void*, std::size_t, std::uint32_t);

TEST_SUITE("crc32c") {
  TEST_CASE("the examples of RFC 3720, appendix B.4") {
    std::array<unsigned char, 32> ascending{};
    std::iota(ascending.begin(), ascending.end(), static_cast<unsigned char>(0));
    std::array<unsigned char, 32> descending = ascending;
    std::reverse(descending.begin(), descending.end());
    const std::array<unsigned char, 32> zeros{};
    std::array<unsigned char, 32> ones{};
    ones.fill(0xff);
    // An iSCSI read (10) command.
    const std::array<unsigned char, 48> command = {
        0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x14,
        0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02};
    for (const Checksum checksum : {Checksum{crc32c}, Checksum{crc32c_portable}}) {
      CHECK(checksum(zeros.data(), zeros.size(), 0) == 0x8a9136aaU);
      CHECK(checksum(ones.data(), ones.size(), 0) == 0x62a8ab43U);
      CHECK(checksum(ascending.data(), ascending.size(), 0) == 0x46dd794eU);
      CHECK(checksum(descending.data(), descending.size(), 0) == 0x113fdb5cU);
      CHECK(checksum(command.data(), command.size(), 0) == 0xd9963a56U);
      CHECK(checksum("123456789", 9, 0) == 0xe3069283U);  // the catalogues' check value
      CHECK(checksum(nullptr, 0, 0) == 0);
    }
  }

  TEST_CASE("the instruction and the table agree at every length and alignment, and chain") {
    const std::uint64_t seed = testing::fresh_seed();
    INFO("seed ", seed);
    std::mt19937_64 random(seed);
    std::array<unsigned char, 320> data{};
    for (auto& byte : data) byte = static_cast<unsigned char>(random());

    for (std::size_t offset = 0; offset <= 8; ++offset) {
      const unsigned char* start = data.data() + offset;
      for (std::size_t size = 0; size <= 300; ++size) {
        INFO("offset ", offset, ", size ", size);
        const std::uint32_t whole = crc32c_portable(start, size);
        REQUIRE(crc32c(start, size) == whole);
        const std::size_t cut = random() % (size + 1);
        REQUIRE(crc32c(start + cut, size - cut, crc32c(start, cut)) == whole);
        REQUIRE(crc32c_portable(start + cut, size - cut, crc32c_portable(start, cut)) == whole);
      }
    }
  }

#if defined(__aarch64__) && defined(__linux__)
  // Armv8.0's compilers don't know of it; it was left unused then, and sums were made byte by byte.
  TEST_CASE("arm64 has its instruction where the kernel says so") {
    CHECK(has_crc32c_instruction() == ((getauxval(AT_HWCAP) & HWCAP_CRC32) != 0));
  }
#endif

  TEST_CASE("the mask is TFRecord's") {
    // The first 12 bytes of the event files TensorFlow writes: 24 bytes follow.
    const std::string_view length("\x18\0\0\0\0\0\0\0", 8);
    CHECK(masked_crc32c(length.data(), length.size()) == 0x224b7fa3U);
  }
}

}  // namespace
}  // namespace tracelet
