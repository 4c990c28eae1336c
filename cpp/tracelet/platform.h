// The one place that talks to the operating system: mapped files, waiting on a word, process ids,
// appending. Written twice: platform.cpp for POSIX, platform_windows.cpp, which is experimental.
// Nothing else of the core includes a header of the operating system.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace tracelet {

// A file mapped for reading and writing, shared with forked children. The mapping covers
// `reserved_bytes` of address space from the start, of which the file backs `size_bytes()`;
// grow() backs more of it in place, so pointers into the mapping stay good.
class MappedFile {
 public:
  // Creates `path` (it must not exist, mode 0600) with `size_bytes` of space really allocated: a
  // sparse mapping on a full file system would be a SIGBUS in the middle of training. An empty path
  // is anonymous memory, for benchmarks, on Linux.
  // Throws std::system_error.
  static MappedFile create(const std::string& path, std::size_t size_bytes,
                           std::size_t reserved_bytes);
  // Maps an existing file, for a reader of another process' ring. Throws std::system_error.
  static MappedFile open(const std::string& path, std::size_t reserved_bytes);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;
  ~MappedFile();

  std::byte* data() const { return data_; }
  const std::string& path() const { return path_; }
  // Whether its path still names it. True when it can't be told.
  bool is_named() const;
  std::size_t reserved_bytes() const { return reserved_bytes_; }
  // The size of the file now: another process may have grown it.
  std::size_t size_bytes() const;
  // Allocates space up to `size_bytes`. False when the file system is full or the reserve is used
  // up; the file is then as it was.
  bool grow(std::size_t size_bytes) noexcept;
  // Has what is in it now reach the disk. Returns 0, or errno.
  int sync() const noexcept;

 private:
  MappedFile(std::string path, int fd, std::byte* data, std::size_t reserved_bytes);

  std::string path_;
  int fd_;
  std::byte* data_;
  std::size_t reserved_bytes_;
};

// Sleeps until `word` differs from `expected`, a wake_all on it, or the timeout. May return early.
// Works between processes that share the word's memory, and needs no lock that a fork could copy
// in its locked state.
void wait_on(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
             std::chrono::nanoseconds timeout);
void wake_all(std::atomic<std::uint32_t>& word);

namespace detail {
// Written when the library is loaded and by the fork handler, in a child that has one thread; read
// by every producer. No other bytes depend on it, so relaxed is enough.
extern std::atomic<std::uint32_t> cached_pid;
}  // namespace detail

// Cached, and renewed in forked children: getpid is a system call, and each record carries the pid.
inline std::uint32_t current_pid() { return detail::cached_pid.load(std::memory_order_relaxed); }
// Whether any thread of the process may still run: a zombie is dead once all of its threads are.
bool process_is_alive(std::uint32_t pid);
// Whether this process is a forked child of the one that loaded this library.
bool is_forked();
// How many cores this process may use.
int usable_cores();
// Whether the processor has the instruction for CRC-32C that crc32c.cpp knows.
bool has_crc32c_instruction();

// CPU time that the calling thread has used.
std::int64_t thread_cpu_time_ns();

// Files by descriptor. Each may be called from any thread; what fails is told by errno's values.
//
// For reading and for appending, which makes the file (mode 0644). -1 with errno set on failure.
int open_to_read(const std::string& path) noexcept;
int open_to_append(const std::string& path) noexcept;
// For reading what a dead process left: a regular file of this user's, opened without following a
// link and without waiting for a FIFO's other end. -1 with errno set: EACCES for another's, EINVAL
// for what is no regular file.
int open_to_recover(const std::string& path) noexcept;
void close_file(int fd) noexcept;
// Holds a file together with others (flock, by an open of its own), until it is closed or the
// process ends. Waits 0.1 s for one that has it for itself. -1 with errno set: EWOULDBLOCK for that
// one; where there are no such locks the file is just open.
int hold_file(const std::string& path) noexcept;
// -1 when it can't be told.
std::int64_t file_size_bytes(int fd) noexcept;
// Whether there is a file of that name; true when it can't be told.
bool is_there(const std::string& path) noexcept;
// Whether `path` still names the open file: not when the file or a folder above it was deleted or
// moved, and maybe made anew. True when it can't be told.
bool is_named(int fd, const std::string& path) noexcept;
// Reads up to `size_bytes` at `offset`. Returns how many were read: 0 at the file's end, -1 on
// failure.
std::int64_t read_at(int fd, char* out, std::size_t size_bytes, std::int64_t offset) noexcept;
// Writes all of `data` at the end of `fd`, opened to append. Returns 0, or the errno of the write
// that failed; `written_bytes` tells how much of it is in the file all the same.
int write_all(int fd, const char* data, std::size_t size_bytes,
              std::size_t* written_bytes) noexcept;
// Where the last write through `fd` ended: others may append in between. -1 when it can't be told.
std::int64_t end_of_last_write(int fd) noexcept;
// Puts blanks over bytes that are in the file. Returns 0, or errno.
int blank_out(const std::string& path, std::int64_t offset, std::size_t size_bytes) noexcept;
// Has the file's content, or the names in a folder, reach the disk; waits for it. Returns 0, or
// errno: ENOENT for one that is not there.
int sync_file(const std::string& path) noexcept;
int sync_folder(const std::string& path) noexcept;
// Cuts the file to `size_bytes`. Returns 0, or errno.
int truncate_file(int fd, std::int64_t size_bytes) noexcept;

}  // namespace tracelet
