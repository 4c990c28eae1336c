#include "tracelet/platform.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#endif

namespace tracelet {
namespace {

[[noreturn]] void throw_errno(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

#if !defined(__APPLE__)
// Writes zeros from `offset` up to `end`, so that the file system gives them blocks. On failure the
// file is as long as before.
int write_zeros(int fd, off_t offset, off_t end) noexcept {
  constexpr std::size_t kPieceBytes = std::size_t{1} << 16;
  static constexpr std::byte kZeros[kPieceBytes] = {};
  const off_t start = offset;
  while (offset < end) {
    const auto left = static_cast<std::size_t>(end - offset);
    const ssize_t written = pwrite(fd, kZeros, std::min(left, kPieceBytes), offset);
    if (written > 0) {
      offset += written;
    } else if (written == 0 || errno != EINTR) {
      const int error = written == 0 ? ENOSPC : errno;
      // Where even this fails, the zeros stay: they are what a longer file would hold.
      [[maybe_unused]] const int cut = ftruncate(fd, start);
      return error;
    }
  }
  return 0;
}
#endif

// From `old_size_bytes` on alone: where a file system can't allocate, zeros are written, by the C
// library or here, and a record that a producer stores there in that moment could be lost.
int allocate(int fd, [[maybe_unused]] std::size_t old_size_bytes, std::size_t size_bytes) noexcept {
#if defined(__APPLE__)
  return ftruncate(fd, static_cast<off_t>(size_bytes)) == 0 ? 0 : errno;
#else
  const auto offset = static_cast<off_t>(old_size_bytes);
  const auto end = static_cast<off_t>(size_bytes);
  int error;
  do {
    error = posix_fallocate(fd, offset, end - offset);
  } while (error == EINTR);
  // glibc writes to each block itself where the file system can't allocate (ZFS, NFS before 4.2);
  // musl hands the system's refusal on.
  if (error == EOPNOTSUPP) error = write_zeros(fd, offset, end);
  return error;
#endif
}

#if defined(__linux__)
constexpr int kThreadsAfterState = 17;  // field 20 of /proc/PID/stat; the state is the third

// The number in the field so many spaces further on; 0 without one.
long field(std::string_view text, int number) {
  std::size_t start = 0;
  for (; number > 0; --number) {
    start = text.find(' ', start);
    if (start == std::string_view::npos) return 0;
    ++start;
  }
  long value = 0;
  std::from_chars(text.data() + start, text.data() + text.size(), value);
  return value;
}
#endif

std::byte* map_shared(int fd, std::size_t reserved_bytes, const std::string& path) {
  void* address = mmap(nullptr, reserved_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) throw_errno(errno, "cannot map " + path);
  return static_cast<std::byte*>(address);
}

// Maps the pages of a new file now, so that no first write to one is a page fault in a training
// step.
void touch_pages(std::byte* data, std::size_t size_bytes) {
  const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  for (std::size_t offset = 0; offset < size_bytes; offset += page_bytes) {
    *static_cast<volatile std::byte*>(data + offset) = std::byte{0};
  }
}

}  // namespace

std::atomic<std::uint32_t> detail::cached_pid = [] {
  pthread_atfork(nullptr, nullptr, [] {
    detail::cached_pid.store(static_cast<std::uint32_t>(getpid()), std::memory_order_relaxed);
  });
  return static_cast<std::uint32_t>(getpid());
}();

namespace {
const std::uint32_t loading_pid = current_pid();
}  // namespace

MappedFile::MappedFile(std::string path, int fd, std::byte* data, std::size_t reserved_bytes)
    : path_(std::move(path)), fd_(fd), data_(data), reserved_bytes_(reserved_bytes) {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      reserved_bytes_(other.reserved_bytes_) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, reserved_bytes_);
  if (fd_ >= 0) close(fd_);
}

MappedFile MappedFile::create(const std::string& path, std::size_t size_bytes,
                              std::size_t reserved_bytes) {
#ifdef __linux__
  const int fd = path.empty() ? memfd_create("tracelet", MFD_CLOEXEC)
                              : ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
#else
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
#endif
  if (fd < 0) throw_errno(errno, "cannot create " + path);
  try {
    if (const int error = allocate(fd, 0, size_bytes)) {
      throw_errno(error, "cannot reserve " + std::to_string(size_bytes) + " bytes for " + path);
    }
    std::byte* data = map_shared(fd, reserved_bytes, path);
    touch_pages(data, size_bytes);
    return MappedFile(path, fd, data, reserved_bytes);
  } catch (...) {
    close(fd);
    if (!path.empty()) unlink(path.c_str());
    throw;
  }
}

MappedFile MappedFile::open(const std::string& path, std::size_t reserved_bytes) {
  // What lies under this name may be anything: no link is followed, a pipe does not wait for its
  // other end, and a file that somebody else owns is not written to in this user's name.
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) throw_errno(errno, "cannot open " + path);
  try {
    struct stat status;
    if (fstat(fd, &status) != 0) throw_errno(errno, "cannot look at " + path);
    if (!S_ISREG(status.st_mode) || status.st_uid != geteuid()) {
      throw_errno(EPERM, path + " is no regular file of this user's");
    }
    return MappedFile(path, fd, map_shared(fd, reserved_bytes, path), reserved_bytes);
  } catch (...) {
    close(fd);
    throw;
  }
}

