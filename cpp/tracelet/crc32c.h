// CRC-32C (Castagnoli, RFC 3720 appendix B.4), by the processor's instruction where it has one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tracelet {

// The checksum of `size_bytes` of `data`; `crc` is that of the bytes before them.
std::uint32_t crc32c(const void* data, std::size_t size_bytes, std::uint32_t crc = 0);

// The same by table alone, for processors without the instruction and to test against.
std::uint32_t crc32c_portable(const void* data, std::size_t size_bytes, std::uint32_t crc = 0);

// TFRecord stores checksums masked: a CRC over data that holds its own CRC is weak.
// https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/hash/crc32c.h
inline std::uint32_t masked_crc32c(const void* data, std::size_t size_bytes) {
  const std::uint32_t crc = crc32c(data, size_bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

}  // namespace tracelet
