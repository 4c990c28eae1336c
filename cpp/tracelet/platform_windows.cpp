// platform.h on Windows. EXPERIMENTAL: CI compiles it with mingw-w64, each function has been run
// under Wine once, nobody has trained with it.
//
// What differs from POSIX: there is no fork, so a ring has one process; a file is mapped with all
// of its address space, as a sparse file, whose later blocks get their space when they are written.
#include "tracelet/platform.h"

// clang-format off: the others need windows.h before them.
#include <windows.h>
#include <winioctl.h>
// clang-format on
#include <fcntl.h>
#include <io.h>
#include <share.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

namespace tracelet {
namespace {

[[noreturn]] void throw_last_error(const std::string& what) {
  throw std::system_error(static_cast<int>(GetLastError()), std::system_category(), what);
}

HANDLE handle_of(int fd) { return reinterpret_cast<HANDLE>(_get_osfhandle(fd)); }

// Paths are UTF-8, as Python gives them.
std::wstring wide(const std::string& path) {
  const int bytes = static_cast<int>(path.size());
  const int size = MultiByteToWideChar(CP_UTF8, 0, path.data(), bytes, nullptr, 0);
  std::wstring out(static_cast<std::size_t>(std::max(size, 0)), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.data(), bytes, out.data(), size);
  return out;
}

// Not inherited by children, and others may open and remove the file meanwhile, as on POSIX.
// -1 with GetLastError and errno set.
int open_file(const std::string& path, DWORD access, DWORD disposition, int flags) noexcept {
  constexpr DWORD kShareAll = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
  HANDLE handle = INVALID_HANDLE_VALUE;
  try {
    handle = CreateFileW(wide(path).c_str(), access, kShareAll, nullptr, disposition,
                         FILE_ATTRIBUTE_NORMAL, nullptr);
  } catch (...) {  // no memory for the path
    SetLastError(ERROR_NOT_ENOUGH_MEMORY);
  }
  if (handle == INVALID_HANDLE_VALUE) {
    const std::error_code error(static_cast<int>(GetLastError()), std::system_category());
    errno = error.default_error_condition().value();
    return -1;
  }
  const int fd = _open_osfhandle(reinterpret_cast<std::intptr_t>(handle), flags | _O_BINARY);
  if (fd < 0) CloseHandle(handle);
  return fd;
}

std::byte* map_shared(int fd, std::size_t reserved_bytes, const std::string& path) {
  const auto high = static_cast<DWORD>(std::uint64_t{reserved_bytes} >> 32);
  const auto low = static_cast<DWORD>(reserved_bytes);
  // Grows a shorter file to this size. The view keeps the section alive.
  HANDLE section = CreateFileMappingW(handle_of(fd), nullptr, PAGE_READWRITE, high, low, nullptr);
  if (section == nullptr) throw_last_error("cannot map " + path);
  void* address = MapViewOfFile(section, FILE_MAP_READ | FILE_MAP_WRITE, 0, 0, reserved_bytes);
  CloseHandle(section);
  if (address == nullptr) throw_last_error("cannot map " + path);
  return static_cast<std::byte*>(address);
}

// A page that is written has its space, or the write fails here and not in a training step.
void touch_pages(std::byte* data, std::size_t size_bytes) {
  constexpr std::size_t kPageBytes = 4096;
  for (std::size_t offset = 0; offset < size_bytes; offset += kPageBytes) {
    *static_cast<volatile std::byte*>(data + offset) = std::byte{0};
  }
}

}  // namespace

MappedFile::MappedFile(std::string path, int fd, std::byte* data, std::size_t reserved_bytes)
    : path_(std::move(path)), fd_(fd), data_(data), reserved_bytes_(reserved_bytes) {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      reserved_bytes_(other.reserved_bytes_) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) UnmapViewOfFile(data_);
  if (fd_ >= 0) _close(fd_);
}

MappedFile MappedFile::create(const std::string& path, std::size_t size_bytes,
                              std::size_t reserved_bytes) {
  const int fd = open_file(path, GENERIC_READ | GENERIC_WRITE, CREATE_NEW, _O_RDWR);
  if (fd < 0) throw_last_error("cannot create " + path);
  try {
    DWORD returned = 0;
    DeviceIoControl(handle_of(fd), FSCTL_SET_SPARSE, nullptr, 0, nullptr, 0, &returned, nullptr);
    std::byte* data = map_shared(fd, reserved_bytes, path);
    touch_pages(data, size_bytes);
    return MappedFile(path, fd, data, reserved_bytes);
  } catch (...) {
    _close(fd);
    DeleteFileW(wide(path).c_str());
    throw;
  }
}

MappedFile MappedFile::open(const std::string& path, std::size_t reserved_bytes) {
  const int fd = open_file(path, GENERIC_READ | GENERIC_WRITE, OPEN_EXISTING, _O_RDWR);
  if (fd < 0) throw_last_error("cannot open " + path);
  try {
    return MappedFile(path, fd, map_shared(fd, reserved_bytes, path), reserved_bytes);
  } catch (...) {
    _close(fd);
    throw;
  }
}