std::size_t MappedFile::size_bytes() const {
  const std::int64_t size = file_size_bytes(fd_);
  return size < 0 ? 0 : static_cast<std::size_t>(size);
}

bool MappedFile::grow(std::size_t size_bytes) noexcept {
  if (size_bytes > reserved_bytes_) return false;
  const std::size_t old_size_bytes = this->size_bytes();
  return size_bytes <= old_size_bytes || allocate(fd_, old_size_bytes, size_bytes) == 0;
}

int MappedFile::sync() const noexcept {
  const std::size_t file_bytes = std::min(size_bytes(), reserved_bytes_);
  if (msync(data_, file_bytes, MS_SYNC) != 0) return errno;
  return fsync(fd_) == 0 ? 0 : errno;  // what the file grew by, too
}

void wait_on(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
             std::chrono::nanoseconds timeout) {
#if defined(__linux__)
  using std::chrono::duration_cast;
  const auto whole_s = duration_cast<std::chrono::seconds>(timeout);
  timespec limit{};
  limit.tv_sec = static_cast<time_t>(whole_s.count());
  limit.tv_nsec = static_cast<long>((timeout - whole_s).count());
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &limit, nullptr, 0);
#else
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (word.load(std::memory_order_acquire) == expected) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds::zero()) return;
    std::this_thread::sleep_for(
        std::min<std::chrono::nanoseconds>(left, std::chrono::milliseconds(1)));
  }
#endif
}

void wake_all([[maybe_unused]] std::atomic<std::uint32_t>& word) {
#if defined(__linux__)
  syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
#endif
}

bool is_forked() { return current_pid() != loading_pid; }

int usable_cores() {
#if defined(__linux__)
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) return CPU_COUNT(&cores);
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

bool has_crc32c_instruction() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("sse4.2") != 0;
#elif defined(__ARM_FEATURE_CRC32)
  return true;
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kCrc32 = 1UL << 7;  // HWCAP_CRC32 of the kernel's <asm/hwcap.h>
  return (getauxval(AT_HWCAP) & kCrc32) != 0;
#else
  return false;
#endif
}

bool process_is_alive(std::uint32_t pid) {
  if (kill(static_cast<pid_t>(pid), 0) != 0 && errno != EPERM) return false;
#if defined(__linux__)
  // A zombie answers too, and the one that asks may be the parent that has yet to wait for it. It
  // may also have threads left: they outlive a first thread that has ended, for good or, when all
  // are killed, for a moment.
  const int fd = ::open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true;
  char text[512];
  const ssize_t size_bytes = read(fd, text, sizeof(text));
  close(fd);
  // "pid (name) state …"; the name may hold anything, the rest is numbers.
  const std::string_view stat(text, size_bytes < 0 ? 0 : static_cast<std::size_t>(size_bytes));
  const std::size_t name_end = stat.rfind(") ");
  if (name_end == std::string_view::npos || name_end + 2 >= stat.size()) return true;
  if (stat[name_end + 2] != 'Z' && stat[name_end + 2] != 'X') return true;
  return field(stat.substr(name_end + 2), kThreadsAfterState) > 1;
#endif
  return true;
}

