// Loaded with LD_PRELOAD before libc: makes calls that change files fail, seeded, or writes down
// what they do. Only for files whose paths begin with a given prefix, so that Python's own imports
// are left alone. Nothing happens before `faults_begin` or `record_begin` is called, by ctypes.
//
// Not in the wheel; tests/faults/shim.py builds it. Linux only.
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace {

// The kinds of calls; a bit each in the mask of `faults_begin`. Also in the log of `record_begin`.
enum Kind : std::uint32_t {
  kOpen,
  kWrite,
  kSync,
  kTruncate,
  kAllocate,
  kMap,
  kRename,
  kCreate,
  kUnlink,
  kMakeFolder,
  kMapped,
  kRemoveFolder
};
const char* const kNames[] = {"open", "write", "sync", "truncate", "allocate", "map", "rename"};

// Written by the thread that begins and ends, while no other is at it; read by all.
struct Plan {
  std::vector<std::string> prefixes;
  std::uint64_t seed = 0, first = 0, last = 0;
  double rate = 0;
  std::uint32_t kinds = 0;
  int trace_fd = -1;
};
Plan plan;
std::atomic<bool> is_faulty{false};  // release after the plan is whole, acquired by each call
std::atomic<bool> is_recording{false};
std::atomic<std::uint64_t> calls{0}, injected{0};
int log_fd = -1;
std::recursive_mutex recording;  // a call and its line in the log are one
std::vector<std::string> mapped_paths;
std::vector<std::string> mapped_contents;

template <typename Function>
Function real(Function, const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}
#define REAL(name) static const auto real_##name = real(&::name, #name)

bool is_below(const char* path) {
  for (const std::string& prefix : plan.prefixes) {
    if (strncmp(path, prefix.c_str(), prefix.size()) == 0) return true;
  }
  return false;
}

std::string absolute(int folder, const char* path) {
  if (path == nullptr) return "";
  if (path[0] == '/') return path;
  char base[PATH_MAX];
  if (folder == AT_FDCWD) {
    if (getcwd(base, sizeof(base)) == nullptr) return path;
    return std::string(base) + "/" + path;
  }
  const std::string link = "/proc/self/fd/" + std::to_string(folder);
  const ssize_t size = readlink(link.c_str(), base, sizeof(base));
  return size < 0 ? path : std::string(base, static_cast<std::size_t>(size)) + "/" + path;
}

std::string path_of(int fd) {
  char found[PATH_MAX];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t size = readlink(link.c_str(), found, sizeof(found));
  return size < 0 ? "" : std::string(found, static_cast<std::size_t>(size));
}

std::uint64_t mixed(std::uint64_t value) {  // splitmix64
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// Ways to fail, by kind; 0 stands for a short count.
const int kOpenErrors[] = {EMFILE, EIO, ENOSPC, EINTR};
const int kWriteErrors[] = {ENOSPC, EIO, EINTR, 0, 0};
const int kSyncErrors[] = {EIO, ENOSPC, EINTR};
const int kTruncateErrors[] = {EIO, EINTR, ENOSPC};
const int kAllocateErrors[] = {ENOSPC, EIO, EINTR};
const int kMapErrors[] = {ENOMEM, EIO, EMFILE};
const int kRenameErrors[] = {ENOSPC, EIO, EINTR};

struct Errors {
  const int* of;
  std::size_t count;
};
const Errors kErrors[] = {{kOpenErrors, 4},     {kWriteErrors, 5},    {kSyncErrors, 3},
                          {kTruncateErrors, 3}, {kAllocateErrors, 3}, {kMapErrors, 3},
                          {kRenameErrors, 3}};

// The errno that this call is to fail with; 0 for a short count, -1 when it is to go well.
// `random` is for the short count.
int fault_of(Kind kind, const std::string& path, std::uint64_t* random = nullptr) {
  if (!is_faulty.load(std::memory_order_acquire) || !is_below(path.c_str())) return -1;
  const std::uint64_t number = calls.fetch_add(1, std::memory_order_relaxed);
  if ((plan.kinds >> kind & 1) == 0 || number < plan.first || number >= plan.last) return -1;
  const std::uint64_t drawn = mixed(plan.seed * 0x2545f4914f6cdd1d + number);
  if (static_cast<double>(drawn >> 11) * 0x1p-53 >= plan.rate) return -1;
  const std::uint64_t which = mixed(drawn);
  const Errors& errors = kErrors[kind];
  const int error = errors.of[which % errors.count];
  if (random != nullptr) *random = mixed(which);
  injected.fetch_add(1, std::memory_order_relaxed);
  if (plan.trace_fd >= 0) {
    char line[PATH_MAX + 64];
    const int size = snprintf(line, sizeof(line), "fault %llu: %s %s: %s\n",
                              static_cast<unsigned long long>(number), kNames[kind], path.c_str(),
                              error == 0 ? "short" : strerrorname_np(error));
    syscall(SYS_write, plan.trace_fd, line, static_cast<std::size_t>(size));
  }
  return error;
}

// One entry of the log.
struct Entry {
  std::uint32_t kind, path_bytes, path2_bytes, unused;
  std::uint64_t inode, offset, size;
};

void put(const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const long written = syscall(SYS_write, log_fd, at, size);
    if (written <= 0) abort();
    at += written;
    size -= static_cast<std::size_t>(written);
  }
}

void note(Kind kind, std::uint64_t inode, const std::string& path, const std::string& path2,
          std::uint64_t offset, std::uint64_t size, const void* data) {
  const Entry entry{kind,
                    static_cast<std::uint32_t>(path.size()),
                    static_cast<std::uint32_t>(path2.size()),
                    data != nullptr,
                    inode,
                    offset,
                    size};
  put(&entry, sizeof(entry));
  put(path.data(), path.size());
  put(path2.data(), path2.size());
  if (data != nullptr) put(data, size);
}

std::uint64_t inode_of(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// What mapped files hold now: nobody calls the system to change them.
void note_mapped() {
  for (std::size_t n = 0; n < mapped_paths.size(); ++n) {
    const int fd =
        static_cast<int>(syscall(SYS_openat, AT_FDCWD, mapped_paths[n].c_str(), O_RDONLY));
    if (fd < 0) continue;
    std::string content;
    char piece[65536];
    for (long count; (count = syscall(SYS_read, fd, piece, sizeof(piece))) > 0;) {
      content.append(piece, static_cast<std::size_t>(count));
    }
    if (content != mapped_contents[n]) {
      note(kMapped, inode_of(fd), mapped_paths[n], "", 0, content.size(), content.data());
      mapped_contents[n] = content;
    }
    syscall(SYS_close, fd);
  }
}

bool records(const std::string& path) {
  return is_recording.load(std::memory_order_acquire) && is_below(path.c_str());
}

// Holds the log for a call and its line; nothing where nothing is recorded.
class Recorded {
 public:
  explicit Recorded(const std::string& path) : is_on_(records(path)) {
    if (!is_on_) return;
    recording.lock();
    note_mapped();
  }
  ~Recorded() {
    if (is_on_) recording.unlock();
  }
  explicit operator bool() const { return is_on_; }

 private:
  bool is_on_;
};

int failed(int error) {
  errno = error;
  return -1;
}

bool is_there(const std::string& path) {
  struct stat status;
  return lstat(path.c_str(), &status) == 0;
}

template <typename Open>
int open_with(const std::string& path, int flags, Open open_it) {
  if (const int error = fault_of(kOpen, path); error > 0) return failed(error);
  const Recorded recorded(path);
  const bool is_new = recorded && (flags & O_CREAT) != 0 && !is_there(path);
  const int fd = open_it();
  if (recorded && fd >= 0) {
    const int kept = errno;
    if (is_new) note(kCreate, inode_of(fd), path, "", 0, 0, nullptr);
    if ((flags & O_TRUNC) != 0) note(kTruncate, inode_of(fd), path, "", 0, 0, nullptr);
    errno = kept;
  }
  return fd;
}

std::string joined(const struct iovec* pieces, int count) {
  std::string data;
  for (int n = 0; n < count; ++n) {
    data.append(static_cast<const char*>(pieces[n].iov_base), pieces[n].iov_len);
  }
  return data;
}

void note_written(const Recorded& recorded, int fd, const std::string& path, ssize_t written,
                  off_t offset, const struct iovec* pieces, int count) {
  if (!recorded || written <= 0) return;
  const int kept = errno;
  if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - written;
  note(kWrite, inode_of(fd), path, "", static_cast<std::uint64_t>(offset),
       static_cast<std::uint64_t>(written), joined(pieces, count).data());
  errno = kept;
}

// `write_it` writes so many of the bytes. `offset`: -1 for where the file is.
template <typename Write>
ssize_t write_with(int fd, const struct iovec* pieces, int count, off_t offset, Write write_it) {
  const std::string path = path_of(fd);
  std::size_t size = 0;
  for (int n = 0; n < count; ++n) size += pieces[n].iov_len;
  std::uint64_t random = 0;
  const int error = fault_of(kWrite, path, &random);
  if (error > 0) return failed(error);
  if (error == 0 && size > 1) size = 1 + random % (size - 1);
  const Recorded recorded(path);
  const ssize_t written = write_it(size);
  note_written(recorded, fd, path, written, offset, pieces, count);
  return written;
}

bool is_watched() { return is_faulty.load(std::memory_order_acquire) || is_recording.load(); }

}  // namespace

extern "C" {

#define EXPORT __attribute__((visibility("default")))

// `prefixes`: separated by ':'. `kinds`: a bit for each. Calls number `first` to before `last`, of
// those below the prefixes, fail with the probability `rate`. Failures are told to `trace_fd`.
EXPORT void faults_begin(const char* prefixes, std::uint64_t seed, double rate, std::uint32_t kinds,
                         std::uint64_t first, std::uint64_t last, int trace_fd) {
  is_faulty.store(false, std::memory_order_release);
  plan = Plan{};
  for (const char* at = prefixes; *at != 0;) {
    const char* end = strchrnul(at, ':');
    if (end > at) plan.prefixes.emplace_back(at, end);
    at = *end == 0 ? end : end + 1;
  }
  plan.seed = seed;
  plan.rate = rate;
  plan.kinds = kinds;
  plan.first = first;
  plan.last = last;
  plan.trace_fd = trace_fd;
  calls.store(0);
  injected.store(0);
  is_faulty.store(true, std::memory_order_release);
}
EXPORT void faults_end() { is_faulty.store(false, std::memory_order_release); }
EXPORT std::uint64_t faults_injected() { return injected.load(); }
EXPORT std::uint64_t faults_calls() { return calls.load(); }

// Writes each call below the one prefix to the file `log`.
EXPORT void record_begin(const char* prefix, const char* log) {
  plan.prefixes = {prefix};
  log_fd = static_cast<int>(
      syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  is_recording.store(true, std::memory_order_release);
}
EXPORT void record_end() {
  const std::lock_guard hold(recording);
  if (is_recording.load()) note_mapped();
  is_recording.store(false, std::memory_order_release);
}

#define OPEN_MODE(flags)                        \
  mode_t mode = 0;                              \
  if (((flags) & (O_CREAT | O_TMPFILE)) != 0) { \
    va_list list;                               \
    va_start(list, flags);                      \
    mode = va_arg(list, mode_t);                \
    va_end(list);                               \
  }

// libc has each call for files twice: with offsets of 64 bits besides.
#define OPEN(name)                                                    \
  EXPORT int name(const char* path, int flags, ...) {                 \
    OPEN_MODE(flags)                                                  \
    REAL(name);                                                       \
    return open_with(absolute(AT_FDCWD, path), flags,                 \
                     [&] { return real_##name(path, flags, mode); }); \
  }
#define OPEN_AT(name)                                                         \
  EXPORT int name(int folder, const char* path, int flags, ...) {             \
    OPEN_MODE(flags)                                                          \
    REAL(name);                                                               \
    return open_with(absolute(folder, path), flags,                           \
                     [&] { return real_##name(folder, path, flags, mode); }); \
  }
OPEN(open)
OPEN(open64)
OPEN_AT(openat)
OPEN_AT(openat64)

EXPORT ssize_t writev(int fd, const struct iovec* pieces, int count) {
  REAL(writev);
  if (!is_watched()) return real_writev(fd, pieces, count);
  const std::string data = joined(pieces, count);
  return write_with(fd, pieces, count, -1, [&](std::size_t size) {
    return size < data.size() ? syscall(SYS_write, fd, data.data(), size)
                              : real_writev(fd, pieces, count);
  });
}
EXPORT ssize_t write(int fd, const void* data, size_t size) {
  REAL(write);
  if (!is_watched()) return real_write(fd, data, size);
  const struct iovec piece{const_cast<void*>(data), size};
  return write_with(fd, &piece, 1, -1,
                    [&](std::size_t some) { return real_write(fd, data, some); });
}

static ssize_t write_at(int fd, const void* data, size_t size, off_t offset) {
  const struct iovec piece{const_cast<void*>(data), size};
  return write_with(fd, &piece, 1, offset, [&](std::size_t some) {
    return syscall(SYS_pwrite64, fd, data, some, offset);
  });
}
EXPORT ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  return write_at(fd, data, size, offset);
}
EXPORT ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  return write_at(fd, data, size, offset);
}

static int sync_with(int fd, int number) {
  const std::string path = path_of(fd);
  if (const int error = fault_of(kSync, path); error > 0) return failed(error);
  const Recorded recorded(path);
  const long done = syscall(number, fd);
  if (recorded && done == 0) note(kSync, inode_of(fd), path, "", 0, 0, nullptr);
  return static_cast<int>(done);
}
EXPORT int fsync(int fd) { return sync_with(fd, SYS_fsync); }
EXPORT int fdatasync(int fd) { return sync_with(fd, SYS_fdatasync); }

static int truncate_to(int fd, off_t size) {
  const std::string path = path_of(fd);
  if (const int error = fault_of(kTruncate, path); error > 0) return failed(error);
  const Recorded recorded(path);
  const long done = syscall(SYS_ftruncate, fd, size);
  if (recorded && done == 0) {
    note(kTruncate, inode_of(fd), path, "", 0, static_cast<std::uint64_t>(size), nullptr);
  }
  return static_cast<int>(done);
}
EXPORT int ftruncate(int fd, off_t size) noexcept { return truncate_to(fd, size); }
EXPORT int ftruncate64(int fd, off64_t size) noexcept { return truncate_to(fd, size); }

static int allocate(int fd, off_t offset, off_t size) {
  const std::string path = path_of(fd);
  if (const int error = fault_of(kAllocate, path); error > 0) return error;
  const Recorded recorded(path);
  const long done = syscall(SYS_fallocate, fd, 0, offset, size);
  if (recorded && done == 0) {
    note(kAllocate, inode_of(fd), path, "", static_cast<std::uint64_t>(offset),
         static_cast<std::uint64_t>(size), nullptr);
  }
  return done == 0 ? 0 : errno;
}
EXPORT int posix_fallocate(int fd, off_t offset, off_t size) { return allocate(fd, offset, size); }
EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t size) {
  return allocate(fd, offset, size);
}

static void* map(void* address, size_t size, int protection, int flags, int fd, off_t offset) {
  const std::string path = is_watched() && fd >= 0 ? path_of(fd) : "";
  if (!path.empty()) {
    if (const int error = fault_of(kMap, path); error > 0) {
      errno = error;
      return MAP_FAILED;
    }
    const Recorded recorded(path);
    struct stat status;
    if (recorded && (protection & PROT_WRITE) != 0 && (flags & MAP_SHARED) != 0 &&
        fstat(fd, &status) == 0 && status.st_size <= (1 << 20)) {
      bool is_known = false;
      for (const std::string& each : mapped_paths) is_known |= each == path;
      if (!is_known) {
        mapped_paths.push_back(path);
        mapped_contents.emplace_back();
      }
    }
  }
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, size, protection, flags, fd, offset));
}
EXPORT void* mmap(void* address, size_t size, int protection, int flags, int fd,
                  off_t offset) noexcept {
  return map(address, size, protection, flags, fd, offset);
}
EXPORT void* mmap64(void* address, size_t size, int protection, int flags, int fd,
                    off64_t offset) noexcept {
  return map(address, size, protection, flags, fd, offset);
}

static int rename_with(int old_folder, const char* old_path, int folder, const char* path) {
  const std::string from = absolute(old_folder, old_path), to = absolute(folder, path);
  if (const int error = fault_of(kRename, to); error > 0) return failed(error);
  const Recorded recorded(to);
  const long done = syscall(SYS_renameat2, old_folder, old_path, folder, path, 0);
  if (recorded && done == 0) note(kRename, 0, from, to, 0, 0, nullptr);
  return static_cast<int>(done);
}
EXPORT int rename(const char* old_path, const char* path) noexcept {
  return rename_with(AT_FDCWD, old_path, AT_FDCWD, path);
}
EXPORT int renameat(int old_folder, const char* old_path, int folder, const char* path) noexcept {
  return rename_with(old_folder, old_path, folder, path);
}

static int unlink_with(int folder, const char* path, int flags) {
  const std::string gone = absolute(folder, path);
  const Recorded recorded(gone);
  const long done = syscall(SYS_unlinkat, folder, path, flags);
  if (recorded && done == 0) {
    const int kept = errno;
    note((flags & AT_REMOVEDIR) != 0 ? kRemoveFolder : kUnlink, 0, gone, "", 0, 0, nullptr);
    errno = kept;
  }
  return static_cast<int>(done);
}
EXPORT int unlink(const char* path) noexcept { return unlink_with(AT_FDCWD, path, 0); }
EXPORT int unlinkat(int folder, const char* path, int flags) noexcept {
  return unlink_with(folder, path, flags);
}
EXPORT int rmdir(const char* path) noexcept { return unlink_with(AT_FDCWD, path, AT_REMOVEDIR); }

EXPORT int mkdir(const char* path, mode_t mode) noexcept {
  const std::string made = absolute(AT_FDCWD, path);
  const Recorded recorded(made);
  const long done = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
  if (recorded && done == 0) note(kMakeFolder, 0, made, "", 0, 0, nullptr);
  return static_cast<int>(done);
}

}  // extern "C"
