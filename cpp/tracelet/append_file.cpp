#include "tracelet/append_file.h"

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "tracelet/platform.h"

namespace tracelet {

bool append_content(const std::string& path, std::string& out) {
  const int fd = open_to_read(path);
  if (fd < 0) return false;
  const std::size_t start = out.size();
  const std::int64_t file_bytes = file_size_bytes(fd);
  bool is_read = file_bytes >= 0;
  if (is_read) {
    const std::size_t size = start + static_cast<std::size_t>(file_bytes);
    out.reserve(size + sizeof(std::uint32_t));  // what follows: a checksum, without another copy
    out.resize(size);
  }
  for (std::size_t done = start; is_read && done < out.size();) {
    const std::int64_t count =
        read_at(fd, out.data() + done, out.size() - done, static_cast<std::int64_t>(done - start));
    is_read = count > 0;
    done += is_read ? static_cast<std::size_t>(count) : 0;
  }
  close_file(fd);
  return is_read;
}

AppendFile::AppendFile(const std::string& path) : path_(path), fd_(open_to_append(path)) {
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "cannot open " + path);
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

AppendFile::~AppendFile() {
  if (fd_ >= 0) close_file(fd_);
}

std::uint64_t AppendFile::append(std::string_view piece) {
  const std::int64_t size_before = file_size_bytes(fd_);
  const int error = write_all(fd_, piece.data(), piece.size());
  if (error == 0) {
    return static_cast<std::uint64_t>(size_before < 0 ? 0 : size_before) + piece.size();
  }
  if (size_before >= 0 && truncate_file(fd_, size_before) != 0) {
    // Nothing left to do: readers of both formats skip a torn end.
  }
  throw std::system_error(error, std::generic_category(), "cannot write to " + path_);
}

bool AppendFile::is_empty() const { return file_size_bytes(fd_) == 0; }

bool AppendFile::is_named() const { return tracelet::is_named(fd_, path_); }

void AppendFile::wait_for_whole_line() const {
  for (int tries = 0; tries < 100; ++tries) {
    const std::int64_t size = file_size_bytes(fd_);
    char last;
    if (size <= 0) return;
    if (read_at(fd_, &last, 1, size - 1) != 1 || last == '\n') return;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

}  // namespace tracelet
