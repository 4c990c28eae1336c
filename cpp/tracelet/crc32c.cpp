#include "tracelet/crc32c.h"

#include <array>
#include <cstring>

#include "tracelet/platform.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#endif

// Armv8.0, for which wheels are compiled, has the instruction as an extension: asked for at run
// time. Where the compiler may take it for granted (macOS), naming it again is an error to some.
#if defined(__ARM_FEATURE_CRC32)
#define TRACELET_TARGET_CRC
#else
#define TRACELET_TARGET_CRC __attribute__((target("+crc")))
#endif

namespace tracelet {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78U;  // reflected 0x1edc6f41

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? kPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> kTable = make_table();

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t crc32c_instruction(const void* data,
                                                                   std::size_t size_bytes,
                                                                   std::uint32_t crc) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::uint64_t state = ~crc;
  for (; size_bytes >= 8; size_bytes -= 8, bytes += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes, 8);
    state = _mm_crc32_u64(state, word);
  }
  auto rest = static_cast<std::uint32_t>(state);
  for (; size_bytes > 0; --size_bytes, ++bytes) rest = _mm_crc32_u8(rest, *bytes);
  return ~rest;
}
#elif defined(__aarch64__)
TRACELET_TARGET_CRC std::uint32_t crc32c_instruction(const void* data, std::size_t size_bytes,
                                                     std::uint32_t crc) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::uint32_t state = ~crc;
  for (; size_bytes >= 8; size_bytes -= 8, bytes += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes, 8);
    state = __crc32cd(state, word);
  }
  for (; size_bytes > 0; --size_bytes, ++bytes) state = __crc32cb(state, *bytes);
  return ~state;
}
#else
std::uint32_t crc32c_instruction(const void* data, std::size_t size_bytes, std::uint32_t crc) {
  return crc32c_portable(data, size_bytes, crc);
}
#endif

}  // namespace

std::uint32_t crc32c_portable(const void* data, std::size_t size_bytes, std::uint32_t crc) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  crc = ~crc;
  for (std::size_t i = 0; i < size_bytes; ++i) crc = (crc >> 8) ^ kTable[(crc ^ bytes[i]) & 0xffU];
  return ~crc;
}

std::uint32_t crc32c(const void* data, std::size_t size_bytes, std::uint32_t crc) {
  static const bool use_instruction = has_crc32c_instruction();
  return use_instruction ? crc32c_instruction(data, size_bytes, crc)
                         : crc32c_portable(data, size_bytes, crc);
}

}  // namespace tracelet
