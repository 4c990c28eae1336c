#include "tracelet/stored_file.h"

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "tracelet/platform.h"

namespace tracelet {

StoredFile::StoredFile(std::string path, int fd, std::string bytes, std::uint64_t size_bytes)
    : path_(std::move(path)), fd_(fd), bytes_(std::move(bytes)), size_bytes_(size_bytes) {}

StoredFile StoredFile::open(const std::string& path) {
  const int fd = open_to_recover(path);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "cannot open " + path);
  const std::int64_t size_bytes = file_size_bytes(fd);
  return {path, fd, {}, static_cast<std::uint64_t>(size_bytes < 0 ? 0 : size_bytes)};
}

StoredFile StoredFile::of_bytes(std::string name, std::string bytes) {
  const std::uint64_t size_bytes = bytes.size();
  return {std::move(name), -1, std::move(bytes), size_bytes};
}

StoredFile::StoredFile(StoredFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      bytes_(std::move(other.bytes_)),
      size_bytes_(other.size_bytes_) {}

StoredFile::~StoredFile() {
  if (fd_ >= 0) close_file(fd_);
}

bool StoredFile::read(std::uint64_t offset, void* out, std::size_t size_bytes) const noexcept {
  if (offset > size_bytes_ || size_bytes > size_bytes_ - offset) return false;
  if (size_bytes == 0) return true;
  if (fd_ < 0) {
    std::memcpy(out, bytes_.data() + offset, size_bytes);
    return true;
  }
  for (std::size_t done = 0; done < size_bytes;) {
    const std::int64_t count = read_at(fd_, static_cast<char*>(out) + done, size_bytes - done,
                                       static_cast<std::int64_t>(offset + done));
    if (count <= 0) return false;
    done += static_cast<std::size_t>(count);
  }
  return true;
}

std::string StoredFile::content(std::uint64_t most_bytes) const {
  if (size_bytes_ > most_bytes) {
    throw StoredFileError(path_ + " has " + std::to_string(size_bytes_) +
                          " bytes, more than any such file of tracelet's");
  }
  std::string bytes(static_cast<std::size_t>(size_bytes_), '\0');
  if (!read(0, bytes.data(), bytes.size())) throw StoredFileError(path_ + " can't be read");
  return bytes;
}

}  // namespace tracelet