std::int64_t thread_cpu_time_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

int open_to_read(const std::string& path) noexcept {
  return ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
}

int open_to_append(const std::string& path) noexcept {
  return ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

int open_to_recover(const std::string& path) noexcept {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return fd;
  struct stat status;
  int error = 0;
  if (fstat(fd, &status) != 0) {
    error = errno;
  } else if (!S_ISREG(status.st_mode)) {
    error = EINVAL;
  } else if (status.st_uid != geteuid()) {
    error = EACCES;
  }
  if (error == 0) return fd;
  ::close(fd);
  errno = error;
  return -1;
}

void close_file(int fd) noexcept { ::close(fd); }

int hold_file(const std::string& path) noexcept {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return fd;
  for (int tries = 0; flock(fd, LOCK_SH | LOCK_NB) != 0; ++tries) {
    if (errno != EWOULDBLOCK && errno != EINTR) return fd;
    if (tries == 50) {
      ::close(fd);
      errno = EWOULDBLOCK;
      return -1;
    }
    const timespec pause = {0, 2'000'000};  // who looks whether it is held has it for a moment
    nanosleep(&pause, nullptr);
  }
  return fd;
}

bool MappedFile::is_named() const { return tracelet::is_named(fd_, path_); }

std::int64_t file_size_bytes(int fd) noexcept {
  struct stat status;
  return fstat(fd, &status) == 0 ? std::int64_t{status.st_size} : -1;
}

bool is_there(const std::string& path) noexcept {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

bool is_named(int fd, const std::string& path) noexcept {
  struct stat opened;
  struct stat named;
  if (fstat(fd, &opened) != 0) return true;
  if (::stat(path.c_str(), &named) != 0) return errno != ENOENT && errno != ENOTDIR;
  return opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

std::int64_t read_at(int fd, char* out, std::size_t size_bytes, std::int64_t offset) noexcept {
  ssize_t count;
  do {
    count = ::pread(fd, out, size_bytes, static_cast<off_t>(offset));
  } while (count < 0 && errno == EINTR);
  return count;
}

int write_all(int fd, const char* data, std::size_t size_bytes,
              std::size_t* written_bytes) noexcept {
  *written_bytes = 0;
  while (*written_bytes < size_bytes) {
    const ssize_t written = ::write(fd, data + *written_bytes, size_bytes - *written_bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    if (written == 0) return ENOSPC;  // else it would be tried for ever
    *written_bytes += static_cast<std::size_t>(written);
  }
  return 0;
}

std::int64_t end_of_last_write(int fd) noexcept { return ::lseek(fd, 0, SEEK_CUR); }

int blank_out(const std::string& path, std::int64_t offset, std::size_t size_bytes) noexcept {
  // Not by a descriptor that appends: Linux' pwrite goes to the file's end then.
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  int error = 0;
  const std::string blanks(std::min<std::size_t>(size_bytes, 1 << 16), ' ');
  while (size_bytes > 0 && error == 0) {
    const ssize_t written = ::pwrite(fd, blanks.data(), std::min(size_bytes, blanks.size()),
                                     static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      error = written < 0 ? errno : ENOSPC;
      break;
    }
    offset += written;
    size_bytes -= static_cast<std::size_t>(written);
  }
  ::close(fd);
  return error;
}

int sync_file(const std::string& path) noexcept {
  const int fd = open_to_read(path);
  if (fd < 0) return errno;
#if defined(__linux__)
  const int error = fdatasync(fd) == 0 ? 0 : errno;
#else
  const int error = fsync(fd) == 0 ? 0 : errno;
#endif
  ::close(fd);
  return error == EINVAL ? 0 : error;  // a file system that knows no such thing
}

int sync_folder(const std::string& path) noexcept {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  return error == EINVAL ? 0 : error;  // a file system that knows no such thing
}

int truncate_file(int fd, std::int64_t size_bytes) noexcept {
  return ::ftruncate(fd, static_cast<off_t>(size_bytes)) == 0 ? 0 : errno;
}

}  // namespace tracelet
