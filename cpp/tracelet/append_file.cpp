#include "tracelet/append_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "tracelet/platform.h"

namespace tracelet {

bool append_content(const std::string& path, std::string& out) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat status;
  bool is_read = fstat(fd, &status) == 0;
  std::size_t done = out.size();
  if (is_read) {
    const std::size_t size = done + static_cast<std::size_t>(status.st_size);
    out.reserve(size + sizeof(std::uint32_t));  // what follows: a checksum, without another copy
    out.resize(size);
  }
  while (is_read && done < out.size()) {
    const ssize_t count = ::read(fd, out.data() + done, out.size() - done);
    if (count < 0 && errno == EINTR) continue;
    is_read = count > 0;
    done += is_read ? static_cast<std::size_t>(count) : 0;
  }
  ::close(fd);
  return is_read;
}

AppendFile::AppendFile(const std::string& path)
    : path_(path), fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "cannot open " + path);
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

AppendFile::~AppendFile() {
  if (fd_ >= 0) close(fd_);
}

void AppendFile::append(std::string_view piece) {
  struct stat before;
  const bool size_is_known = fstat(fd_, &before) == 0;
  const int error = write_all(fd_, piece.data(), piece.size());
  if (error == 0) return;
  if (size_is_known && ftruncate(fd_, before.st_size) != 0) {
    // Nothing left to do: readers of both formats skip a torn end.
  }
  throw std::system_error(error, std::generic_category(), "cannot write to " + path_);
}

bool AppendFile::is_empty() const {
  struct stat status;
  return fstat(fd_, &status) == 0 && status.st_size == 0;
}

void AppendFile::wait_for_whole_line() const {
  for (int tries = 0; tries < 100; ++tries) {
    struct stat status;
    char last;
    if (fstat(fd_, &status) != 0 || status.st_size == 0) return;
    if (pread(fd_, &last, 1, status.st_size - 1) != 1 || last == '\n') return;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

}  // namespace tracelet
