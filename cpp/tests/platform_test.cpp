#include "tracelet/platform.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "test_support.h"

#if defined(__linux__)
namespace {
// Written by the tests, before the calls that it is for, in the one thread that reads it.
int fallocate_error = 0;
}  // namespace

// In the C library's place. glibc answers no EOPNOTSUPP: it writes to each block itself. musl hands
// the file system's refusal (ZFS, NFS before 4.2) on.
extern "C" int posix_fallocate(int fd, off_t offset, off_t size_bytes) {
  if (fallocate_error != 0) return fallocate_error;
  return fallocate(fd, 0, offset, size_bytes) == 0 ? 0 : errno;
}

namespace tracelet {
namespace {

using testing::FileSizeLimit;
using testing::TempDir;

// While it lives, posix_fallocate fails.
class FallocateFault {
 public:
  explicit FallocateFault(int error) { fallocate_error = error; }
  ~FallocateFault() { fallocate_error = 0; }
  FallocateFault(const FallocateFault&) = delete;
  FallocateFault& operator=(const FallocateFault&) = delete;
};

constexpr std::size_t kSizeBytes = 300'000;  // several pieces of zeros, and a part of one
constexpr std::size_t kReservedBytes = std::size_t{1} << 24;

std::int64_t allocated_bytes(const MappedFile& file) {
  struct stat status;
  REQUIRE(stat(file.path().c_str(), &status) == 0);
  return status.st_blocks * 512;
}

bool is_zero(const std::byte* data, std::size_t size_bytes) {
  return std::all_of(data, data + size_bytes, [](std::byte each) { return each == std::byte{0}; });
}

TEST_SUITE("platform") {
  TEST_CASE("a file system that can't allocate is written zeros: a new file") {
    TempDir dir;
    const FallocateFault fault(EOPNOTSUPP);
    const MappedFile file = MappedFile::create(dir.file("ring"), kSizeBytes, kReservedBytes);
    CHECK(file.size_bytes() == kSizeBytes);
    CHECK(allocated_bytes(file) >= static_cast<std::int64_t>(kSizeBytes));
    CHECK(is_zero(file.data(), kSizeBytes));
  }

  TEST_CASE("a file system that can't allocate is written zeros: only where the file was not yet") {
    TempDir dir;
    MappedFile file = MappedFile::create(dir.file("ring"), kSizeBytes, kReservedBytes);
    std::memset(file.data(), 7, kSizeBytes);
    const FallocateFault fault(EOPNOTSUPP);
    REQUIRE(file.grow(2 * kSizeBytes));
    CHECK(file.size_bytes() == 2 * kSizeBytes);
    CHECK(allocated_bytes(file) >= static_cast<std::int64_t>(2 * kSizeBytes));
    CHECK(std::all_of(file.data(), file.data() + kSizeBytes,
                      [](std::byte each) { return each == std::byte{7}; }));
    CHECK(is_zero(file.data() + kSizeBytes, kSizeBytes));
  }

  TEST_CASE(
      "such a file system that is full is an error at the call, and leaves the file as it was") {
    TempDir dir;
    MappedFile file = MappedFile::create(dir.file("ring"), kSizeBytes, kReservedBytes);
    const FallocateFault fault(EOPNOTSUPP);
    const FileSizeLimit limit(kSizeBytes + 100'000);
    CHECK_FALSE(file.grow(2 * kSizeBytes));
    CHECK(file.size_bytes() == kSizeBytes);
    CHECK(file.grow(kSizeBytes + 100'000));
    CHECK_THROWS_AS(MappedFile::create(dir.file("other"), 2 * kSizeBytes, kReservedBytes),
                    std::system_error);
    CHECK(access(dir.file("other").c_str(), F_OK) != 0);
  }

  TEST_CASE("any other refusal stays one") {
    TempDir dir;
    const FallocateFault fault(ENOSPC);
    CHECK_THROWS_AS(MappedFile::create(dir.file("ring"), kSizeBytes, kReservedBytes),
                    std::system_error);
  }
}

}  // namespace
}  // namespace tracelet
#endif