std::size_t MappedFile::size_bytes() const {
  const std::int64_t size = file_size_bytes(fd_);
  return size < 0 ? 0 : static_cast<std::size_t>(size);
}

// All of the reserve is in the file from the start.
bool MappedFile::grow(std::size_t size_bytes) noexcept { return size_bytes <= reserved_bytes_; }

int MappedFile::sync() const noexcept { return FlushViewOfFile(data_, 0) != 0 ? 0 : EIO; }

void wait_on(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
             std::chrono::nanoseconds timeout) {
  const auto whole_ms = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
  auto* address = const_cast<std::atomic<std::uint32_t>*>(&word);
  WaitOnAddress(address, &expected, sizeof(expected), static_cast<DWORD>(whole_ms));
}

void wake_all(std::atomic<std::uint32_t>& word) { WakeByAddressAll(&word); }

bool is_forked() { return false; }

bool has_crc32c_instruction() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("sse4.2") != 0;
#else
  return false;
#endif
}

int usable_cores() {
  DWORD_PTR ours = 0;
  DWORD_PTR all = 0;
  if (GetProcessAffinityMask(GetCurrentProcess(), &ours, &all) != 0 && ours != 0) {
    return std::popcount(std::uint64_t{ours});
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::atomic<std::uint32_t> detail::cached_pid{GetCurrentProcessId()};  // there is no fork

bool process_is_alive(std::uint32_t pid) {
  HANDLE process = OpenProcess(SYNCHRONIZE, FALSE, pid);
  if (process == nullptr) return GetLastError() == ERROR_ACCESS_DENIED;
  const bool is_alive = WaitForSingleObject(process, 0) == WAIT_TIMEOUT;
  CloseHandle(process);
  return is_alive;
}

std::int64_t thread_cpu_time_ns() {
  FILETIME created, ended, kernel, user;
  if (GetThreadTimes(GetCurrentThread(), &created, &ended, &kernel, &user) == 0) return 0;
  const auto ns = [](const FILETIME& time) {
    return ((std::int64_t{time.dwHighDateTime} << 32) | time.dwLowDateTime) * 100;
  };
  return ns(kernel) + ns(user);
}

int open_to_read(const std::string& path) noexcept {
  return open_file(path, GENERIC_READ, OPEN_EXISTING, _O_RDONLY);
}

int open_to_recover(const std::string& path) noexcept { return open_to_read(path); }

int open_to_append(const std::string& path) noexcept {
  return open_file(path, GENERIC_READ | GENERIC_WRITE, OPEN_ALWAYS, _O_RDWR | _O_APPEND);
}

void close_file(int fd) noexcept { _close(fd); }

int hold_file(const std::string& path) noexcept { return open_to_read(path); }

bool MappedFile::is_named() const { return true; }

std::int64_t file_size_bytes(int fd) noexcept { return _filelengthi64(fd); }

bool is_there(const std::string& path) noexcept {
  return GetFileAttributesA(path.c_str()) != INVALID_FILE_ATTRIBUTES;
}

// A file that is open is neither deleted nor moved there.
bool is_named(int, const std::string&) noexcept { return true; }

std::int64_t read_at(int fd, char* out, std::size_t size_bytes, std::int64_t offset) noexcept {
  OVERLAPPED place{};
  place.Offset = static_cast<DWORD>(offset);
  place.OffsetHigh = static_cast<DWORD>(offset >> 32);
  const auto wanted = static_cast<DWORD>(std::min<std::size_t>(size_bytes, 1U << 30));
  DWORD count = 0;
  if (ReadFile(handle_of(fd), out, wanted, &count, &place) != 0) return count;
  return GetLastError() == ERROR_HANDLE_EOF ? 0 : -1;
}

int write_all(int fd, const char* data, std::size_t size_bytes,
              std::size_t* written_bytes) noexcept {
  *written_bytes = 0;
  while (*written_bytes < size_bytes) {
    const std::size_t left = size_bytes - *written_bytes;
    const auto piece = static_cast<unsigned>(std::min<std::size_t>(left, 1U << 30));
    const int written = _write(fd, data + *written_bytes, piece);
    if (written <= 0) return written < 0 ? errno : ENOSPC;
    *written_bytes += static_cast<std::size_t>(written);
  }
  return 0;
}

std::int64_t end_of_last_write(int fd) noexcept { return _telli64(fd); }

int blank_out(const std::string&, std::int64_t, std::size_t) noexcept { return ENOSYS; }

int sync_file(const std::string& path) noexcept {
  if (!is_there(path)) return ENOENT;
  const int fd = open_to_append(path);  // a handle for reading can't be flushed
  if (fd < 0) return errno;
  const int error = FlushFileBuffers(handle_of(fd)) != 0 ? 0 : EIO;
  close_file(fd);
  return error;
}

int sync_folder(const std::string&) noexcept { return 0; }  // no folder can be opened

int truncate_file(int fd, std::int64_t size_bytes) noexcept { return _chsize_s(fd, size_bytes); }

}  // namespace tracelet
